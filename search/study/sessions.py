"""How long a study has been run: the time covered by all its calls together.

Every worker notes when it began and when it was last seen, under a key of its own in the study's
attributes; time in which several worked counts once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import optuna

_PREFIX = "session:"


def touch(study: optuna.Study, owner: str, now: float | None = None) -> None:
    """Note that the worker `owner` is at work now (seconds since 1970)."""
    now = round(time.time() if now is None else now, 3)
    begun, _ = study.user_attrs.get(_PREFIX + owner, (now, now))
    study.set_user_attr(_PREFIX + owner, [begun, now])


def hours(attributes: Mapping[str, Any], now: float | None = None) -> float:
    """Wall-clock hours of running, from a study's user attributes.

    With `now` (seconds since 1970) the time since a worker was last seen counts, too.
    """
    noted = [value for key, value in attributes.items() if key.startswith(_PREFIX)]
    spans = [(float(begun), float(last)) for begun, last in noted]
    if now is not None and spans:
        spans.append((max(last for _, last in spans), now))
    return _covered(spans) / 3600


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begun, last in sorted(intervals):
        total += max(0.0, last - max(begun, reached))
        reached = max(reached, last)
    return total
