"""A comparison as plain values, with its metrics: the source of JSON, text and page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cyclegan.finite import finite_or_none
from cyclegan.metrics.agreement import HALF
from tracking.retention import kind_of
from workbench.compare.measured import ComparedImages, PairAgreement
from workbench.compare.parameters import (
    DataCheck,
    UnequalValues,
    data_check,
    environment,
    parameters,
    warnings,
)
from workbench.compare.runs import PARTS, ComparedRun


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The complete comparison of some runs."""

    runs: Sequence[ComparedRun]
    parameters: UnequalValues
    environment: UnequalValues
    data: DataCheck
    warnings: Sequence[str]
    judged: Sequence[MetricRow]
    last: Sequence[MetricRow]
    images: ComparedImages

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; numbers that are not finite become None."""
        return {
            "runs": [_run(run, self.images) for run in self.runs],
            "parameters": _differing(self.parameters),
            "environment": _differing(self.environment),
            "data": {
                name: {"equal": self.data.equal(name), "values": list(values)}
                for name, values in self.data.hashes.items()
            },
            "comparable": self.data.comparable,
            "warnings": list(self.warnings),
            "metrics": {"judged": _rows(self.judged), "last": _rows(self.last)},
            "images": _images(self.images),
        }


def compared(runs: Sequence[ComparedRun], images: ComparedImages) -> Comparison:
    """Compare everything but the images, and add the given comparison of these."""
    settings, data = parameters(runs), data_check(runs)
    return Comparison(
        runs=runs,
        parameters=settings,
        environment=environment(runs),
        data=data,
        warnings=warnings(runs, data, settings),
        judged=judged_rows(runs, comparable=data.comparable),
        last=last_rows(runs, comparable=data.comparable),
        images=images,
    )


def _run(run: ComparedRun, images: ComparedImages) -> dict[str, Any]:
    return {
        "number": run.number,
        "id": run.info.id,
        "name": run.info.name,
        "kind": kind_of(run.info),
        "experiment": run.info.experiment,
        "status": run.info.status,
        "outcome": run.outcome,
        "reason": run.reason,
        "score": finite_or_none(run.score),
        "judged": run.judged,
        "steps": run.steps,
        "seconds": run.seconds,
        "images_of": images.iterations.get(run.number),
    }


def _differing(found: UnequalValues) -> dict[str, Any]:
    return {"differ": {n: list(v) for n, v in found.values.items()}, "same": found.same}


def _rows(rows: Sequence[MetricRow]) -> dict[str, Any]:
    return {
        row.name: {
            "values": [finite_or_none(value) for value in row.values],
            "best": [i + 1 for i in sorted(row.best)],
        }
        for row in rows
    }


def _images(images: ComparedImages) -> dict[str, Any]:
    return {
        "what": images.what,
        "measured": list(images.runs),
        "region": images.region,
        "voxel_um": images.voxel_um,
        "criterion": HALF,
        "pairs": [_pair(pair, images.pairs[pair]) for pair in images.pairs],
        "spectra": {
            **{str(number): _curve(*curve) for number, curve in images.spectra.items()},
            **{name: _curve(*curve) for name, curve in images.references.items()},
        },
        "missing": list(images.remarks),
    }


def _pair(pair: tuple[int, int], found: PairAgreement) -> Mapping[str, Any]:
    difference, curve = found.difference, found.curve
    return {
        "runs": list(pair),
        "correlation": difference.correlation,
        "mean": difference.mean,
        "rms": difference.rms,
        "largest": difference.largest,
        "agree_to_voxels": finite_or_none(found.voxels),
        "fsc": None if curve is None else _curve(curve.frequencies, curve.correlation),
    }


def _curve(frequencies: Any, values: Any) -> dict[str, list[float]]:
    return {"frequency": [float(f) for f in frequencies], "value": [float(v) for v in values]}


# -- Metrics of each run, and the best of them -------------------------------------------------

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
    """Indices of the best values; empty if none is better, or the runs are not comparable."""


def judged_rows(runs: Sequence[ComparedRun], *, comparable: bool = True) -> list[MetricRow]:
    """Return the score that counts, its iteration, and its parts there.

    `comparable`: mark the best values.
    """
    rows = [
        _row("score", [run.score for run in runs], comparable=comparable),
        MetricRow(name="at iteration", values=tuple(run.judged for run in runs), best=frozenset()),
    ]
    for name in (f"score/{part}" for part in PARTS):
        rows.append(_row(name, [run.parts.get(name) for run in runs], comparable=comparable))
    return [row for row in rows if any(value is not None for value in row.values)]


def last_rows(runs: Sequence[ComparedRun], *, comparable: bool = True) -> list[MetricRow]:
    """Return the last value of every metric but hyperparameters and counters."""
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
