"""Agreement of several images of one object: voxel by voxel, and by spatial frequency.

Two well-trained networks turn one noisy input into two images. Where these differ, at least one of
them shows something that is not there; the frequency above which they differ tells how fine a
detail can be before it is a network's own. Where they agree, both may still be wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan.errors import DataError
from cyclegan.metrics.correlation import SHORTEST, ShellCorrelation, fourier_shell_correlation
from cyclegan.metrics.spectrum import radial_power, shell_sums

Blocks = NDArray[np.float32]
"""Blocks or patches of a volume (N, Z, Y, X)."""
Pair = tuple[int, int]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Frequencies in cycles per voxel, and powers."""

HALF = 0.5
"""Criterion of agreement. If two images share a signal and have independent errors of equal power,
their shell correlation is signal / (signal + error): below 0.5 the errors prevail."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two images over all voxels that are finite in all images.

    `correlation` is Pearson's, 0 if one image is constant; `mean`, `rms` and `largest` (absolute)
    are those of second minus first, in their own units. `voxels` is the number of voxels counted.
    """

    correlation: float
    mean: float
    rms: float
    largest: float
    voxels: int


class ImageDifferences:
    """Adds up the differences of every pair of `count` images, one part at a time.

    It takes the memory of one part, so the images may have any size.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._voxels = 0
        self._means = np.zeros(count)
        self._products = np.zeros((count, count))
        self._sums = dict.fromkeys(self.pairs, 0.0)
        self._squares = dict.fromkeys(self.pairs, 0.0)
        self._largest = dict.fromkeys(self.pairs, 0.0)

    @property
    def pairs(self) -> list[Pair]:
        """All pairs of different images."""
        return list(itertools.combinations(range(self.count), 2))

    def add(self, parts: Sequence[NDArray[Any]]) -> None:
        """Add the same part of every image, arrays of one shape.

        Source of the update: T. Chan, G. Golub, R. LeVeque, Am. Stat. 37, 242 (1983).
        """
        if len(parts) != self.count or len({part.shape for part in parts}) != 1:
            shapes = ", ".join(str(part.shape) for part in parts)
            raise DataError(f"differences of {self.count} images need parts of one shape: {shapes}")
        values = np.stack([np.asarray(part, dtype=np.float64).reshape(-1) for part in parts])
        values = values[:, np.isfinite(values).all(axis=0)]
        new = values.shape[1]
        if not new:
            return
        for first, second in self.pairs:
            difference = values[second] - values[first]
            self._sums[first, second] += float(difference.sum())
            self._squares[first, second] += float(np.square(difference).sum())
            largest = float(np.abs(difference).max())
            self._largest[first, second] = max(self._largest[first, second], largest)
        means = values.mean(axis=1)
        values -= means[:, None]
        shift = means - self._means
        total = self._voxels + new
        self._products += values @ values.T + np.outer(shift, shift) * self._voxels * new / total
        self._means += shift * new / total
        self._voxels = total

    def of(self, first: int, second: int) -> Difference:
        """Return the difference of two images, given their numbers.

        Errors: `DataError` if no voxel is finite in all images.
        """
        if not self._voxels:
            raise DataError("no voxel is finite in all images that are compared")
        first, second = min(first, second), max(first, second)
        norm = math.sqrt(self._products[first, first] * self._products[second, second])
        correlation = self._products[first, second] / norm if norm > 0 else 0.0
        return Difference(
            correlation=min(1.0, max(-1.0, correlation)),
            mean=self._sums[first, second] / self._voxels,
            rms=math.sqrt(self._squares[first, second] / self._voxels),
            largest=self._largest[first, second],
            voxels=self._voxels,
        )


def differences(images: Sequence[Blocks]) -> ImageDifferences:
    """Return the differences of images that are in memory."""
    found = ImageDifferences(len(images))
    for parts in zip(*images, strict=True):  # a patch at a time: little memory
        found.add(parts)
    return found


def shell_agreement(first: Blocks, second: Blocks) -> ShellCorrelation | None:
    """Return the FSC over all blocks of two images; None if they are too small or none is finite.

    Blocks with a voxel that is not finite in either image are left out. Shells and windows are
    those of `cyclegan.metrics.spectrum`; `resolution(HALF)` tells where two images stop agreeing.
    """
    whole = [i for i in range(len(first)) if _finite(first[i]) and _finite(second[i])]
    if not whole or min(first.shape[1:]) < SHORTEST:
        return None
    a, b = first[whole], second[whole]
    one = fourier_shell_correlation(a[0], b[0])
    sums = shell_sums(_batch(a), _batch(b))
    return ShellCorrelation(one.frequencies, sums.correlation(), len(whole) * one.independent)


def mean_power(blocks: Blocks) -> Curve | None:
    """Return the mean radial power of the blocks; None if they are too small or none is finite."""
    whole = [i for i in range(len(blocks)) if _finite(blocks[i])]
    if not whole or min(blocks.shape[1:]) < SHORTEST:
        return None
    frequencies, power = radial_power(_batch(blocks[whole]))
    return frequencies.numpy(), power.mean(dim=0).numpy()


def same_images(images: Iterable[NDArray[Any]]) -> list[int]:
    """Return for each image the number of the first image that equals it, possibly its own."""
    seen: list[NDArray[Any]] = []
    found = []
    for number, image in enumerate(images):
        equal = (i for i, other in enumerate(seen) if np.array_equal(other, image, equal_nan=True))
        found.append(next(equal, number))
        seen.append(image)
    return found


def _finite(block: NDArray[Any]) -> bool:
    return bool(np.isfinite(block).all())


def _batch(blocks: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(blocks, dtype=np.float32)[:, None])
