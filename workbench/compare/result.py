"""A comparison as plain values: for `--json`, and what text and page are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cyclegan.metrics.agreement import HALF
from tracking.retention import kind_of
from workbench.compare.measured import Compared, PairAgreement
from workbench.compare.metrics import MetricRow, judged_rows, last_rows
from workbench.compare.parameters import (
    DataCheck,
    Differing,
    data_check,
    environment,
    parameters,
    warnings,
)
from workbench.compare.runs import ComparedRun


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that was found out about some runs."""

    runs: Sequence[ComparedRun]
    parameters: Differing
    environment: Differing
    data: DataCheck
    warnings: Sequence[str]
    judged: Sequence[MetricRow]
    last: Sequence[MetricRow]
    images: Compared

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not finite is None."""
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


def compared(runs: Sequence[ComparedRun], images: Compared) -> Comparison:
    """Put together what there is."""
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


def _run(run: ComparedRun, images: Compared) -> dict[str, Any]:
    return {
        "number": run.number,
        "id": run.info.id,
        "name": run.info.name,
        "kind": kind_of(run.info),
        "experiment": run.info.experiment,
        "status": run.info.status,
        "outcome": run.outcome,
        "reason": run.reason,
        "score": _finite(run.score),
        "judged": run.judged,
        "steps": run.steps,
        "seconds": run.seconds,
        "images_of": images.iterations.get(run.number),
    }


def _differing(found: Differing) -> dict[str, Any]:
    return {"differ": {n: list(v) for n, v in found.values.items()}, "same": found.same}


def _rows(rows: Sequence[MetricRow]) -> dict[str, Any]:
    return {
        row.name: {
            "values": [_finite(value) for value in row.values],
            "best": [i + 1 for i in sorted(row.best)],
        }
        for row in rows
    }


def _images(images: Compared) -> dict[str, Any]:
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
        "agree_to_voxels": None if found.voxels is None else _finite(found.voxels),
        "fsc": None if curve is None else _curve(curve.frequencies, curve.correlation),
    }


def _curve(frequencies: Any, values: Any) -> dict[str, list[float]]:
    return {"frequency": [float(f) for f in frequencies], "value": [float(v) for v in values]}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
