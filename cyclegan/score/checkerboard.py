"""The checkerboard in fake B, which transposed convolutions leave with the period of their stride.

Such a pattern is locked to the network's grid: voxels at even and odd positions differ along one,
two or all three axes. A radial spectrum averages it away or ends before it, and its energy is too
small for the sliced Wasserstein distance. Its amplitudes are those of the waves of its period (for
period 2: 1 and -1 in turn) in each of the seven directions, measured in smooth windows into which
nothing else of the volume leaks.

The square of an amplitude would be mostly noise. The *product* of the amplitudes in two windows
that don't overlap is 0 on average for noise and for edges, whose positions are independent of the
grid, and it is the pattern's energy if both windows show it. Each direction has three estimates:

- of a pattern that is the same everywhere, from all pairs of different patches;
- of one proportional to the grey value, as when one material shows it and the other does not or
  shows it inverted, from the same pairs, each amplitude times the grey value of its window;
- of one with any sign that lasts for some voxels, from windows that touch at a corner.

The first two are added and detect the faintest patterns; the third counts if it is larger. All are
in units of real B's standard deviation. The same estimate for real B and the uncertainty of both
are subtracted: the result is 0 without a pattern.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan.score.deferred import Deferred

ORDER = 7
"""Number of boxes, each one period long, whose convolution is a window. It suppresses slow
variation and all other waves of the pattern's period, the mean grey value among them."""
SIGNIFICANCE = 4.0
"""Standard errors above which a pattern counts: products of amplitudes have long tails, and every
direction is a test of its own."""


class Checkerboard:
    """Measure sets of volumes against `real` (M, 1, Z, Y, X), M >= 2, at least 8 voxels per axis.

    `factor` is the ratio of the resolutions; at 4x, upsampling twice leaves periods 2 and 4.
    """

    def __init__(self, real: Tensor, factor: int) -> None:
        self.period = 4 if factor == 4 else 2
        self.std = max(float(real.double().std()), 1e-30)
        self.null = _Pattern.of(self._amplitudes(real))

    def parts(self, fake: Tensor) -> dict[str, float]:
        """Return the amplitude in `fake` (N, 1, Z, Y, X), N >= 2, over all directions together."""
        return self.deferred(fake).result()

    def deferred(self, fake: Tensor) -> Deferred[dict[str, float]]:
        """Return the same without waiting for the device."""
        found = _Pattern.of(self._amplitudes(fake))
        chance = SIGNIFICANCE * torch.hypot(found.error, self.null.error)
        excess = found.energy - self.null.energy.clamp_min(0.0) - chance
        same, proportional, lasting = excess.clamp_min(0.0)
        energy = torch.maximum(same + proportional, lasting).sum()
        return Deferred([energy], lambda found: {"checkerboard": math.sqrt(float(found))})

    def _amplitudes(self, volumes: Tensor) -> Tensor:
        return amplitudes(volumes[:, 0], self.period) / self.std


@dataclass(frozen=True)
class _Pattern:
    """Energy of a set's pattern, and its standard error if there is no pattern.

    Both are (3, K): the three kinds of pattern, for each of the K waves.
    """

    energy: Tensor
    error: Tensor

    @classmethod
    def of(cls, found: Tensor) -> _Pattern:
        """Estimate both from amplitudes (N, 1 + K, windows along Z, Y, X), the constant first."""
        grey, waves = found[:, :1], found[:, 1:]
        grey = (grey - grey.mean()) / grey.std().clamp_min(1e-30)
        kinds = _between_patches(waves), _between_patches(waves * grey), _between_neighbours(waves)
        energies, errors = zip(*kinds, strict=True)
        return cls(torch.stack(energies), torch.stack(errors))


def amplitudes(volumes: Tensor, period: int) -> Tensor:
    """Return the amplitudes of all waves of this period in each window, the constant first.

    `volumes` is (N, Z, Y, X), the result (N, period^3, windows along Z, Y, X), float64. The squares
    of a pattern's amplitudes add up to its variance. Neighbouring windows overlap by half.
    """
    z, y, x = volumes.shape[1:]
    for_z, for_y, for_x = _windowed_waves((z, y, x), period, volumes.device)
    # One volume at a time: double precision for all volumes would double a validation's memory.
    grids = [
        torch.einsum("zyx,pcx,oby,naz->nopabc", volume.double(), for_x, for_y, for_z)
        for volume in volumes
    ]
    return torch.stack(grids).flatten(1, 3)


@functools.lru_cache(maxsize=8)
def _windowed_waves(
    shape: tuple[int, int, int], period: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return `_rows` for every axis; on `device`, because a report would wait for every copy."""
    with torch.inference_mode(False):  # a cached tensor must serve later trainings, too
        window = _window(min(shape), period)
        return tuple(_rows(size, window, period).to(device) for size in shape)


def _window(size: int, period: int) -> Tensor:
    """Return a window of even length, at most half as long as an axis of `size`; its sum is 1."""
    order = min(ORDER, (size // 2 - 1) // (period - 1))
    window = torch.ones(1, dtype=torch.float64)
    box = torch.full((1, 1, period), 1 / period, dtype=torch.float64)
    for _ in range(order - 1 + order % 2):
        window = torch.nn.functional.conv1d(window[None, None], box, padding=period - 1)[0, 0]
    return window


def _rows(size: int, window: Tensor, period: int) -> Tensor:
    """Return (waves, windows, size): each wave through each window, the constant first."""
    place = torch.arange(size, dtype=torch.float64)
    waves = [torch.ones_like(place), 1 - 2 * (place % 2)]
    if period == 4:
        turn = math.pi / 2 * place
        waves += [math.sqrt(2) * torch.cos(turn), math.sqrt(2) * torch.sin(turn)]
    starts = range(0, size - len(window) + 1, len(window) // 2)
    windows = torch.zeros((len(starts), size), dtype=torch.float64)
    for row, start in zip(windows, starts, strict=True):
        row[start : start + len(window)] = window
    return torch.stack(waves)[:, None] * windows


def _between_patches(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean product over all pairs of patches (K,), and its error without a pattern."""
    means = found.flatten(2).mean(dim=2)
    pairs = len(means) * (len(means) - 1)
    energy = (means.sum(dim=0).square() - means.square().sum(dim=0)) / pairs
    return energy, means.var(dim=0) * math.sqrt(2 / pairs)


def _between_neighbours(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same over all pairs of windows that touch at a corner; few edges run through both.

    The error comes from the differences between the windows of a pair, which lack the pattern.
    """
    total = noise = torch.zeros_like(found[0, :, 0, 0, 0])
    pairs = 0
    for flipped in ((), (3,), (4,), (3, 4)):
        turned = found.flip(flipped)
        first, second = turned[:, :, :-2, :-2, :-2], turned[:, :, 2:, 2:, 2:]
        total = total + (first * second).sum(dim=(0, 2, 3, 4))
        noise = noise + (first - second).square().sum(dim=(0, 2, 3, 4)) / 2
        pairs += first[:, 0].numel()
    return total / pairs, noise / pairs / math.sqrt(pairs)
