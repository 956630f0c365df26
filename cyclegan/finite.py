"""Leave out NaN and infinity, or turn them into None: neither JSON nor a chart can hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


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
