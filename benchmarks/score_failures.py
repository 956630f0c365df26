"""Faults on top of good trained generators: does the score see each of them?

Every fault wraps a generator A -> B and spoils its output, given the input. The loss of true PSNR
is measured beside the score and proves that it is a fault. `score_validity.py` uses this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cyclegan.metrics.spectrum import gaussian_low_pass
from cyclegan.score import Generator
from cyclegan.simulate.phantom import ATTENUATION, FIBRE_DIAMETER, RESIN

Fault = Callable[[Tensor, Tensor], Tensor]
"""Spoiled output (N, 1, Z, Y, X) from input and output."""
FAINT = {"ZYX": "checkerboard", "YX": "checkerboard in slices", "Z": "stripes along Z"}
"""Names of faint patterns by the axes along which they alternate."""
FAINT_AMPLITUDES = (0.01, 0.03, 0.09)
"""Amplitudes in standard deviations of B, from those of best generators to those of long runs."""


def faults(truth_std: float) -> Mapping[str, Fault]:
    """Return all faults by name; `truth_std`, of the attenuation, sets the contrast of a fibre."""
    contrast = (1 - RESIN) * ATTENUATION / truth_std
    found: dict[str, Fault] = {
        "not finite": lambda x, y: torch.where(y > y.amax() - 1e-3, math.nan, y),
        "collapsed to a constant": lambda x, y: torch.full_like(y, 0.1),
        "the same output for all": _same_for_all,
        "contrast inverted": lambda x, y: -y,
    }
    for mark, s in (("", 1.0), (", half as strong", 0.5)):
        found |= {
            f"intensity drift{mark}": lambda x, y, s=s: (1 + 0.6 * s) * y + 0.4 * s,
            f"noise passed on{mark}": lambda x, y, s=s: y + s * (x - y),
            f"over-blurred{mark}": lambda x, y, s=s: gaussian_low_pass(y, 2.0 * s),
            f"checkerboard{mark}": lambda x, y, s=s: y + 0.4 * s * _checkerboard(y),
            f"fibres painted{mark}": lambda x, y, s=s: y + s * contrast * painted_fibres(y.shape),
            f"noise hidden in a checkerboard{mark}": lambda x, y, s=s: (
                y + 0.7 * s * _fine(x) * _checkerboard(y)
            ),
        }
    for axes, what in FAINT.items():
        for a in FAINT_AMPLITUDES:
            found[f"faint {what}, {a:g}"] = lambda x, y, a=a, axes=axes: (
                y + a * _checkerboard(y, axes)
            )
    found[f"faint checkerboard in bright parts, {FAINT_AMPLITUDES[-1]:g}"] = lambda x, y: (
        y + FAINT_AMPLITUDES[-1] * (gaussian_low_pass(y, 2.0) > 0) * _checkerboard(y)
    )
    return found


class Faulty:
    """A generator with a fault."""

    def __init__(self, generator: Generator, fault: Fault) -> None:
        self.generator, self.fault = generator, fault

    def __call__(self, patches: Tensor) -> Tensor:
        """Return the spoiled output of `generator`."""
        return self.fault(patches, self.generator(patches))


def painted_fibres(shape: tuple[int, ...]) -> Tensor:
    """Return pieces of fibres along Z, (N, 1, Z, Y, X), 16 voxels long, bright and dark.

    They fill about a tenth of every volume, at places that don't depend on its content.
    """
    random = torch.Generator().manual_seed(8)
    z, y, x = (
        torch.arange(n, dtype=torch.float32).reshape([-1 if a == i else 1 for a in range(3)])
        for i, n in enumerate(shape[2:])
    )
    radius = FIBRE_DIAMETER / 2
    count = max(round(0.1 * math.prod(shape[2:]) / (16 * math.pi * radius**2)), 2)
    picture = torch.zeros(shape)
    for volume in picture[:, 0]:
        for number in range(count):
            cz, cy, cx = (torch.rand(3, generator=random) * torch.tensor(shape[2:])).tolist()
            disc = (radius - torch.hypot(y - cy, x - cx) + 0.5).clamp(0, 1)
            volume += (1 - 2 * (number % 2)) * disc * ((z - cz).abs() < 8)
    return gaussian_low_pass(picture, 0.9)


def _same_for_all(_: Tensor, output: Tensor) -> Tensor:
    z, y, x = output.shape[2:]
    noise = torch.randn((1, 1, z, y, x), generator=torch.Generator().manual_seed(3))
    return gaussian_low_pass(noise, 2.0).mul(10).expand_as(output).contiguous()


def _fine(volumes: Tensor) -> Tensor:
    return volumes - gaussian_low_pass(volumes, 1.0)


def _checkerboard(volumes: Tensor, axes: str = "ZYX") -> Tensor:
    """Return 1 and -1 in turn along `axes`, (Z, Y, X)."""
    z, y, x = (
        torch.arange(n) if axis in axes else torch.zeros(n, dtype=torch.long)
        for axis, n in zip("ZYX", volumes.shape[2:], strict=True)
    )
    return 1.0 - 2.0 * ((z[:, None, None] + y[:, None] + x) % 2)
