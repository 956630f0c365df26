"""Hold the images of a training step as the networks made them, and widen those that are read."""

from __future__ import annotations

from collections import UserDict

from torch import Tensor


class StepImages(UserDict[str, Tensor]):
    """Images (B, C, Z, Y, X) by name, float32 for whoever reads them.

    In bf16 the networks' images have half the size. Most steps' images are never read: they cost
    no copy. What was read once stays float32.
    """

    def __getitem__(self, name: str) -> Tensor:
        """Return an image in float32."""
        image = self.data[name].float()  # itself, if it is float32
        self.data[name] = image
        return image
