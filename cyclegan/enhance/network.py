"""Generators as tile operators: on their device, in their precision, compiled on request."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cyclegan import selftest
from cyclegan.determinism import exact_arithmetic
from cyclegan.errors import CycleGANError
from cyclegan.networks import Geometry, UNet3d
from cyclegan.numbers import round_up

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_PROBE = 32
_TESTED = 16
"""Voxels along an axis of the window of the self-test."""
_CORNER = 8
"""Voxels along an axis of the corners of a tile that are compared with fp32."""
_is_eager: contextvars.ContextVar[bool] = contextvars.ContextVar("eager", default=False)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Run networks as they are inside the block, for windows of another shape than the tiles have.

    Each shape would be compiled for half a minute.
    """
    token = _is_eager.set(True)
    try:
        yield
    finally:
        _is_eager.reset(token)


class Generator:
    """A network as a `TileOperator` with the single output `data`.

    The network itself is not changed. fp32 leaves the dtype of its parameters (a float64 network
    computes in float64); bf16 uses bfloat16 weights and activations, channels last. Images go in
    and come out in float32 (float64).

    What is not plain fp32 is compared with it at two corners of the first window of each shape:
    kernels are chosen by shape, and some were wrong in large images only.

    Args:
        compiled: use `torch.compile`; if that fails or computes something else, a warning in the
            log says so and the network runs uncompiled.

    Errors: `CycleGANError` of `translate` if bf16 is wrong in windows of this shape.
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
        self._original, self._compared = network, set[tuple[int, ...]]()
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
            given = patch.to(self.device, self.dtype)
            if self.precision == "bf16":
                given = given.contiguous(memory_format=torch.channels_last_3d)
            image = self._forward(given).to(self.image_dtype)
            reason = self._reason_for_distrust(patch, image)
            if reason is None:
                return image
            if self._compiled is None:
                raise CycleGANError(
                    f"{self.precision} is wrong on {self.device} in windows of "
                    f"{list(patch.shape[2:])} voxels: {reason}; use --precision fp32"
                )
            logger.warning("torch.compile computes something else, going on without: %s", reason)
            self._compiled = None
            del image
        return self.translate(patch)

    def _reason_for_distrust(self, patch: Tensor, image: Tensor) -> str | None:
        """Compare two corners of the first image of each shape with fp32."""
        plain = self._compiled is None and self.precision == "fp32"
        shape = tuple(patch.shape)
        if plain or _is_eager.get() or self.dtype == torch.float64 or shape in self._compared:
            return None
        side = round_up(_CORNER, self.alignment)
        # A corner depends on the voxels within one halo; the other side is the image's end.
        halo = round_up(max(self.halo_left, self.halo_right), self.alignment)
        if min(shape[2:]) <= side + halo:
            return None
        exact = copy.deepcopy(self._original).to(self.device).eval()
        compared = int(side * self.geometry.factor)
        for window, part in (
            (slice(side + halo), slice(compared)),
            (slice(-side - halo, None), slice(-compared, None)),
        ):
            found = image[(..., part, part, part)]
            reason = selftest.reason_for_distrust(
                exact,
                lambda _, found=found: found,  # type: ignore[misc]
                patch[(..., window, window, window)].to(self.device, torch.float32),
                is_fp32=self.precision == "fp32",
                part=(part, part, part),
            )
            if reason is not None:
                return reason
        self._compared.add(shape)
        return None

    def _forward(self, patch: Tensor) -> Tensor:
        if self._compiled is not None and not _is_eager.get():
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


def trusted_precision(
    precision: Precision, networks: Sequence[UNet3d], device: torch.device
) -> Precision:
    """Return `precision`, or fp32 if bf16 computes something wrong on `device`; the log says so.

    One small window goes through each network, see `cyclegan.selftest`. Without bf16 a CPU can
    still be wrong, where oneDNN computes: it is then turned off in this process.
    """
    if precision == "bf16":
        reason = _reason_for_distrust(networks, device, "bf16")
        if reason is None:
            return "bf16"
        logger.warning("bf16 is wrong on this device, using fp32: %s", reason)
    if device.type == "cpu" and torch._C._get_mkldnn_enabled():
        reason = _reason_for_distrust(networks, device, "fp32")
        if reason is not None:
            logger.warning("oneDNN is wrong on this CPU, going on without it: %s", reason)
            torch._C._set_mkldnn_enabled(False)
    return "fp32"


def _reason_for_distrust(
    networks: Sequence[UNet3d], device: torch.device, precision: Precision
) -> str | None:
    for network in networks:
        generator = Generator(network, device=device, precision=precision)
        if generator.image_dtype == torch.float64:
            continue
        side = round_up(_TESTED, generator.alignment)
        reason = selftest.reason_for_distrust(
            copy.deepcopy(network).to(device).eval(),
            generator.translate,
            selftest.standard_window(generator.channels_in, side, device),
            is_fp32=precision == "fp32",
        )
        if reason is not None:
            return reason
    return None


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
