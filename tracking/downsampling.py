"""Turn the trainer's metrics into samples for charts: pure functions without a store.

The x axis of every chart is the iteration, which no rollback rewinds: a step logged twice would
draw a saw-tooth. The training step is a curve of its own, `step`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclegan.history import Row

DISCRIMINATORS = ("D_A", "D_B")


@dataclass(frozen=True)
class Sample:
    """Values of one iteration, ready for the store."""

    iteration: int
    values: Mapping[str, float]
    time_ms: int
    """Wall time, in ms since 1970. A sample written twice with the same time counts once."""


def row_values(row: Row) -> dict[str, float]:
    """Return a row as charted: `step`, its losses, and rates in place of truth tables' counts."""
    values = {name: value for name, value in row.values.items() if not name.startswith("truth/")}
    for name in DISCRIMINATORS:
        counts = {
            cell: row.values[f"truth/{name}_{cell}"]
            for cell in ("TP", "FN", "FP", "TN")
            if f"truth/{name}_{cell}" in row.values
        }
        if len(counts) == 4:
            values |= {f"{name}/{key}": value for key, value in rates(**counts).items()}
    return {"step": float(row.step), **values}


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the rows as one in place of the last: means of finite values, sums of counts.

    A value that is never finite stays NaN.
    """
    values: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row.values):
        known = [row.values[name] for row in rows if name in row.values]
        column = [value for value in known if math.isfinite(value)]
        parts = 1 if name.startswith("truth/") else len(column)
        values[name] = math.fsum(column) / parts if column else math.nan
    return replace(rows[-1], values=values)


def spans(rows: Sequence[Row], ends: Iterable[int]) -> dict[int, list[Row]]:
    """Group rows by the iterations `ends` at which the groups end; drop later rows.

    `rows` are in order; an end without rows has no group.
    """
    groups: dict[int, list[Row]] = {}
    wanted = iter(sorted(set(ends)))
    end = next(wanted, None)
    for row in rows:
        while end is not None and row.iteration > end:
            end = next(wanted, None)
        if end is None:
            break
        groups.setdefault(end, []).append(row)
    return groups


def rates(*, TP: float, FN: float, FP: float, TN: float) -> dict[str, float]:
    """Return rates from a discriminator's counts of real and generated patches.

    `accuracy`: share of patches judged right, 0.5 if it guesses. `false_positive_rate`: share of
    the generated patches that it took for real, which is the generator's success.
    """
    judged, generated = TP + FN + FP + TN, FP + TN
    return {
        "accuracy": (TP + TN) / judged if judged else math.nan,
        "false_positive_rate": FP / generated if generated else math.nan,
    }


def metric_name(name: str) -> str:
    """Return `name` with only characters that MLflow allows; loss terms may have any name."""
    parts = [re.sub(r"[^\w.\- ]", "_", part).strip() for part in name.split("/")]
    return "/".join(part for part in parts if part.strip(".")) or "_"


def merge(samples: Iterable[Sample]) -> list[Sample]:
    """Return one sample per iteration, in order; later values replace earlier ones."""
    merged: dict[int, Sample] = {}
    for sample in samples:
        known = merged.get(sample.iteration)
        if known is None:
            merged[sample.iteration] = sample
        else:
            values = {**known.values, **sample.values}
            merged[sample.iteration] = Sample(sample.iteration, values, known.time_ms)
    return [merged[iteration] for iteration in sorted(merged)]


def batches(samples: Sequence[Sample], limit: int) -> list[list[Sample]]:
    """Split samples into groups of at most `limit` values each; a sample is never split."""
    result: list[list[Sample]] = []
    size = limit
    for sample in samples:
        if size + len(sample.values) > limit:
            result.append([])
            size = 0
        result[-1].append(sample)
        size += len(sample.values)
    return result


def interpolate(
    iterations: Sequence[int], first: tuple[int, float], last: tuple[int, float]
) -> list[int]:
    """Return wall times in ms of `iterations`, from (iteration, seconds) at the span's ends."""
    (begin, time_begin), (end, time_end) = first, last
    rate = (time_end - time_begin) / max(end - begin, 1)
    return [round(1000 * (time_begin + (i - begin) * rate)) for i in iterations]
