"""Volumes: standardised regions of HDF5 datasets, held in memory or read patch by patch."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size
from cyclegan.data.budget import Held, MemoryBudget, hold
from cyclegan.data.dataset import VolumeEntry
from cyclegan.data.region import Region
from cyclegan.data.statistics import Statistics
from cyclegan.errors import DataError

logger = logging.getLogger(__name__)

Standardise = Literal["auto", "always", "never"]

_FAR_MEAN, _SMALL_STD, _LARGE_STD = 0.1, 0.9, 1.1
# Single precision holds all of these exactly, and its exponent is wide enough for the rest.
_EXACT_IN_SINGLE = frozenset(np.dtype(t) for t in ("f2", "f4", "i1", "u1", "i2", "u2"))
_SMALLEST, _LARGEST = 1e-30, 1e30

_measured: dict[Hashable, Statistics] = {}
_told: set[str] = set()


class Volume:
    """A region of one HDF5 dataset, (C, Z, Y, X) float32 when read.

    Args:
        entry: file, dataset and region.
        channels: C; a dataset (Z, Y, X) has one.
        standardise: "auto" subtracts the mean and divides by the standard deviation where the
            region is not standardised (|mean| > 0.1 or std outside [0.9, 1.1]), "always" in any
            case, "never" leaves the values as they are and only warns.
        budget: the region is held in memory if there is room for it, in the file's own kind of
            number; without a budget, or beyond it, patches are read from the file.
        statistics: used instead of measuring, e.g. those of a checkpoint.

    Errors: `DataError` for anything wrong with the file or the region, and if no voxel is finite
    or all are the same.
    """

    def __init__(
        self,
        entry: VolumeEntry,
        *,
        channels: int = 1,
        standardise: Standardise = "auto",
        budget: MemoryBudget | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        region = Region(entry, channels)
        self.entry = entry
        self.name = region.name
        self.channels = channels
        self.start, self.shape = region.start, region.shape
        self.voxel_size_um = region.voxel_size_um
        self.dtype = region.dtype
        self._region = region
        self._held = self._hold(budget, measure=statistics is None)
        if statistics is None:
            statistics = self._measure()
        self.statistics = statistics
        _check(statistics, self.name)
        self.mean, self.std = self._scaling(standardise)
        self._tell(standardise)
        if self._held is not None:
            region.close()

    @property
    def in_memory(self) -> bool:
        """Whether the region is held in memory."""
        return self._held is not None

    def read(self, origin: Size, size: Size) -> NDArray[np.float32]:
        """A patch (C, z, y, x) of `size` voxels at `origin`, (Z, Y, X) relative to the region.

        Standardised, with the mean in place of non-finite voxels; always an array of its own.
        """
        if any(
            o < 0 or n < 1 or o + n > have
            for o, n, have in zip(origin, size, self.shape, strict=True)
        ):
            raise ValueError(f"{size} voxels at {origin} lie outside {self.shape} of {self.name}")
        if self._held is None:
            raw = self._region.read(origin, size)
        else:
            z, y, x = (slice(o, o + n) for o, n in zip(origin, size, strict=True))
            raw = self._held.array[:, z, y, x]
        return self._standardised(raw)

    def expect_patches(self, size: Size) -> None:
        """Prepare for patches of `size`; warns if the file's layout makes reading them slow."""
        if self._held is None:
            self._region.expect(size)

    def close(self) -> None:
        """Let go of the file and of the memory."""
        self._held = None
        self._region.close()

    def _hold(self, budget: MemoryBudget | None, *, measure: bool) -> Held | None:
        region = self._region

        def load() -> NDArray[Any]:
            array = np.zeros((region.channels, *region.shape), dtype=region.dtype)
            found = region.load(array, measure=measure and region.key not in _measured)
            if found is not None:
                _measured[region.key] = found
            return array

        return hold(region.key, region.nbytes, budget, load)

    def _measure(self) -> Statistics:
        key = self._region.key
        if key not in _measured:
            _measured[key] = self._region.measure()
        return _measured[key]

    def _scaling(self, standardise: Standardise) -> tuple[float, float]:
        wanted = standardise == "always" or (standardise == "auto" and not self._is_standardised)
        return (self.statistics.mean, self.statistics.std) if wanted else (0.0, 1.0)

    @property
    def _is_standardised(self) -> bool:
        found = self.statistics
        return abs(found.mean) <= _FAR_MEAN and _SMALL_STD <= found.std <= _LARGE_STD

    def _tell(self, standardise: Standardise) -> None:
        found = self.statistics
        if found.non_finite:
            total = found.count + found.non_finite
            _tell_once(
                logging.WARNING,
                f"{self.name}: {found.non_finite} of {total} voxels ({found.non_finite / total:.2g}"
                " of them) are NaN or infinite; they are replaced by the mean of the others",
            )
        numbers = f"mean {found.mean:.6g} and standard deviation {found.std:.6g}"
        if standardise == "never" and not self._is_standardised:
            _tell_once(
                logging.WARNING,
                f"{self.name} does not look standardised: it has {numbers}, wanted are about 0 and "
                "1, and it is left as it is",
            )
        elif (self.mean, self.std) != (0.0, 1.0):
            _tell_once(logging.INFO, f"{self.name} is standardised on load: it has {numbers}")

    def _standardised(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """(raw - mean) / std, elementwise, so that it does not matter where `raw` comes from."""
        mean, std = self.mean, self.std
        if raw.dtype in _EXACT_IN_SINGLE and _SMALLEST < std < _LARGEST:
            patch = raw.astype(np.float32, copy=True)
            if (mean, std) != (0.0, 1.0):
                # The mean in two parts: a large one alone would lose its last digits.
                coarse = np.float32(mean)
                patch -= coarse
                patch *= np.float32(1 / std)
                patch -= np.float32((mean - float(coarse)) / std)
        else:
            patch = ((raw.astype(np.float64) - mean) / std).astype(np.float32)
        if raw.dtype.kind == "f":
            bad = ~np.isfinite(patch)
            if bad.any():
                patch[bad] = (self.statistics.mean - mean) / std
        return patch


def open_volumes(
    entries: Sequence[VolumeEntry],
    *,
    channels: int = 1,
    standardise: Standardise = "auto",
    budget: MemoryBudget | None = None,
    statistics: Sequence[Statistics] | None = None,
) -> list[Volume]:
    """The volumes of a dataset; `statistics`, if given, has one for each.

    Those are held in memory that `budget` has room for, in this order.
    """
    given: Sequence[Statistics | None] = statistics or [None] * len(entries)
    if len(given) != len(entries):
        raise DataError(f"statistics of {len(given)} volumes for {len(entries)} volumes")
    return [
        Volume(entry, channels=channels, standardise=standardise, budget=budget, statistics=known)
        for entry, known in zip(entries, given, strict=True)
    ]


def _check(found: Statistics, name: str) -> None:
    if not found.count:
        raise DataError(f"{name}: none of the {found.non_finite} voxels is finite")
    if not (math.isfinite(found.mean) and math.isfinite(found.std)):
        raise DataError(f"{name}: the voxels are too large for a standard deviation")
    if found.std == 0:
        raise DataError(
            f"{name}: all {found.count} finite voxels are {found.mean:g}; take another region, or "
            "check that the file was written to the end"
        )


def _tell_once(level: int, text: str) -> None:
    """Log a line unless this process has done so: volumes are shared by domains and parts."""
    if text not in _told:
        _told.add(text)
        logger.log(level, "%s", text)
