"""The device's own limits, and training steps against them, for `gpu.py`.

Functions take the device and the sizes, and return plain values for the tables and the JSON.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import matmul_speed, seconds_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cyclegan import Config, convolution, parse_config
from cyclegan.config import load_yaml, override
from cyclegan.degrader import Degrader
from cyclegan.gpu_errors import free_memory, gpu_error
from cyclegan.model import CycleGAN

Row = dict[str, Any]
RECIPE = Path(__file__).resolve().parent.parent / "studies" / "recipe.yaml"
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Sizes:
    """The sizes of what is measured."""

    steps: tuple[tuple[int, int], ...] = ((8, 32), (16, 32), (16, 64), (32, 64), (32, 96))
    """Filters and side of a patch of each training."""
    seconds: float = 4.0
    """Time for which each training is timed."""
    volume: int = 384
    """Side of the enhanced volume in voxels."""
    filters: int = 32
    """Filters of the network that enhances it."""
    score_patch: int = 64
    exact_steps: int = 12
    matrix: int | None = None
    """Side of the matrices for the device's speed; None for that of `machine.py`."""


QUICK = Sizes(
    steps=((2, 16),),
    seconds=0.2,
    volume=40,
    filters=2,
    score_patch=16,
    exact_steps=4,
    matrix=256,
)


@contextlib.contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Let products and convolutions in fp32 use TF32 in the block, or not."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


# -- The device's own limits -------------------------------------------------------------------


def peaks(device: str, sizes: Sizes) -> Row:
    """Return the most FLOP/s in each precision, and bytes/s of a copy on the device."""
    found = {}
    for name in precisions(device):
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        with precision_of(name):
            found[name] = _products(device, dtype, sizes.matrix)
    count = (sizes.matrix or 16_384) ** 2
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    fastest = min(seconds_of(device, lambda: target.copy_(source)) for _ in range(6))
    return {"flop_per_s": found, "copied_bytes_per_s": 2 * source.nbytes / fastest}


def _products(device: str, dtype: torch.dtype, side: int | None) -> float:
    if side is None:
        return matmul_speed(device, dtype)
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(seconds_of(device, lambda: torch.mm(a, a)) for _ in range(6))


def precisions(device: str) -> tuple[str, ...]:
    """Return the precisions that the device has; TF32 is one of GPUs."""
    return PRECISIONS if device.startswith("cuda") else ("fp32", "bf16")


# -- A training step ---------------------------------------------------------------------------


def recipe(changes: Mapping[str, Any]) -> Config:
    """Return the recipe's configuration with changes; its data are not read."""
    base = {"pretrain_steps": 0, "hp_optimizer": False, "steps": 1000}
    return parse_config(override(load_yaml(RECIPE), base | dict(changes)))


def step_of(device: str, filters: int, patch: int, precision: str) -> Callable[[], None]:
    """Return a function for one step of the recipe, running means included."""
    changes = {
        "filters": filters,
        "filters_D": filters,
        "imsize_A": [patch] * 3,
        "precision": "bf16" if precision == "bf16" else "fp32",
    }
    config = recipe(changes)
    torch.manual_seed(0)
    stand_in = Degrader.stand_in(1, config.super_resolution, config.imsize_A)
    model = CycleGAN(config, torch.device(device), stand_in)
    random = torch.Generator().manual_seed(0)
    real_A, real_B = (
        torch.randn(1, 1, *size, generator=random).to(device)
        for size in (config.imsize_A, config.imsize_B)
    )

    def step() -> None:
        model.training_step(real_A, real_B)
        model.update_mean(1)

    return step


def training_rows(device: str, sizes: Sizes, limits: Row) -> list[Row]:
    """Return a row for each training: time, speed, memory, and share of the roofline.

    The roofline is the time that the device needs at least: for the step's FLOP at the speed of
    large matrix products, or for its bytes at the speed of a copy, whichever is longer.
    """
    rows = []
    for filters, patch in sizes.steps:
        for precision in precisions(device):
            row: Row = {"filters": filters, "patch": patch, "precision": precision}
            try:
                with precision_of(precision):
                    row |= _timed(device, row, sizes.seconds, limits)
            except RuntimeError as error:
                found = gpu_error(error)
                if found is None or found.kind == "sticky":
                    raise
                row["problem"] = "out of memory"
            rows.append(row)
            free_memory()
    return rows


def _timed(device: str, row: Row, budget: float, limits: Row) -> Row:
    step = step_of(device, row["filters"], row["patch"], row["precision"])
    step()  # it chooses algorithms and makes the optimizers' moments
    flop, moved = work_of(step)
    step()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 200):
        times.append(seconds_of(device, step))
    seconds = statistics.median(times)
    of_products = flop / limits["flop_per_s"][row["precision"]]
    of_memory = moved / limits["copied_bytes_per_s"]
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
    return {
        "seconds": seconds,
        "voxels_per_s": 2 * row["patch"] ** 3 / seconds,
        "peak_bytes": peak,
        "flop": flop,
        "moved_bytes": moved,
        "bound": "products" if of_products > of_memory else "memory",
        "of_products": of_products / seconds,
        "of_roofline": max(of_products, of_memory) / seconds,
    }


def work_of(step: Callable[[], None]) -> tuple[int, int]:
    """Return the FLOP of a step, and the bytes that its operations read and write.

    Bytes are those of eager operations, each with its own arguments and results. What caches and
    fused kernels save is not known, so a share of the roofline may exceed 1.
    """
    # The counter knows PyTorch's own convolutions only.
    with (
        mock.patch.object(convolution, "USE_ONEDNN", False),
        FlopCounterMode(display=False) as counter,
        _Moved() as moved,
    ):
        step()
    return counter.get_total_flops(), moved.bytes


class _Moved(TorchDispatchMode):
    """Adds up the bytes of arguments and results of operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not func.is_view and "empty" not in func.name():
            self.bytes += sum(tensor.nbytes for tensor in (*given, *made))
        return result
