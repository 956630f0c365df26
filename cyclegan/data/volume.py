"""Volumes: standardised regions of HDF5 datasets, read by patches or held in budgeted memory."""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size
from cyclegan.data.dataset import Limits, VolumeEntry
from cyclegan.data.region import Region
from cyclegan.data.scan import Scan, by_place
from cyclegan.data.statistics import Statistics, lost_digits
from cyclegan.errors import DataError

logger = logging.getLogger(__name__)
Standardise = Literal["auto", "always", "never"]
_FAR_MEAN, _SMALL_STD, _LARGE_STD = 0.1, 0.9, 1.1

# Single precision holds all of these exactly, and its exponent is wide enough for the arithmetic.
_EXACT_IN_SINGLE = frozenset(np.dtype(t) for t in ("f2", "f4", "i1", "u1", "i2", "u2"))
_SMALLEST, _LARGEST = 1e-30, 1e30
_measured: dict[Hashable, Statistics] = {}
_told: set[str] = set()


class Volume:
    """A region of one HDF5 dataset, read as (C, Z, Y, X) float32.

    Args:
        entry: file, dataset and region.
        channels: C; a dataset (Z, Y, X) has one.
        standardise: "auto" subtracts the mean and divides by the standard deviation if the region
            is not standardised (|mean| > 0.1 or std outside [0.9, 1.1]), "always" does so in any
            case, "never" leaves the values as they are and only warns.
        budget: holds the region in memory if there is room for it, in the file's own number type;
            without a budget, or beyond it, patches are read from the file.
        statistics: used instead of measuring, e.g. those of a checkpoint.
        tell: log how the grey values change; without it the caller calls `tell`.

    The region is standardised by its own statistics until `standardise_as` gives it others.

    Errors: `DataError` for anything wrong with the file or the region, or if no voxel is finite
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
        tell: bool = True,
    ) -> None:
        region = Region(entry, channels)
        self.entry = entry
        self.name = region.name
        self.limits = region.limits
        """The region as text, e.g. `[0:60, :, :]`."""
        self.channels = channels
        self.start, self.shape = region.start, region.shape
        self.voxel_size_um = region.voxel_size_um
        self.dtype = region.dtype
        self._region = region
        self._measured = statistics is None
        self._would_be_held = False
        self._held = self._hold(budget, measure=statistics is None)
        if statistics is None:
            statistics = self._measure()
        elif entry.no_data is not None:
            valid = replace(statistics.valid, no_data=entry.no_data)
            statistics = replace(statistics, valid=valid)
        self.statistics = statistics
        _check(statistics, self.name, self.dtype)
        self._standardise = standardise
        self._own = Scan(place=region.place, regions=(region.limits,), statistics=statistics)
        self.standardise_as(self._own)
        if tell:
            self.tell()
        if self._held is not None:
            region.close()

    def standardise_as(self, scan: Scan) -> None:
        """Take the grey scale of the scan that the region belongs to."""
        self.scan = scan
        self.mean, self.std = self._scale(scan.statistics)

    @property
    def has_own_scale(self) -> bool:
        """True if the region would be read the same without the other regions of its scan."""
        return self._scale(self._own.statistics) == (self.mean, self.std)

    @property
    def grey_values(self) -> str:
        """Predicate of a sentence about the region: how its grey values change, and why."""
        found = self.scan.statistics
        done = "left as it is" if (self.mean, self.std) == (0.0, 1.0) else "standardised on load"
        subject = "it has" if self.scan == self._own else self.scan.subject
        return f"is {done}: {subject} {_numbers(found)}"

    def tell(self) -> None:
        """Log, once per process, what is odd about the voxels and how the grey values change."""
        self.warn()
        changed = (self.mean, self.std) != (0.0, 1.0)
        if changed or (self.scan != self._own and self._standardise != "never"):
            region = "" if self.limits == "[:, :, :]" else self.limits
            _tell_once(logging.INFO, f"{self.name}{region} {self.grey_values}")

    def warn(self) -> None:
        """Log, once per process, what is odd about the voxels."""
        where = "" if self._measured else " of what was measured before,"
        missing = [f" {self._region.unwritten}"] if self._region.unwritten else []
        for text in [*missing, *(f"{where} {odd}" for odd in oddities(self.statistics))]:
            _tell_once(logging.WARNING, f"{self.name}:{text}")
        if self._standardise == "never" and not _is_standardised(self.scan.statistics):
            _tell_once(
                logging.WARNING,
                f"{self.name} does not look standardised: it has {_numbers(self.scan.statistics)} "
                "instead of about 0 and 1, and is left as it is",
            )

    def part(self, roi: Sequence[Limits]) -> Volume:
        """Return a region of the same dataset in the same grey values, without measuring it."""
        part = Volume(  # whose chunks were judged with the whole
            replace(self.entry, roi=tuple(roi), halves=(), fill_missing=True),
            channels=self.channels,
            standardise=self._standardise,
            statistics=self.statistics,
            tell=False,
        )
        part.standardise_as(self.scan)
        return part

    @property
    def in_memory(self) -> bool:
        """True if the region is held in memory."""
        return self._held is not None

    def read(self, origin: Size, size: Size) -> NDArray[np.float32]:
        """Return a patch (C, z, y, x) of `size` voxels at `origin`, (Z, Y, X) in the region.

        It is standardised, with the mean in place of non-finite voxels, and always a new array.
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
        """Prepare for patches of `size`; warn if the file's layout makes reading them slow."""
        if self._held is None:
            self._region.expect(size, warn=not self._would_be_held)

    def close(self) -> None:
        """Release the file and the memory."""
        self._held = None
        self._region.close()

    def _hold(self, budget: MemoryBudget | None, *, measure: bool) -> Held | None:
        region = self._region
        if budget is not None and not budget.loads:
            self._would_be_held = budget.take(region.nbytes)
            return None

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

    def _scale(self, found: Statistics) -> tuple[float, float]:
        wanted = self._standardise == "always" or (
            self._standardise == "auto" and not _is_standardised(found)
        )
        return (found.mean, found.std) if wanted else (0.0, 1.0)

    def _standardised(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Return (raw - mean) / std, elementwise, so that the source of `raw` does not matter."""
        mean, std = self.mean, self.std
        if raw.dtype in _EXACT_IN_SINGLE and _SMALLEST < std < _LARGEST:
            patch = raw.astype(np.float32, copy=True)
            if (mean, std) != (0.0, 1.0):
                # Subtract the mean in two parts: at once, a large one would lose its last digits.
                coarse = np.float32(mean)
                patch -= coarse
                patch *= np.float32(1 / std)
                patch -= np.float32((mean - float(coarse)) / std)
        else:
            patch = ((raw.astype(np.float64) - mean) / std).astype(np.float32)
        bad = self.statistics.valid.has_no_data(raw)
        if raw.dtype.kind == "f":
            not_finite = ~np.isfinite(patch)
            bad = not_finite if bad is None else bad | not_finite
        valid = self.statistics.valid
        if valid.high < math.inf:
            np.clip(patch, (valid.low - mean) / std, (valid.high - mean) / std, out=patch)
        if bad is not None and bad.any():
            patch[bad] = (self.scan.statistics.mean - mean) / std
        return patch


def open_volumes(
    entries: Sequence[VolumeEntry],
    *,
    channels: int = 1,
    standardise: Standardise = "auto",
    budget: MemoryBudget | None = None,
    statistics: Sequence[Statistics] | None = None,
    scans: Iterable[Scan] = (),
) -> list[Volume]:
    """Open the volumes of a dataset; `statistics`, if given, has one entry for each.

    Volumes are held in memory as long as `budget` has room, in this order. Regions of one scan
    share one grey scale: that in `scans`, or else that of all these regions together.
    """
    given: Sequence[Statistics | None] = statistics or [None] * len(entries)
    if len(given) != len(entries):
        raise DataError(f"statistics of {len(given)} volumes for {len(entries)} volumes")
    volumes = [
        Volume(
            entry,
            channels=channels,
            standardise=standardise,
            budget=budget,
            statistics=known,
            tell=False,
        )
        for entry, known in zip(entries, given, strict=True)
    ]
    shared = by_place((volume.scan for volume in volumes), known=scans)
    for volume in volumes:
        volume.standardise_as(shared[volume.scan.place])
        volume.tell()
    return volumes


def oddities(found: Statistics) -> list[str]:
    """Return predicates about the voxels that don't count: how many, and what is done to them."""
    left_out = found.non_finite + found.extreme + found.without_data
    total = found.count + left_out
    valid = found.valid
    texts = []
    if found.non_finite:
        texts.append(
            f"{_share(found.non_finite, total)} are NaN or infinite; they are replaced by the mean"
        )
    if found.without_data:
        texts.append(
            f"{_share(found.without_data, total)} are {valid.no_data:g}, taken for no data; they "
            "are replaced by the mean"
        )
    if found.extreme:
        texts.append(
            f"{_share(found.extreme, total)} lie extremely far from all others, {found.sides}; "
            "they are clipped there"
        )
    if found.outliers:
        texts.append(
            f"{_share(found.outliers.count, total)} lie extremely far from all others, "
            f"{found.outliers.sides}; so many are taken for structure and count in mean and "
            "standard deviation; if they are none, name their value by no_data (--no-data), or "
            "leave them out by a region (ROI0, --roi)"
        )
    return texts


def _share(count: int, total: int) -> str:
    return f"{count} of {total} voxels ({count / total:.2g} of them)"


def _is_standardised(found: Statistics) -> bool:
    return abs(found.mean) <= _FAR_MEAN and _SMALL_STD <= found.std <= _LARGE_STD


def _numbers(found: Statistics) -> str:
    return f"mean {found.mean:.6g} and standard deviation {found.std:.6g}"


def _check(found: Statistics, name: str, dtype: np.dtype[Any]) -> None:
    if not found.count:
        raise DataError(f"{name}: none of the {found.non_finite} voxels is finite")
    if not (math.isfinite(found.mean) and math.isfinite(found.std)):
        raise DataError(f"{name}: the voxels are too large for a standard deviation")
    lost = lost_digits(dtype, found.mean, found.std)
    if lost:
        raise DataError(f"{name}: {lost}")
    if found.std == 0:
        raise DataError(
            f"{name}: all {found.count} finite voxels are {found.mean:g}; take another region, or "
            "check that the file was written to the end"
        )


def _tell_once(level: int, text: str) -> None:
    """Log a line once per process, because domains and parts share volumes."""
    if text not in _told:
        _told.add(text)
        logger.log(level, "%s", text)


# -- Memory for volumes: one budget for all volumes of a process, and one copy of each region --


class MemoryBudget:
    """The bytes of volumes that all users of this object together may hold in memory.

    With `loads` off nothing is loaded: volumes are opened to be checked, and only note whether they
    would be held.
    """

    def __init__(self, nbytes: float, *, loads: bool = True) -> None:
        self.nbytes, self.loads = nbytes, loads
        self._taken = 0
        # The garbage collector may give a share back in the middle of `take`.
        self._lock = threading.RLock()

    @property
    def free(self) -> float:
        """Bytes not taken yet."""
        return self.nbytes - self._taken

    def take(self, nbytes: int) -> bool:
        """Take a share and return True if there is room for it, else return False."""
        with self._lock:
            if nbytes > self.free:
                return False
            self._taken += nbytes
            return True

    def give_back(self, nbytes: int) -> None:
        """Give a share back."""
        with self._lock:
            self._taken -= nbytes


class Held:
    """A region (C, Z, Y, X) in memory, in the file's own number type."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array


_held: weakref.WeakValueDictionary[Hashable, Held] = weakref.WeakValueDictionary()
_loading = threading.RLock()


def hold(
    key: Hashable,
    nbytes: int,
    budget: MemoryBudget | None,
    load: Callable[[], NDArray[np.generic]],
) -> Held | None:
    """Return the region called `key` if it is in memory or `budget` allows loading it, else None.

    The share goes back to the budget when nobody holds the region any more.
    """
    with _loading:
        found = _held.get(key)
        if found is not None or budget is None or not budget.take(nbytes):
            return found
        try:
            held = Held(load())
        except BaseException:
            budget.give_back(nbytes)
            raise
        weakref.finalize(held, budget.give_back, nbytes)
        _held[key] = held
        return held
