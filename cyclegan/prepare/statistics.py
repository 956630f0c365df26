"""Mean, standard deviation and histogram of a volume that is seen block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 2048
_FAR = 10.0
"""The histogram ends so many standard deviations from the mean; what is beyond is in its ends."""
_PIECE = 1 << 20


def pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views (rows, X) of a block (Z, Y, X), of about a million voxels, so that copies are small."""
    rows = max(1, _PIECE // max(values.shape[2], 1))
    for plane in values:
        for start in range(0, plane.shape[0], rows):
            yield plane[start : start + rows]


class RunningStatistics:
    """Count, mean, standard deviation and extrema of the finite voxels, in float64.

    Chan, Golub, LeVeque: each piece's mean and sum of squared deviations are found by themselves
    and merged, so that a large offset (CT numbers) costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.non_finite = 0
        self.mean = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._squares = 0.0

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def add(self, values: NDArray[Any]) -> None:
        """See a block (Z, Y, X) of any real dtype."""
        for piece in pieces(values):
            numbers = piece.astype(np.float64)  # a copy, changed below
            finite = np.isfinite(numbers)
            bad = numbers.size - int(np.count_nonzero(finite))
            self.non_finite += bad
            chosen = numbers[finite] if bad else numbers.ravel()
            if chosen.size:
                self._merge(chosen)

    def _merge(self, numbers: NDArray[np.float64]) -> None:
        self.minimum = min(self.minimum, float(numbers.min()))
        self.maximum = max(self.maximum, float(numbers.max()))
        with np.errstate(over="ignore", invalid="ignore"):  # huge values end as a std of infinity
            mean = float(numbers.mean())
            numbers -= mean
            rest = float(numbers.sum())
            squares = float(np.square(numbers, out=numbers).sum()) - rest * rest / numbers.size
            total = self.count + numbers.size
            apart = mean - self.mean
            self.mean += apart * numbers.size / total
            self._squares += squares + apart * apart * self.count * numbers.size / total
        self.count = total

    def state(self) -> dict[str, Any]:
        """As JSON values that `from_state` restores bit for bit."""
        extrema = {"minimum": self.minimum, "maximum": self.maximum} if self.count else {}
        return {
            "count": self.count,
            "non_finite": self.non_finite,
            "mean": self.mean,
            "squares": self._squares,
            **extrema,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunningStatistics:
        """The statistics that `state` was taken of."""
        made = cls()
        made.count, made.non_finite = int(state["count"]), int(state["non_finite"])
        made.mean, made._squares = float(state["mean"]), float(state["squares"])
        made.minimum = float(state.get("minimum", math.inf))
        made.maximum = float(state.get("maximum", -math.inf))
        return made


class Histogram:
    """Counts in `BINS` bins of equal width between `low` and `high`; the end bins take the rest."""

    def __init__(
        self, low: float, high: float, counts: NDArray[np.int64] | list[int] | None = None
    ) -> None:
        self.low = low
        self.high = high if high > low else low + 1.0
        self.counts: NDArray[np.int64] = (
            np.zeros(BINS, np.int64) if counts is None else np.asarray(counts, np.int64)
        )

    @classmethod
    def around(cls, statistics: RunningStatistics) -> Histogram:
        """An empty histogram for values of which mean, spread and extrema are known."""
        mean, std = statistics.mean, statistics.std
        low = max(statistics.minimum, mean - _FAR * std)
        return cls(low, min(statistics.maximum, mean + _FAR * std))

    def scaled(self, mean: float, std: float) -> Histogram:
        """An empty histogram for `(value - mean) / std`."""
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
        """A percentile, to the width of a bin (at most 1/100 of the standard deviation)."""
        cumulative = np.concatenate([[0], np.cumsum(self.counts)])
        return float(np.interp(percent / 100 * cumulative[-1], cumulative, self.edges))
