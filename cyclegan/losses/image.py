"""Losses between two images (B, C, Z, Y, X) of standardised grey values; 0 if they are identical.

Each returns a 0-dimensional tensor, computed in float32 (float64 if given that) even under
autocast, with finite gradients for constant images too, and without waiting for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor
from torch.nn import functional

from cyclegan.losses.fourier import fsc
from cyclegan.losses.histogram import kl
from cyclegan.losses.precision import at_least_single
from cyclegan.losses.structure import ssim

ImageFunction = Callable[[Tensor, Tensor], Tensor]

DICE_SLOPE: Final = 4.0
"""Of the soft threshold: two phases at -1 and 1 count as foreground by 0.018 and 0.982."""
DICE_SMOOTH: Final = 1e-6
"""Added to overlap and sizes, as a share of the voxels: two empty foregrounds agree."""


@at_least_single
def l1(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return functional.l1_loss(image, target)


@at_least_single
def mse(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference."""
    return functional.mse_loss(image, target)


@at_least_single
def smooth_l1(image: Tensor, target: Tensor) -> Tensor:
    """Half the square below a difference of 1, the difference less 1/2 above (Girshick 2015)."""
    return functional.smooth_l1_loss(image, target)


@at_least_single
def dice(image: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice overlap of the two foregrounds, within [0, 1]; the mean over images, channels.

    The foreground is sigmoid(`DICE_SLOPE` * grey value): what is brighter than the volume's mean.
    With squares in the denominator, 1 - 2 sum(ab) / (sum(a^2) + sum(b^2)), the loss is 0 for
    identical images, soft foregrounds included. Source: Milletari 2016 (V-Net).
    """
    a = (DICE_SLOPE * image).sigmoid().flatten(2)
    b = (DICE_SLOPE * target).sigmoid().flatten(2)
    overlap = 2 * (a * b).mean(dim=2) + DICE_SMOOTH
    sizes = a.square().mean(dim=2) + b.square().mean(dim=2) + DICE_SMOOTH
    return 1 - (overlap / sizes).mean()


IMAGE: Final[Mapping[str, ImageFunction]] = {
    "l1": l1,
    "mse": mse,
    "smooth_l1": smooth_l1,
    "dice": dice,
    "ssim": ssim,
    "fsc": fsc,
    "kl": kl,
}
"""Image functions by name."""
