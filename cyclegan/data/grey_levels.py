"""Check that voxels kept their grey levels when they were stored in another number type or scale.

A number type stores few of the values between two neighbouring structures if the scale is wrong:
30000 and 30007 are the same number in float16, and so are 0.0001 and 0.00010001. Nothing else
shows this, because mean, standard deviation and a picture of the whole range look right.

The check looks at the bulk of a sample, from the 10th to the 90th percentile, where both noise and
structure lie. If the type has `ENOUGH` steps there, rounding adds at most 1/80 of the bulk's
standard deviation. Otherwise the voxels must have lost half their different values to count as
damaged: masks and 8-bit images have few by nature, and keep them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENOUGH = 64
"""Steps of a number type over the bulk of the values that lose nothing that matters."""
SAMPLED_VOXELS = 200_000
"""Voxels, about, that are compared."""
_LOST = 2
"""Ratio of the distinct values before and after from which on grey levels are lost."""
_BULK = (10.0, 90.0)
"""Percentiles between which the bulk of the values lies."""
_ROUND_OFF = 16 * float(np.finfo(np.float64).eps)
"""Spread, as a share of the largest value, up to which values differ only by round-off."""


@dataclass(frozen=True)
class GreyLevels:
    """Distinct values in the bulk of a sample."""

    before: int
    after: int
    """Distinct values of the same voxels as stored."""

    @property
    def text(self) -> str:
        """The grey values that are left, in words."""
        left = "1 grey value is" if self.after == 1 else f"{self.after} distinct grey values are"
        return f"only {left} left where most voxels lie, of {self.before} in a sample before"


def lost_levels(before: NDArray[np.floating], after: NDArray[np.floating]) -> GreyLevels | None:
    """Return the grey levels of a sample if many of them were lost, else None.

    Args:
        before: finite values of voxels that count, of any shape, in float64 if they are integers.
        after: the same voxels as stored, in the stored type.
    """
    before, after = before.ravel(), after.ravel()
    bulk = _bulk(before)
    if bulk is None:
        return None
    kept = after[bulk]
    levels = GreyLevels(np.unique(before[bulk]).size, np.unique(kept).size)
    if levels.after >= ENOUGH or levels.before < _LOST * levels.after or _steps(kept) >= ENOUGH:
        return None
    return levels


def _bulk(values: NDArray[np.floating]) -> NDArray[np.bool_] | None:
    """Return where the bulk of the values is; None if there is none that differs.

    If most voxels have one value, such as that of an empty background, it is that of the others.
    """
    counts = np.ones(values.shape, bool)
    for _ in range(2):
        if not counts.any():
            return None
        # Values that occur: one between background and sample would mix the two.
        low = float(np.percentile(values[counts], _BULK[0], method="higher"))
        high = float(np.percentile(values[counts], _BULK[1], method="lower"))
        bulk: NDArray[np.bool_] = counts & (values >= low) & (values <= high)
        if high - low > _ROUND_OFF * float(np.abs(values[counts]).max()):
            return bulk
        counts &= ~bulk
    return None


def _steps(values: NDArray[np.floating]) -> float:
    """Return how many steps of their type lie between the smallest and the largest value."""
    low, high = float(values.min()), float(values.max())
    step = float(np.spacing(values.dtype.type(max(abs(low), abs(high)))))
    return (high - low) / step if math.isfinite(step) else 0.0


class LevelSample:
    """A sample of voxels before and after they are stored, gathered part by part.

    Args:
        parts: number of parts, about, from each of which as many voxels are taken.
    """

    def __init__(self, parts: int) -> None:
        self._wanted = max(SAMPLED_VOXELS // max(parts, 1), 1)
        self._before: list[NDArray[np.floating]] = []
        self._after: list[NDArray[np.floating]] = []

    def add(self, before: NDArray[np.floating], after: NDArray[np.floating]) -> None:
        """Take some voxels of a part: those that are finite before."""
        step = max(before.size // self._wanted, 1)
        taken, stored = before.ravel()[::step], after.ravel()[::step]
        finite = np.isfinite(taken)
        self._before.append(taken[finite])
        self._after.append(stored[finite])

    @property
    def is_empty(self) -> bool:
        """True if no part was added."""
        return not self._before

    def lost(self) -> GreyLevels | None:
        """Return the grey levels of the sample if many of them were lost, else None."""
        return None if self.is_empty else lost_levels(_joined(self._before), _joined(self._after))


def _joined(parts: Iterable[NDArray[np.floating]]) -> NDArray[np.floating]:
    return np.concatenate(list(parts))
