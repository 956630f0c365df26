"""Mean, standard deviation and extrema of a region's voxels that count, streamed in float64.

Not all voxels count. Those that are NaN, infinite or of the no-data value say nothing. A few that
lie extremely far from all others (a hot pixel, a value that overflowed) would ruin both mean and
standard deviation: a single voxel of 1e6 among 10 million of standard deviation 1 gives 316.

Moments of parts are merged as in Chan, Golub & LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979. Within a part the first finite voxel is subtracted
before anything is summed, so a large offset costs no digits, and a constant has exactly 0 standard
deviation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 18
"""Voxels converted to float64 at once: 2 MB, which fit into a processor's cache."""


FAR = 50.0
"""Distance from the median, in robust standard deviations, from which on a value is extreme.

Structures differ by some ten standard deviations, metal in polymer by more, hot pixels by millions.
"""
RARE = 1e-3
"""Share of the voxels up to which extreme ones are faults; more of them are part of the image."""
_SEVERAL = 2
_EXACT_INTEGERS = 2.0**53
_HUGE = 1e30
_GAUSSIAN_SPAN = 2.5631
"""Distance of the 90th from the 10th percentile of a Gaussian, in standard deviations."""


@dataclass(frozen=True)
class ValidRange:
    """The values of a volume that count."""

    low: float = -math.inf
    """Smaller values are extreme; they are clipped to this one."""
    high: float = math.inf
    """Larger values are extreme; they are clipped to this one."""
    no_data: float | None = None
    """Value of voxels without data, which get the mean."""

    def has_no_data(self, array: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return where the values stand for no data; None if nowhere."""
        if self.no_data is None:
            return None
        with np.errstate(over="ignore"):
            value = array.dtype.type(self.no_data) if array.dtype.kind == "f" else self.no_data
        if not math.isfinite(value):  # too large for the type, which can't hold it, then
            return None
        found: NDArray[np.bool_] = array == value
        return found if found.any() else None

    def without_extremes(self) -> ValidRange:
        """Return a range in which no value is extreme."""
        return ValidRange(no_data=self.no_data)


def find_valid_range(sample: NDArray[Any], no_data: float | None = None) -> ValidRange:
    """Return the values of a volume that count, from a sample of its voxels of any shape.

    The smallest value of the sample is taken for the no-data value if it is there several times and
    is extreme compared with all others; the largest one only if it is huge, because it may be that
    of saturated voxels. `no_data` is the value that the user names, if any.
    """
    values = sample.astype(np.float64).ravel()
    without_data = ValidRange(no_data=no_data).has_no_data(sample)
    if without_data is not None:
        values = values[~without_data.ravel()]
    values = values[np.isfinite(values)]
    if no_data is not None:
        return _range_of(values, no_data)
    for candidate in (values.min(initial=math.inf), values.max(initial=-math.inf)):
        others = values[values != candidate]
        if values.size - others.size < _SEVERAL or not others.size:
            continue
        found = _range_of(others, float(candidate))
        if candidate < found.low or (candidate > found.high and candidate > _HUGE):
            return found
    return _range_of(values, None)


def _range_of(values: NDArray[np.float64], no_data: float | None) -> ValidRange:
    if values.size < _SEVERAL:
        return ValidRange(no_data=no_data)
    first, median, last = (float(p) for p in np.percentile(values, [10.0, 50.0, 90.0]))
    spread = (last - first) / _GAUSSIAN_SPAN
    low, high = median - FAR * spread, median + FAR * spread
    if not (spread > 0 and math.isfinite(high - low)):
        return ValidRange(no_data=no_data)
    return ValidRange(low, high, no_data)


@dataclass(frozen=True)
class Outliers:
    """Voxels extremely far from all others that count, because they are too many to be faults."""

    count: int
    low: float
    """Smaller values are extreme."""
    high: float
    """Larger values are extreme."""
    minimum: float
    """Smallest value of all voxels that count."""
    maximum: float
    """Largest value of all voxels that count."""

    @property
    def sides(self) -> str:
        """Values of these voxels, as text."""
        return _sides(self.low, self.high, self.minimum, self.maximum)

    def __or__(self, other: Outliers) -> Outliers:
        """Return the outliers of two regions together."""
        return Outliers(
            self.count + other.count,
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


@dataclass(frozen=True)
class Statistics:
    """Statistics of a region's voxels that count, projected from a sample if it is very large."""

    count: int
    """Voxels that count."""
    non_finite: int
    """Voxels that are NaN or infinite."""
    mean: float
    std: float
    valid: ValidRange = field(default=ValidRange(), compare=False)
    extreme: int = field(default=0, compare=False)
    """Voxels beyond the valid; they are clipped."""
    lowest: float = field(default=math.inf, compare=False)
    """Smallest of their values; infinite without any, or where it was not measured."""
    highest: float = field(default=-math.inf, compare=False)
    """Largest of their values."""
    without_data: int = field(default=0, compare=False)
    """Voxels of the no-data value."""
    outliers: Outliers | None = field(default=None, compare=False)
    """Extreme voxels that count, if there are any."""

    @property
    def sides(self) -> str:
        """Values of the extreme voxels that are clipped, as text."""
        low, high = self.valid.low, self.valid.high
        return (
            _sides(low, high, self.lowest, self.highest) or f"below {low:.5g} or above {high:.5g}"
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the statistics as numbers, for a file."""
        plain = asdict(self)
        return {**{k: v for k, v in plain.items() if k != "valid"}, **plain["valid"]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Statistics:
        """Return the statistics that `to_plain`, or an earlier version of it, gave."""
        no_data, outliers = plain.get("no_data"), plain.get("outliers")
        return cls(
            count=int(plain["count"]),
            non_finite=int(plain["non_finite"]),
            mean=float(plain["mean"]),
            std=float(plain["std"]),
            valid=ValidRange(
                float(plain.get("low", -math.inf)),
                float(plain.get("high", math.inf)),
                None if no_data is None else float(no_data),
            ),
            extreme=int(plain.get("extreme", 0)),
            lowest=float(plain.get("lowest", math.inf)),
            highest=float(plain.get("highest", -math.inf)),
            without_data=int(plain.get("without_data", 0)),
            outliers=None if outliers is None else Outliers(**outliers),
        )


def _sides(low: float, high: float, smallest: float, largest: float) -> str:
    below = f"below {low:.5g} (down to {smallest:.5g})"
    above = f"above {high:.5g} (up to {largest:.5g})"
    return " or ".join(
        text for text, found in ((below, smallest < low), (above, largest > high)) if found
    )


def lost_digits(dtype: np.dtype[Any], mean: float, std: float) -> str | None:
    """Return a predicate for integers too large for double precision; None if there are none."""
    if dtype.kind not in "iu" or abs(mean) + std <= _EXACT_INTEGERS:
        return None
    return (
        f"its {dtype} values lie around {mean:.4g}, beyond 2^53, where double precision drops "
        "their last digits; subtract an offset from them first, or name a value without data by "
        "no_data (--no-data)"
    )


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations from the mean, and extrema of voxels that count."""

    count: int = 0
    non_finite: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    extreme: int = 0
    lowest: float = math.inf
    """Smallest extreme value; infinite without any."""
    highest: float = -math.inf
    """Largest extreme value."""
    without_data: int = 0

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of voxels together."""
        left_out: dict[str, Any] = {
            "non_finite": self.non_finite + other.non_finite,
            "extreme": self.extreme + other.extreme,
            "lowest": min(self.lowest, other.lowest),
            "highest": max(self.highest, other.highest),
            "without_data": self.without_data + other.without_data,
        }
        if not self.count or not other.count:
            one = self if self.count else other
            return replace(one, **left_out)
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * (other.count / count),
            m2=self.m2 + other.m2 + delta * delta * (self.count * (other.count / count)),
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            **left_out,
        )

    def scaled(self, factor: float) -> Moments:
        """Return the moments of `factor` times as many voxels of the same kind."""
        return replace(
            self,
            count=round(self.count * factor),
            non_finite=round(self.non_finite * factor),
            m2=self.m2 * factor,
            extreme=round(self.extreme * factor),
            without_data=round(self.without_data * factor),
        )

    @property
    def std(self) -> float:
        """Standard deviation (of the population, as `numpy.std`); 0 without voxels."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0

    @property
    def extremes_are_faults(self) -> bool:
        """True unless so many voxels are extreme that they are part of the image."""
        return self.extreme <= RARE * (self.count + self.extreme)


def moments(array: NDArray[Any], valid: ValidRange = ValidRange()) -> Moments:
    """Return the moments of an array of real numbers of any type and shape."""
    return merged(_piece(part, valid) for part in _pieces(array))


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
    total = merged(
        Moments(
            count=s.count,
            non_finite=s.non_finite,
            mean=s.mean,
            m2=s.std**2 * s.count,
            extreme=s.extreme,
            lowest=s.lowest,
            highest=s.highest,
            without_data=s.without_data,
        )
        for s in parts
    )
    known = {s.valid.no_data for s in parts} - {None}
    valid = ValidRange(
        min(s.valid.low for s in parts),
        max(s.valid.high for s in parts),
        known.pop() if len(known) == 1 else None,
    )
    outliers = [s.outliers for s in parts if s.outliers is not None]
    together = functools.reduce(Outliers.__or__, outliers) if outliers else None
    return statistics_of(total, valid, together)


def statistics_of(
    found: Moments, valid: ValidRange, outliers: Outliers | None = None
) -> Statistics:
    """Return the statistics of voxels with these moments, measured within `valid`."""
    return Statistics(
        count=found.count,
        non_finite=found.non_finite,
        mean=found.mean,
        std=found.std,
        valid=valid,
        extreme=found.extreme,
        lowest=found.lowest,
        highest=found.highest,
        without_data=found.without_data,
        outliers=outliers,
    )


def outliers_of(first: Moments, valid: ValidRange, found: Moments) -> Outliers | None:
    """Return the extreme voxels of `first`, measured within `valid`, all of which count in `found`.

    None if there are none.
    """
    if not first.extreme:
        return None
    return Outliers(first.extreme, valid.low, valid.high, found.minimum, found.maximum)


def constant(value: float, count: int, valid: ValidRange = ValidRange()) -> Moments:
    """Return the moments of `count` voxels of one value."""
    if not math.isfinite(value):
        return Moments(non_finite=count)
    if value == valid.no_data:
        return Moments(without_data=count)
    if not valid.low <= value <= valid.high:
        return Moments(extreme=count, lowest=value, highest=value)
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


def _piece(raw: NDArray[Any], valid: ValidRange) -> Moments:
    values = raw.astype(np.float64)
    left_out: dict[str, Any] = {}
    without_data = valid.has_no_data(raw)
    if without_data is not None:
        values, empty = _split(values, without_data)
        left_out["without_data"] = empty.size
    if raw.dtype.kind == "f":
        values, unusable = _split(values, ~np.isfinite(values))
        left_out["non_finite"] = unusable.size
    if values.size and (values.min() < valid.low or values.max() > valid.high):
        values, extreme = _split(values, (values < valid.low) | (values > valid.high))
        lowest, highest = float(extreme.min()), float(extreme.max())
        left_out |= {"extreme": extreme.size, "lowest": lowest, "highest": highest}
    if not values.size:
        return Moments(**left_out)
    shift = float(values[0])
    low, high = float(values.min()), float(values.max())
    with np.errstate(over="ignore", invalid="ignore"):  # too large values get no finite std
        values -= shift
        mean = float(values.mean())
        values -= mean
        values *= values  # not a BLAS product, whose last digit depends on the number of threads
        m2 = float(values.sum())
    return Moments(
        count=values.size, mean=shift + mean, m2=m2, minimum=low, maximum=high, **left_out
    )


def _split(
    values: NDArray[np.float64], which: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the other values, and these."""
    return (values[~which], values[which]) if which.any() else (values, values[:0])
