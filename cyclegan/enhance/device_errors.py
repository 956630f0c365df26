"""Tell a GPU's errors apart: memory that ran out, which smaller tiles help, and a GPU that is lost.

PyTorch says in three ways that memory ran out: by `OutOfMemoryError`, by the status of a library
that allocates by itself, and, where cuDNN finds no algorithm whose workspace fits, by
`CUDNN_STATUS_NOT_SUPPORTED` or "unable to find an engine". The last two can mean something else; a
smaller tile is tried all the same, and if none works, the message is shown.

After errors such as a failed assertion or an illegal access every further call fails in this
process, whatever it is; only a new process can use the GPU again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from cyclegan.errors import CycleGANError

_OUT_OF_MEMORY = (
    "can't allocate memory",  # PyTorch, on a CPU
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True if less memory might have avoided the error."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(part in said for part in _OUT_OF_MEMORY)


def is_gpu_lost(error: RuntimeError) -> bool:
    """Return True if this process can't use the GPU any more."""
    failed = isinstance(error, torch.AcceleratorError) or "CUDA error:" in str(error)
    return failed and not is_out_of_memory(error)


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Turn a GPU's errors inside the block into one line that says what to do.

    Errors: `CycleGANError` for a lost GPU and for memory that ran out; all others unchanged.
    """
    try:
        yield
    except RuntimeError as error:
        line = str(error).strip().split("\n")[0]
        if is_gpu_lost(error):
            raise CycleGANError(
                f"the GPU failed: {line}; this process can't use it any more; call the same "
                "command again, which goes on from the finished tiles; if it fails again, take "
                "another --device"
            ) from error
        if is_out_of_memory(error):
            raise CycleGANError(
                f"memory ran out before the first tile: {line}; free some, or take --precision "
                "bf16, --no-trust or another --device"
            ) from error
        raise
