"""Zero-centred gradient penalties of discriminators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cyclegan.losses.precision import widened


def gradient_penalty(judge: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return the mean over voxels of the squared gradient of the summed patch map.

    `judge` maps `image` (B, C, Z, Y, X) to logits (B, 1, z, y, x). A voxel's gradient collects all
    patches that see it, so the mean does not depend on the size of the image, but for its rim,
    which fewer patches see. Computed in single precision whatever the caller's autocast says:
    squares of small gradients vanish in half precision. At real images this is R1, at generated
    ones R2, without their factor weight / 2. Source: Mescheder 2018 (arXiv:1801.04406).
    """
    with torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        inputs = widened(image.detach()).requires_grad_()
        judged = judge(inputs).sum()
        (gradient,) = torch.autograd.grad(judged, inputs, create_graph=True)
        return gradient.square().sum(dim=1).mean()
