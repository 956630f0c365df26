"""Mean, standard deviation and extrema of a region's finite voxels, streamed in float64.

Moments of parts are merged as in Chan, Golub & LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979. Within a part the first finite voxel is subtracted
before anything is summed, so a large offset costs no digits, and a constant has exactly 0 standard
deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 18
"""Voxels converted to float64 at once: 2 MB, which fit into a processor's cache."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a region's finite voxels, projected from a sample if it is very large."""

    count: int
    """Finite voxels."""
    non_finite: int
    """Voxels that are NaN or infinite."""
    mean: float
    std: float


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations from the mean, and extrema of finite voxels."""

    count: int = 0
    non_finite: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of voxels together."""
        non_finite = self.non_finite + other.non_finite
        if not self.count or not other.count:
            one = self if self.count else other
            return replace(one, non_finite=non_finite)
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            non_finite,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + delta * delta * (self.count * (other.count / count)),
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    def scaled(self, factor: float) -> Moments:
        """Return the moments of `factor` times as many voxels of the same kind."""
        return replace(
            self,
            count=round(self.count * factor),
            non_finite=round(self.non_finite * factor),
            m2=self.m2 * factor,
        )

    @property
    def std(self) -> float:
        """Standard deviation (of the population, as `numpy.std`); 0 without voxels."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0


def moments(array: NDArray[Any]) -> Moments:
    """Return the moments of an array of real numbers of any type and shape."""
    return merged(_piece(part) for part in _pieces(array))


def merged(parts: Iterable[Moments]) -> Moments:
    """Return the moments of all parts together."""
    total = Moments()
    for part in parts:
        total += part
    return total


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Return the statistics of all parts together; those of a single part are left unchanged."""
    if len(parts) == 1:
        return parts[0]
    total = merged(Moments(s.count, s.non_finite, s.mean, s.std**2 * s.count) for s in parts)
    return Statistics(total.count, total.non_finite, total.mean, total.std)


def constant(value: float, count: int) -> Moments:
    """Return the moments of `count` voxels of one value."""
    if not math.isfinite(value):
        return Moments(0, count)
    return Moments(count, 0, float(value), 0.0, float(value), float(value))


def _pieces(array: NDArray[Any]) -> Iterable[NDArray[Any]]:
    """Yield the array in flat pieces, slice by slice along the first axis if not contiguous."""
    if array.ndim > 1 and not array.flags.c_contiguous:
        for part in array:
            yield from _pieces(part)
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]


def _piece(raw: NDArray[Any]) -> Moments:
    values = raw.astype(np.float64)
    non_finite = 0
    if raw.dtype.kind == "f":
        finite = np.isfinite(values)
        non_finite = raw.size - int(np.count_nonzero(finite))
        if non_finite:
            values = values[finite]
    if not values.size:
        return Moments(0, non_finite)
    shift = float(values[0])
    low, high = float(values.min()), float(values.max())
    with np.errstate(over="ignore", invalid="ignore"):  # too large values get no finite std
        values -= shift
        mean = float(values.mean())
        values -= mean
        values *= values  # not a BLAS product, whose last digit depends on the number of threads
        m2 = float(values.sum())
    return Moments(values.size, non_finite, shift + mean, m2, low, high)
