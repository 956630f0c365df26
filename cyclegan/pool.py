"""The image pool: it sometimes shows discriminators generated images of earlier steps again.

This keeps a discriminator from forgetting what the generator did before, and dampens oscillation.
Source: Shrivastava 2017, as used in CycleGAN (Zhu 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Hold up to `size` images, each (C, Z, Y, X), on the device on which they arrive.

    The pool takes size x C x Z x Y x X x 4 bytes; it is part of every checkpoint and snapshot.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchange(self, generated: Tensor, random: torch.Generator) -> Tensor:
        """Return a batch like `generated` (B, C, Z, Y, X) for the discriminator.

        While the pool fills, this is the batch itself. Later each image is, with probability 1/2,
        swapped for an older one from the pool. `random` is on the CPU.
        """
        if self.size == 0:
            return generated
        result = []
        for image in generated.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                result.append(image)
            elif torch.rand((), generator=random) < 0.5:
                place = int(torch.randint(self.size, (), generator=random))
                result.append(self.images[place])
                self.images[place] = image.clone()
            else:
                result.append(image)
        return torch.stack(result)

    def state_dict(self) -> dict[str, Any]:
        """Return the images; references, not copies."""
        return {"images": list(self.images)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Replace the images by copies of those in `state`."""
        self.images = [image.to(device, copy=True) for image in state["images"]]
