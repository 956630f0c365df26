"""A 3x3x3 convolution that is fast on CPUs, where PyTorch's own choice is slow for small images.

PyTorch leaves a convolution of one small image to its own kernel, which unfolds the image into
columns, instead of to oneDNN. With few filters this takes about eight times as long with AVX2, and
all of a training's time. `Conv3d` calls oneDNN, and computes both gradients by convolutions that
oneDNN does well. `benchmarks/training_step.py` measures it. Everywhere else (on GPUs, in bf16, in
exported models, on other processors) it is PyTorch's convolution.

Results differ from PyTorch's by rounding errors, as they do between any two processors.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

_ONES = [1, 1, 1]
USE_ONEDNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
)
"""True where oneDNN is known to be fast; on other processors it may have no such kernels."""


LEAST = 8192
"""Fewest numbers of an image (voxels times channels) with which oneDNN is the faster one; below
them an operation costs more to prepare than to compute."""


class Conv3d(nn.Conv3d):
    """A convolution 3x3x3 of stride 1 that keeps the image's size, (B, C, Z, Y, X)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` (B, C, Z, Y, X)."""
        if not _suits(x, self.weight):
            return super().forward(x)
        assert self.bias is not None
        result: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias
        )
        return result


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        USE_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 5
        and x.numel() >= LEAST * x.shape[0]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(torch.backends.mkldnn.enabled)
    )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.aten.mkldnn_convolution(x, weight, bias, _ONES, _ONES, _ONES, 1)
    return result


class _Convolution(torch.autograd.Function):
    """Convolution with zero padding of 1; its gradients can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        if x.shape[1] == 1:  # oneDNN's blocks of channels would be almost empty
            return _pytorchs_gradients(
                gradient, x, weight, _ONES, (needs_x, needs_weight, needs_bias)
            )
        of_x = (
            # This is a convolution, too, with the kernel reversed and its channels swapped.
            _convolve(gradient, weight.flip(2, 3, 4).transpose(0, 1).contiguous(), None)
            if needs_x
            else None
        )
        if not (needs_weight or needs_bias):
            return of_x, None, None
        _, of_weight, of_bias = _pytorchs_gradients(
            *_as_batch(gradient, x), weight, [0, 1, 1], (False, needs_weight, needs_bias)
        )
        return of_x, of_weight, of_bias


def _as_batch(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cut both images in two along Z, with what each half sees of the other, and stack the halves.

    PyTorch leaves a batch of two to oneDNN, however small its images are; its own kernel takes
    every single one that has few channels.
    """
    odd = gradient.shape[2] % 2 if gradient.shape[0] == 1 else 0
    x = nn.functional.pad(x, (0, 0, 0, 0, 1, 1 + odd))
    if gradient.shape[0] > 1:
        return gradient, x
    if odd:
        gradient = nn.functional.pad(gradient, (0, 0, 0, 0, 0, 1))
    half = gradient.shape[2] // 2
    return (
        torch.cat([gradient[:, :, :half], gradient[:, :, half:]]),
        torch.cat([x[:, :, : half + 2], x[:, :, half:]]),
    )


def _pytorchs_gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    padding: list[int],
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None] = (
        torch.ops.aten.convolution_backward(
            *(gradient, x, weight, [weight.shape[0]], _ONES, padding, _ONES),
            *(False, [0, 0, 0], 1, wanted),
        )
    )
    return gradients
