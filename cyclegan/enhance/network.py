"""Generators as tile operators: on their device, in their precision, compiled on request."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cyclegan.determinism import exact_arithmetic
from cyclegan.networks import Geometry, UNet3d
from cyclegan.numbers import round_up

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_PROBE = 32


class Generator:
    """A network as a `TileOperator` with the single output `data`.

    The network itself is not changed. fp32 leaves the dtype of its parameters (a float64 network
    computes in float64); bf16 uses bfloat16 weights and activations, channels last. Images go in
    and come out in float32 (float64).

    Args:
        compiled: use `torch.compile`; if that fails, a warning in the log says so and the network
            runs uncompiled.
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
        self.identity = f"{weights_hash(network)} {precision}{' compiled' if compiled else ''}"
        """Text that identifies the result: SHA-256 of the weights, and how they are applied."""
        dtype = next(network.parameters()).dtype
        self.image_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.dtype = torch.bfloat16 if precision == "bf16" else dtype
        ready = copy.deepcopy(network).requires_grad_(False).to(self.device, self.dtype).eval()
        if precision == "bf16":
            ready.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._network: nn.Module = ready
        self._compiled: Callable[[Tensor], Tensor] | None = None
        if compiled:
            # Freezing lets constant weights be laid out once; windows have one shape anyway.
            options: Any = {"freezing": True} if self.device.type == "cpu" else {}
            self._compiled = torch.compile(ready, dynamic=False, options=options)

    @property
    def alignment(self) -> int:
        """Alignment of the network's pooling, in input voxels."""
        return self.geometry.alignment

    @property
    def halo_left(self) -> int:
        """Halo of the network's receptive field before a core, in input voxels."""
        return self.geometry.halo_left

    @property
    def halo_right(self) -> int:
        """Halo of the network's receptive field after a core, in input voxels."""
        return self.geometry.halo_right

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        """The factor of `data`, the only output."""
        return {"data": self.geometry.factor}

    def translate(self, patch: Tensor) -> Tensor:
        """Map (B, C, z, y, x) on any device to (B, C', fz, fy, fx) on its own; no gradients."""
        with torch.inference_mode(), exact_arithmetic():
            patch = patch.to(self.device, self.dtype)
            if self.precision == "bf16":
                patch = patch.contiguous(memory_format=torch.channels_last_3d)
            return self._forward(patch).to(self.image_dtype)

    def _forward(self, patch: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                return self._compiled(patch)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                logger.warning(
                    "torch.compile does not work here, continuing without it: %s", reason
                )
                self._compiled = None
        image: Tensor = self._network(patch)
        return image

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        """Map a window to its image; see `TileOperator`."""
        return {"data": self.translate(patch)}


def weights_hash(*networks: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and values of all weights, in hexadecimal."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            array = value.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def choose_precision(
    asked: Precision | Literal["auto"],
    network: UNet3d,
    *,
    device: torch.device,
    trained_in_bf16: bool,
) -> Precision:
    """Return `asked`, or the precision that `auto` means here.

    `auto` means fp32, except for a network that was trained in bf16 and runs faster in bf16 here.
    """
    if asked != "auto":
        return asked
    if not trained_in_bf16:
        logger.info("precision: fp32 (the network was trained in it)")
        return "fp32"
    seconds = {p: _seconds(network, device, p) for p in PRECISIONS}
    chosen = min(PRECISIONS, key=seconds.__getitem__)
    logger.info(
        "precision: %s (a small tile takes %.3g s in fp32, %.3g s in bf16)",
        *(chosen, seconds["fp32"], seconds["bf16"]),
    )
    return chosen


def _seconds(network: UNet3d, device: torch.device, precision: Precision) -> float:
    generator = Generator(network, device=device, precision=precision)
    side = round_up(_PROBE, generator.alignment)
    patch = torch.zeros(1, generator.channels_in, side, side, side)
    times = []
    for _ in range(3):  # the first one includes the libraries' preparations
        start = time.perf_counter()
        generator.translate(patch).cpu()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _channels(network: nn.Module) -> tuple[int, int]:
    weights = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    return weights[0].in_channels, weights[-1].out_channels
