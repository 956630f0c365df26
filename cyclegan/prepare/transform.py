"""From intensities as they were to the values that are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cyclegan.prepare.statistics import Histogram, RunningStatistics, pieces


class Transform:
    """`(x - mean) / std` in float64, rounded once, and histograms of what came and what went.

    Voxels that are not finite become the mean; values beyond the dtype's range its largest.
    """

    def __init__(
        self, statistics: RunningStatistics, dtype: DTypeLike, *, standardise: bool
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._limit = float(np.finfo(self._dtype).max)
        self._mean, self._std = statistics.mean, statistics.std
        self._standardise = standardise
        self.before = Histogram.around(statistics)
        self.after = self.before.scaled(self._mean, self._std) if standardise else self.before
        self.clipped = 0

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """A block (Z, Y, X) as it is stored."""
        result = np.empty(values.shape, self._dtype)
        for piece, out in zip(pieces(values), pieces(result), strict=True):
            numbers = piece.astype(np.float64)
            finite = np.isfinite(numbers)
            if not finite.all():
                numbers[~finite] = self._mean
            self.before.add(numbers[finite])
            if self._standardise:
                numbers -= self._mean
                numbers /= self._std
            self.clipped += int(np.count_nonzero(np.abs(numbers) > self._limit))
            out[...] = np.clip(numbers, -self._limit, self._limit)
            if self._standardise:
                self.after.add(out)
        return result

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "before": self.before.counts.tolist(),
            "after": self.after.counts.tolist(),
            "clipped": self.clipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.before.counts = np.asarray(state["before"], np.int64)
        if self._standardise:
            self.after.counts = np.asarray(state["after"], np.int64)
        self.clipped = int(state["clipped"])
