"""Arithmetic of a GPU that repeats bit for bit, and in which fp32 means fp32.

On a CPU nothing depends on these settings. What a training computes on a GPU, apart from them, has
one order of sums: convolutions without padding modes, pooling over windows that do not overlap, and
upsampling by repetition; sums over shells of the spectrum gather each mode once. A user's own loss
may compute anything.

PyTorch has two ways to allow TF32, one flag or a precision for each operator, and refuses to read
the flag while the two contradict each other. So both are set here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.deterministic

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def exact_arithmetic(*, deterministic: bool = True) -> Iterator[None]:
    """Set PyTorch's flags of arithmetic inside the block, and restore them afterwards.

    TF32, whose products have 10 bits, is off. The settings are those of the whole process.

    Args:
        deterministic: choose algorithms of cuDNN that repeat bit for bit, the same ones in every
            process. Otherwise cuDNN times its algorithms and takes the fastest, which may be
            another one in the next process.
    """
    if not torch.cuda.is_available():
        yield
        return
    if deterministic:  # how matrix products share their memory; PyTorch reads it at the first one
        os.environ.setdefault(_WORKSPACE, ":4096:8")
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    restore_tf32 = _without_tf32()
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, not deterministic, deterministic
    try:
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
        restore_tf32()


@contextlib.contextmanager
def training_arithmetic(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Train inside this block: `exact_arithmetic`, and for a user's own losses some more.

    On a GPU, if `deterministic`, all operations of PyTorch repeat bit for bit that can. Others run
    as they are, with a warning of PyTorch.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(exact_arithmetic(deterministic=deterministic))
        if deterministic and device.type == "cuda":
            stack.enter_context(_deterministic_operations())
        yield


@contextlib.contextmanager
def _deterministic_operations() -> Iterator[None]:
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = memory.fill_uninitialized_memory
    # Errors instead of warnings are for a caller who wanted them.
    torch.use_deterministic_algorithms(True, warn_only=before != (True, False))
    # Filling all new memory would cost time, and nothing here reads it before it is written.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def _without_tf32() -> Callable[[], None]:
    """Turn TF32 off, and return the function that puts the caller's settings back."""
    backends: Any = torch.backends
    # The old setting of products is that of the CPU, too.
    operators = (
        *(backends.cuda.matmul, backends.mkldnn.matmul),
        *(backends.cudnn.conv, backends.cudnn.rnn),
    )
    precisions = [operator.fp32_precision for operator in operators]
    matmul = _readable(torch.get_float32_matmul_precision, "highest")
    cudnn = _readable(lambda: backends.cudnn.allow_tf32, True)

    def restore() -> None:
        torch.set_float32_matmul_precision(matmul)
        backends.cudnn.allow_tf32 = cudnn
        for operator, precision in zip(operators, precisions, strict=True):
            operator.fp32_precision = precision

    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    for operator in operators:
        operator.fp32_precision = "ieee"
    return restore


def _readable(read: Callable[[], Any], default: Any) -> Any:
    """Return the old flag, or PyTorch's default if the caller has set operators apart from it."""
    try:
        return read()
    except RuntimeError:
        return default
