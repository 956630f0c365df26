"""Round whole numbers up without floating point; keep NaN and infinity out of JSON and charts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def ceil_div(number: int, divisor: int) -> int:
    """Return `number / divisor`, rounded up: the parts of size `divisor` that `number` fills."""
    return -(-number // divisor)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `number`."""
    return ceil_div(number, multiple) * multiple


def finite_or_none(value: float | None) -> float | None:
    """Return the value; None for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


def only_finite(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out NaN and infinity: MLflow stores infinity as 1.8e308, which flattens a chart."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def strict_json(value: object) -> str:
    """Write JSON that every reader takes: NaN and infinity become null, other objects text."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return finite_or_none(value)
    return value if value is None or isinstance(value, str | int) else str(value)
