"""A comparison as plain values, with its metrics and images: the source of JSON, text and page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyclegan.data.voxel_size import VoxelSize
from cyclegan.metrics.agreement import (
    HALF,
    Blocks,
    Curve,
    Difference,
    ImageDifferences,
    mean_power,
    shell_agreement,
)
from cyclegan.metrics.correlation import ShellCorrelation
from cyclegan.numbers import finite_or_none
from tracking.retention import kind_of
from viz.pictures import Picture
from viz.viewer import Layer
from workbench.compare.runs import (
    PARTS,
    ComparedRun,
    DataCheck,
    UnequalValues,
    data_check,
    environment,
    parameters,
    warnings,
)

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Agreement of two runs' images."""

    difference: Difference
    """Statistics of the second image less the first."""
    curve: ShellCorrelation | None
    """Fourier shell correlation; None if the images are too small for shells."""

    @property
    def voxels(self) -> float | None:
        """Finest period of agreement in voxels: 2 is Nyquist; infinite if there is none."""
        return None if self.curve is None else self.curve.resolution(HALF).voxels


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Central slices of a run's images, by name: `real_A`, `fake_B`, ... or `enhanced`."""

    slices: Mapping[str, Picture]
    caption: str
    whole: Picture | None = None
    """All slices as one picture, with titles."""
    same_input: bool = True
    """True if the run starts from the same image as the first run shown."""


@dataclass(frozen=True, kw_only=True)
class ComparedImages:
    """The compared images; runs are given by their numbers."""

    what: str
    """`fake_B` or `enhanced`."""
    runs: tuple[int, ...] = ()
    """Runs that were measured: their images have the same region and resolution."""
    iterations: Mapping[int, int] = field(default_factory=dict)
    """Iteration of the validation that made each run's images; empty for enhancements."""
    pairs: Mapping[Pair, PairAgreement] = field(default_factory=dict)
    spectra: Mapping[int, Curve] = field(default_factory=dict)
    references: Mapping[str, Curve] = field(default_factory=dict)
    """Spectra of real images: of the target (`real_B`) and of the input (`real_A`)."""
    shown: Mapping[int, Shown] = field(default_factory=dict)
    differences: Mapping[Pair, Picture] = field(default_factory=dict)
    """Central slices of second less first, red where the second is brighter, blue where darker."""
    layers: tuple[Layer, ...] = ()
    """Volumes for the viewer."""
    limit: float = 0.0
    """Grey values that the strongest red and blue stand for."""
    voxel_um: float | None = None
    """Edge of a cubic voxel in micrometres; None if it is not known."""
    region: str = ""
    """Description of the region that was measured."""
    remarks: tuple[str, ...] = ()
    """Missing parts and the reasons."""


def agreements(
    numbers: Sequence[int], blocks: Mapping[int, Blocks], found: ImageDifferences
) -> dict[Pair, PairAgreement]:
    """Return the agreement of every pair, from blocks at the same places and whole-image sums.

    Errors: `DataError` if no voxel is finite in all images.
    """
    return {
        (numbers[i], numbers[j]): PairAgreement(
            difference=found.of(i, j),
            curve=shell_agreement(blocks[numbers[i]], blocks[numbers[j]]),
        )
        for i, j in found.pairs
    }


def largest_shown(found: Iterable[PairAgreement]) -> float:
    """Return the difference shown in full colour in the pictures of all pairs."""
    return 4 * max((pair.difference.rms for pair in found), default=0.0)


def spectra(blocks: Mapping[int, Blocks]) -> dict[int, Curve]:
    """Return the mean power of each run's blocks, for those large enough."""
    curves = {number: mean_power(given) for number, given in blocks.items()}
    return {number: curve for number, curve in curves.items() if curve is not None}


def cubic(size: VoxelSize | None) -> float | None:
    """Return the edge of a cubic voxel in micrometres; None if it is no cube, or not known."""
    if size is None or max(size) > 1.01 * min(size):
        return None
    return size[0]


def listed(numbers: Sequence[int]) -> str:
    """Return numbers as text, such as `1, 2 and 5`."""
    *before, last = map(str, numbers)
    return f"{', '.join(before)} and {last}" if before else last


def names_of_runs(numbers: Sequence[int]) -> str:
    """Return runs as text, such as `run 3` or `runs 1 and 2`."""
    return f"run{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def groups(keys: Mapping[int, object]) -> Iterator[list[int]]:
    """Yield the runs with equal keys, the largest group first; on a tie that of the first run."""
    found: dict[object, list[int]] = {}
    for number, key in keys.items():
        found.setdefault(key, []).append(number)
    yield from sorted(found.values(), key=lambda group: -len(group))


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
