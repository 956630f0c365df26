"""Test at start-up that a fast path of a network computes what the network computes in fp32.

PyTorch has had bf16 convolutions with wrong results and no error: on CPUs for some shapes
(pytorch#169688, pytorch#163347), on GPUs with cuDNN 9.10 for large images (pytorch#163539). So
before bf16, autocast, channels-last or compiled code is trusted, it is compared with fp32 on the
same device.

**Bound.** How far off bf16 may be depends on the network. It is therefore measured on the network
itself, in fp32: weights, the input and each layer's output are rounded to bf16 (8 bits), as bf16
does, and everything is added up in fp32, as its kernels do. The difference e that this makes is one
draw of what bf16's rounding does. A right kernel's is another one, of the same size, because errors
of thousands of voxels are averaged. A path is wrong if its root mean square exceeds `FACTOR` e, or
its largest error `FACTOR` times the largest one: the factor allows for kernels that round more
often. On a CPU with bf16 units all networks stayed between 0.8 and 1.2 e; a wrong convolution is
off by about the signal, some hundred times e. Where the image is constant, e is a single draw and
may be next to nothing: an error of `_FLOOR` of the largest value, a few roundings, is always
allowed.

fp32 rounds 2^16 times finer than bf16, but adds up thousands of terms in another order. fp32 paths
may be off by 2^-8 of all this; a fiftieth of that was seen.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan.determinism import exact_arithmetic

FACTOR = 4.0
"""Most times the error that rounding explains."""
_FINER = 2.0**-8
"""Share of that error which an fp32 path may have."""
_FLOOR = 2.0**-7
"""Error of bf16, as a share of the largest value, that is never too large."""


@dataclass(frozen=True)
class Difference:
    """Errors of an image: their root mean square and the largest one."""

    typical: float
    largest: float


def standard_window(channels: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the window (1, C, side, side, side) of the test: always the same white noise.

    It draws from no generator that anybody else uses.
    """
    random = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, side, side, side, generator=random).to(device)


def reason_for_distrust(
    network: nn.Module,
    fast: Callable[[Tensor], Tensor],
    window: Tensor,
    *,
    is_fp32: bool = False,
    part: tuple[slice, ...] = (),
) -> str | None:
    """Return how far `fast` is off if rounding does not explain it, else None.

    Args:
        network: the network in fp32, on the window's device. Its forward pass changes nothing, so
            neither it nor any random state changes.
        fast: what is to be tested: the same network in bf16, under autocast, compiled. Its images
            have the network's shape, in any dtype.
        window: (B, C, z, y, x) in fp32.
        is_fp32: `fast` computes in fp32, too.
        part: the part of the image that is compared, along Z, Y, X; `fast` returns that alone.
    """
    crop: Any = (..., *part)
    with torch.no_grad(), _plain_fp32():
        exact = network(window)[crop].double()
        rounded = _rounded(network, window)[crop].double()
    with torch.no_grad():
        found = fast(window).double()
    explained, own = _difference(rounded, exact), _difference(found, exact)
    finer = _FINER if is_fp32 else 1.0
    floor = _FLOOR * float(exact.abs().max())
    bounds = [
        finer * max(FACTOR * error, floor) for error in (explained.typical, explained.largest)
    ]
    if own.typical <= bounds[0] and own.largest <= bounds[1]:  # never so for NaN
        return None
    scale = float(exact.std()) or 1.0
    return (
        f"it differs from fp32 by {own.typical / scale:.2g} standard deviations of the image "
        f"(largest {own.largest / scale:.2g}), and rounding explains {bounds[0] / scale:.2g} "
        f"(largest {bounds[1] / scale:.2g})"
    )


def under_autocast(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network under bf16 autocast, as a training applies it."""

    def fast(window: Tensor) -> Tensor:
        with torch.autocast(window.device.type, torch.bfloat16):
            image: Tensor = network(window)
        return image

    return fast


def _difference(image: Tensor, exact: Tensor) -> Difference:
    error = image - exact
    return Difference(float(error.square().mean().sqrt()), float(error.abs().max()))


def _rounded(network: nn.Module, window: Tensor) -> Tensor:
    """Return the network's image if weights, input and each layer's output are rounded to bf16."""
    rounding = copy.deepcopy(network)
    for parameter in rounding.parameters():
        parameter.copy_(_to_bf16(parameter))
    for module in rounding.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, given, image: _to_bf16(image))
    image: Tensor = rounding(_to_bf16(window))
    return image


def _to_bf16(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).to(values.dtype)


@contextlib.contextmanager
def _plain_fp32() -> Iterator[None]:
    """Compute in fp32, without autocast, TF32 and oneDNN."""
    with (
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        exact_arithmetic(),
    ):
        before = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)  # `mkldnn.flags` warns of Intel GPUs
        try:
            yield
        finally:
            torch._C._set_mkldnn_enabled(before)
