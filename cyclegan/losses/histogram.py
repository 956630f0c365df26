"""Kullback-Leibler divergence between two images' grey-value histograms as a loss."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cyclegan.losses.precision import at_least_single

LOW: Final = -5.0
HIGH: Final = 5.0
"""Ends of the histogram, in standard deviations; values beyond count in the outermost bins."""
BINS: Final = 64
"""Bins between `LOW` and `HIGH`, each 0.16 standard deviations wide."""
UNIFORM: Final = 0.01
"""Share of a uniform distribution mixed into both histograms: empty bins stay finite."""
UNIT: Final = 2**30
"""Parts into which one voxel's count is divided."""


@at_least_single
def kl(image: Tensor, target: Tensor) -> Tensor:
    """KL(target || image) of soft grey-value histograms, in nats; the mean over images, channels.

    Where voxels lie plays no part, so it goes beside a loss that knows. A voxel counts in the two
    bins whose centres are nearest, linearly (a triangular Parzen window), which makes the counts
    differentiable. Voxels outside `LOW` to `HIGH` get no gradient. At most ln(`BINS` / `UNIFORM`)
    = 8.8. Source of the soft histogram: Ustinova and Lempitsky 2016 (arXiv:1611.00822).
    """
    p, q = _distribution(target), _distribution(image)
    return (p * (p / q).log()).sum(dim=2).mean()


def _distribution(images: Tensor) -> Tensor:
    """(B, C, `BINS`): how likely a voxel falls into each bin; positive, sums to 1."""
    b, c = images.shape[:2]
    counts: Tensor = _SoftHistogram.apply(images.reshape(b * c, -1))  # type: ignore[no-untyped-call]
    return ((1 - UNIFORM) * counts + UNIFORM / BINS).view(b, c, BINS)


class _SoftHistogram(torch.autograd.Function):
    """Rows of values (R, N) to shares (R, `BINS`).

    By hand because it needs 2 bytes a voxel for the way back and gathers there, where automatic
    differentiation keeps several floats.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        position = (values - LOW) * (BINS / (HIGH - LOW)) - 0.5
        # A NaN is no index; it comes back below.
        clamped = position.nan_to_num(nan=0.0).clamp(0, BINS - 1)
        lower = clamped.floor().clamp(max=BINS - 2)
        # Whole parts of a voxel: integer sums come out the same in any order, also on a GPU.
        upper_part = ((clamped - lower) * UNIT).round().long()
        index = lower.long()
        counts = torch.zeros(len(values), BINS, dtype=torch.long, device=values.device)
        counts.scatter_add_(1, index, UNIT - upper_part).scatter_add_(1, index + 1, upper_part)
        ctx.save_for_backward(lower.to(torch.uint8), position == clamped)
        shares = (counts.double() / (UNIT * values.shape[1])).to(values.dtype)
        not_finite_shows = 0 * values.sum(dim=1, keepdim=True)
        return shares + not_finite_shows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        lower, inside = ctx.saved_tensors
        slopes = gradient.diff(dim=1) * (BINS / (HIGH - LOW) / lower.shape[1])
        result: Tensor = slopes.gather(1, lower.long()) * inside
        return result
