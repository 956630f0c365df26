"""Generators made ready to enhance: on their device, in their precision, compiled if wanted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from cyclegan.networks import Geometry, UNet3d

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]


class Generator:
    """A network as a `TileOperator` with the one output `data`.

    The network itself is not changed. Its parameters' dtype is kept for fp32 (a float64 network
    computes in float64); bf16 takes weights and activations in bfloat16, channels last. Images go
    in and come out in float32 (float64).

    Args:
        compiled: translate by `torch.compile`; where that fails, a line in the log says so and the
            network runs as it is.
    """

    def __init__(
        self,
        network: UNet3d,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        self.geometry: Geometry = network.geometry
        self.device = torch.device(device)
        self.precision = precision
        self.channels_in, self.channels_out = _channels(network)
        self.identity = weights_hash(network)
        """SHA-256 of the weights."""
        dtype = next(network.parameters()).dtype
        self.image_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.dtype = torch.bfloat16 if precision == "bf16" else dtype
        self._network = _copy(network).to(self.device, self.dtype).eval()
        if precision == "bf16":
            self._network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @property
    def alignment(self) -> int:
        """Of the network's pooling."""
        return self.geometry.alignment

    @property
    def halo_left(self) -> int:
        """Of the network's receptive field."""
        return self.geometry.halo_left

    @property
    def halo_right(self) -> int:
        """Of the network's receptive field."""
        return self.geometry.halo_right

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        """`data` alone."""
        return {"data": self.geometry.factor}

    def translate(self, patch: Tensor) -> Tensor:
        """(B, C, z, y, x) on any device -> (B, C', fz, fy, fx) on this one's, without gradients."""
        with torch.inference_mode():
            patch = patch.to(self.device, self.dtype)
            if self.precision == "bf16":
                patch = patch.contiguous(memory_format=torch.channels_last_3d)
            image: Tensor = self._network(patch)
            return image.to(self.image_dtype)

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        """See `TileOperator`."""
        return {"data": self.translate(patch)}


def weights_hash(*networks: nn.Module) -> str:
    """SHA-256 of the names, shapes and values of all weights, in hexadecimal."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            array = value.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _channels(network: nn.Module) -> tuple[int, int]:
    weights = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    return weights[0].in_channels, weights[-1].out_channels


def _copy(network: UNet3d) -> nn.Module:
    import copy

    return copy.deepcopy(network).requires_grad_(False)
