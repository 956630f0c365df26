"""What each run reached, metric by metric, and which is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.compare.runs import PARTS, ComparedRun

_HIGHER = (
    *("score", "score/best", "score/value", "score/pseudo_pair_gain_db", "score/shell_gain"),
    *("score/pseudo_pair_fitted_gain_db", "score/lowpass_correlation", "score/cross_half_gain_db"),
)
_LOWER = (
    *("score/spectrum_distance_db", "score/sliced_wasserstein", "score/shell_gap"),
    "score/checkerboard",
)
_HIGHER_BEGIN, _LOWER_BEGIN = ("psnr/", "ssim/"), ("resolution_voxels/",)
_LEFT_OUT = ("hparam/", "rate/", "system/", "rollback")
_COUNTERS = ("step", "iteration", "nonfinite")


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric of all runs."""

    name: str
    values: tuple[float | None, ...]
    best: frozenset[int]
    """Places of the best values; empty where there is no better and worse, or no comparison."""


def judged_rows(runs: Sequence[ComparedRun], *, comparable: bool = True) -> list[MetricRow]:
    """The score that counts, where it was reached, and its parts there.

    `comparable`: whether one may be called the best.
    """
    rows = [
        _row("score", [run.score for run in runs], comparable=comparable),
        MetricRow(name="at iteration", values=tuple(run.judged for run in runs), best=frozenset()),
    ]
    for name in (f"score/{part}" for part in PARTS):
        rows.append(_row(name, [run.parts.get(name) for run in runs], comparable=comparable))
    return [row for row in rows if any(value is not None for value in row.values)]


def last_rows(runs: Sequence[ComparedRun], *, comparable: bool = True) -> list[MetricRow]:
    """The last value of every metric but hyperparameters and counters."""
    names = dict.fromkeys(name for run in runs for name in run.info.metrics)
    shown = [n for n in names if not n.startswith(_LEFT_OUT) and n not in _COUNTERS]
    return [
        _row(name, [run.info.metrics.get(name) for run in runs], comparable=comparable)
        for name in sorted(shown, key=_order)
    ]


def _row(name: str, values: Sequence[float | None], *, comparable: bool) -> MetricRow:
    known = [value for value in values if value is not None and math.isfinite(value)]
    chosen = _direction(name) if comparable and len(known) > 1 else None
    wanted = chosen(known) if chosen else None
    best = frozenset(i for i, value in enumerate(values) if wanted is not None and value == wanted)
    if len(best) == len(known):  # all the same
        best = frozenset()
    return MetricRow(name=name, values=tuple(values), best=best)


def _direction(name: str) -> Callable[[Sequence[float]], float] | None:
    if name in _HIGHER or name.startswith(_HIGHER_BEGIN):
        return max
    return min if name in _LOWER or name.startswith(_LOWER_BEGIN) else None


def _order(name: str) -> tuple[int, str]:
    begins = ("score", "psnr/", "ssim/", "resolution", "loss/")
    place = next((i for i, begin in enumerate(begins) if name.startswith(begin)), len(begins))
    return place, name
