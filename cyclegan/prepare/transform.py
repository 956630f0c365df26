"""Transformation of a volume's intensities to the stored values, and histograms of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cyclegan.data.statistics import Moments, ValidRange

BINS = 2048
_FAR = 10.0
"""Distance of the histogram's ends from the mean, in standard deviations; the end bins also count
the values beyond."""
_PIECE = 1 << 20


class Transform:
    """`(x - mean) / std` in float64, rounded once, with histograms of the input and the output.

    Voxels that are not finite become the mean; values beyond the dtype's range become its limit.
    With `valid`, no-data voxels become the mean, and extreme values the range's limits. Without it
    the values are not standardised.
    """

    def __init__(self, statistics: Moments, dtype: DTypeLike, valid: ValidRange | None) -> None:
        self._dtype = np.dtype(dtype)
        self._limit = float(np.finfo(self._dtype).max)
        self._mean, self._std = statistics.mean, statistics.std
        self._standardise = valid is not None
        self._valid = valid or ValidRange()
        self.before = Histogram.around(statistics)
        scaled = self.before.scaled(self._mean, self._std) if self._standardise else self.before
        self.after = scaled
        self.clipped = 0

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a block (Z, Y, X) as it is stored, and count it in the histograms."""
        result = np.empty(values.shape, self._dtype)
        for piece, out in zip(_pieces(values), _pieces(result), strict=True):
            numbers = piece.astype(np.float64)
            counts = np.isfinite(numbers)
            without_data = self._valid.has_no_data(piece)
            if without_data is not None:
                counts &= ~without_data
            if not counts.all():
                numbers[~counts] = self._mean
            self.before.add(numbers[counts])
            if self._standardise:
                np.clip(numbers, self._valid.low, self._valid.high, out=numbers)
                numbers -= self._mean
                numbers /= self._std
            self.clipped += int(np.count_nonzero(np.abs(numbers) > self._limit))
            out[...] = np.clip(numbers, -self._limit, self._limit)
            if self._standardise:
                self.after.add(out)
        return result

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "before": self.before.counts.tolist(),
            "after": self.after.counts.tolist(),
            "clipped": self.clipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.before.counts = np.asarray(state["before"], np.int64)
        if self._standardise:
            self.after.counts = np.asarray(state["after"], np.int64)
        self.clipped = int(state["clipped"])


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views (rows, X) of a block (Z, Y, X), of about a million voxels: copies stay small."""
    rows = max(1, _PIECE // max(values.shape[2], 1))
    for plane in values:
        for start in range(0, plane.shape[0], rows):
            yield plane[start : start + rows]


class Histogram:
    """Counts in `BINS` equal bins between `low` and `high`; the end bins count values beyond."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high if high > low else low + max(1.0, abs(low))
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    @classmethod
    def around(cls, statistics: Moments) -> Histogram:
        """Return an empty histogram for values with the mean, spread and extrema `statistics`."""
        mean, std = statistics.mean, statistics.std
        low = max(statistics.minimum, mean - _FAR * std)
        return cls(low, min(statistics.maximum, mean + _FAR * std))

    def scaled(self, mean: float, std: float) -> Histogram:
        """Return an empty histogram for `(value - mean) / std`."""
        return Histogram((self.low - mean) / std, (self.high - mean) / std)

    def add(self, values: NDArray[Any]) -> None:
        """Count finite values of any shape."""
        position = (values.ravel().astype(np.float64) - self.low) * (BINS / (self.high - self.low))
        bins = np.clip(position, 0, BINS - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The `BINS + 1` edges of the bins."""
        return np.linspace(self.low, self.high, BINS + 1)

    def percentile(self, percent: float) -> float:
        """Return a percentile, to the width of a bin (at most 1/100 of the standard deviation)."""
        cumulative = np.concatenate([[0], np.cumsum(self.counts)])
        return float(np.interp(percent / 100 * cumulative[-1], cumulative, self.edges))
