"""The unit cube of a space: where a study's samplers draw, and what its models see.

A *place* has one coordinate in [0, 1] for each searched key: on the key's own scale, which may be
logarithmic, or the number of a choice. The *features* of a place are what a Gaussian process
compares: the same for ranges, and one coordinate for each of several choices, so that any two
choices are equally far from each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.study.space import Choices, Dimension, FloatRange, IntRange, Scalar, Space

Array = NDArray[np.float64]

_APART = math.sqrt(0.5)
"""Coordinate of the choice taken: two choices are 1 apart, like the ends of a range."""


class Cube:
    """The unit cube of the space `space`."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.dimensions = len(space)

    def values(self, place: Array) -> dict[str, Scalar]:
        """Return the values at a place (D,) by searched key."""
        rows = zip(self.space.items(), place.tolist(), strict=True)
        return {key: _value(dimension, share) for (key, dimension), share in rows}

    def features(self, places: Array) -> Array:
        """Return the features (N, F) of places (N, D)."""
        columns = []
        for dimension, shares in zip(self.space.values(), places.T, strict=True):
            if isinstance(dimension, Choices):
                count = len(dimension.choices)
                taken = np.minimum((shares * count).astype(int), count - 1)
                columns.append(_APART * np.eye(count)[taken])
            else:
                columns.append(shares[:, None])
        return np.concatenate(columns, axis=1)

    def places(self, features: Array) -> Array:
        """Return places (N, D) with these features (N, F); a choice lies in its part's middle."""
        columns, start = [], 0
        for dimension in self.space.values():
            if isinstance(dimension, Choices):
                count = len(dimension.choices)
                taken = features[:, start : start + count].argmax(axis=1)
                columns.append((taken + 0.5) / count)
                start += count
            else:
                columns.append(features[:, start])
                start += 1
        return np.stack(columns, axis=1)

    def features_of(self, values: Mapping[str, Any]) -> tuple[float, ...] | None:
        """Return the features of some values by searched key; None if one is missing or outside."""
        place = []
        for key, dimension in self.space.items():
            share = _share(dimension, values.get(key))
            if share is None:
                return None
            place.append(share)
        return tuple(self.features(np.array([place]))[0].tolist())


def _value(dimension: Dimension, share: float) -> Scalar:
    """Return the value at a share in [0, 1] of a dimension."""
    if isinstance(dimension, Choices):
        return dimension.choices[
            min(int(share * len(dimension.choices)), len(dimension.choices) - 1)
        ]
    low, high = float(dimension.low), float(dimension.high)
    value = low * (high / low) ** share if dimension.log else low + (high - low) * share
    if dimension.step is not None:
        step = float(dimension.step)
        value = low + step * round((value - low) / step)
    value = min(max(value, low), high)
    return round(value) if isinstance(dimension, IntRange) else value


def _share(dimension: Dimension, value: Any) -> float | None:
    if isinstance(dimension, Choices):
        same = [type(choice) is type(value) and choice == value for choice in dimension.choices]
        return (same.index(True) + 0.5) / len(same) if True in same else None
    assert isinstance(dimension, FloatRange | IntRange)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = float(dimension.low), float(dimension.high)
    if not low <= value <= high:
        return None
    if high == low:
        return 0.0
    if dimension.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
