"""Arithmetic of a GPU that repeats bit for bit, and in which fp32 means fp32.

On a CPU nothing depends on these settings. What a training computes on a GPU, apart from them, has
one order of sums: convolutions without padding modes, pooling over windows that do not overlap, and
upsampling by repetition; sums over shells of the spectrum gather each mode once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

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
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=not deterministic, deterministic=deterministic, allow_tf32=False
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
