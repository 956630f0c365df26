"""Tell errors of a GPU apart: out of memory, sticky, or neither.

```
out_of_memory   an allocation failed; the process can go on once it has freed memory
sticky          the process has lost its device: each later call fails, only a new process helps
None            an ordinary error: a wrong shape, a setting that cuDNN does not support
```

PyTorch 2.8 and later raise `torch.AcceleratorError` with CUDA's error code; earlier versions, and
libraries such as cuDNN, cuBLAS and NCCL, only say it in the message. An error may be wrapped in
another one, so its causes count, too. What no message tells, `has_lost_device` asks the device.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from cyclegan.errors import CycleGANError

Kind = Literal["out_of_memory", "sticky"]

_MEMORY_CODES = frozenset({2})  # cudaErrorMemoryAllocation
_STICKY_CODES = frozenset(
    {
        *(3, 4, 46, 100, 201, 214, 220, 226),  # initialisation, unloading, no device, ECC, NVLink
        *(700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721),  # a kernel that went wrong
        *(802, 803, 810, 911, 999),  # driver, MPS, a device elsewhere, unknown
    }
)
"""Codes of `cudaError_t` of which CUDA's documentation says that the process must be started again,
or after which it has no device."""
_MEMORY_TEXTS = (
    "out of memory",
    "ALLOC_FAILED",  # CUDNN_STATUS_, CUBLAS_STATUS_, CUFFT_
    "ALLOCATION_FAILED",  # of cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "NVML_SUCCESS ==",  # PyTorch fails to word an out-of-memory error (its issue 112377)
    "unable to find an engine to execute",  # cuDNN's plans fail one by one where memory is short
)
_STICKY_TEXTS = (
    *("device-side assert triggered", "illegal memory access", "unspecified launch failure"),
    *("misaligned address", "illegal instruction", "invalid program counter"),
    *("hardware stack error", "operation not supported on global/shared address space"),
    *("ECC error", "NVLink error", "launch timed out"),
    *("busy or unavailable", "no CUDA-capable device", "No CUDA GPUs are available"),
    *("CUDA unknown error", "CUDA error: unknown error", "CUDA error: initialization error"),
    *("context is destroyed", "driver shutting down", "system not yet initialized"),
    *("STATUS_EXECUTION_FAILED", "STATUS_INTERNAL_ERROR", "STATUS_NOT_INITIALIZED"),
    *("STATUS_MAPPING_ERROR", "CUFFT_EXEC_FAILED", "CUFFT_INTERNAL_ERROR"),
    *("unhandled cuda error", "ncclUnhandledCudaError", "ncclSystemError", "ncclInternalError"),
    *("ncclRemoteError", "NCCL communicator was aborted"),
)
_SIGNS = re.compile(r"(?i)cuda|cudnn|cublas|cufft|nccl|gpu|nvml|unable to find an engine")
"""Words of which an error of a GPU has one: "out of memory" alone may be a file system's."""
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class GpuError:
    """An error of a GPU after which a process does not go on as before."""

    kind: Kind
    message: str
    """Its first line, with the type."""
    tried: int | None = None
    """Bytes of the allocation that failed; None if the message does not say."""
    allocated: int | None = None
    """Bytes that PyTorch's tensors of this process had at that time."""
    available: int | None = None
    """Bytes that this process had, and could have had, at that time."""

    @property
    def needed(self) -> int | None:
        """Bytes that would have been needed at least, or None if the message does not say."""
        if self.tried is None or self.allocated is None:
            return None
        return self.tried + self.allocated


def gpu_error(error: BaseException) -> GpuError | None:
    """Return what `error`, or one of its causes, says about a GPU; None if nothing."""
    for one in _chain(error):
        kind = _kind(one)
        if kind is not None:
            text = str(one)
            first = next(iter(text.strip().splitlines()), "")
            tried, allocated, available = _bytes_in(text)
            message = f"{type(one).__name__}: {first}"[:500]
            return GpuError(kind, message, tried, allocated, available)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, as a traceback shows them."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        hidden = one.__suppress_context__
        one = one.__cause__ or (None if hidden else one.__context__)


def _kind(error: BaseException) -> Kind | None:
    if isinstance(error, torch.OutOfMemoryError):
        return "out_of_memory"
    if not isinstance(error, RuntimeError):
        return None
    code, text = getattr(error, "error_code", None), str(error)
    if code in _MEMORY_CODES:
        return "out_of_memory"
    if code in _STICKY_CODES:
        return "sticky"
    if not _SIGNS.search(text):
        return None
    if any(sign in text for sign in _MEMORY_TEXTS):
        return "out_of_memory"
    return "sticky" if any(sign in text for sign in _STICKY_TEXTS) else None


def _bytes_in(text: str) -> tuple[int | None, int | None, int | None]:
    """Return what PyTorch tried to allocate, had allocated, and had available, in bytes."""

    def read(pattern: str) -> int | None:
        found = re.search(pattern.replace("#", r"([\d.]+) (bytes|[KMGT]iB)"), text)
        return round(float(found[1]) * _UNITS[found[2]]) if found else None

    free, own = read("of which # is free"), read("this process has # memory in use")
    allocated = read("# is allocated by PyTorch")
    reserved = read("# is reserved by PyTorch but unallocated")
    if own is None and allocated is not None:
        own = allocated + (reserved or 0)
    available = None if free is None else free + (own or 0)
    return read("Tried to allocate #"), allocated, available


# -- The device itself -------------------------------------------------------------------------


def has_lost_device() -> bool:
    """Return True if this process has used a GPU, and the GPU no longer answers it."""
    if not _has_used_gpu():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        found = gpu_error(error)
        return found is None or found.kind == "sticky"
    return False


def free_memory() -> None:
    """Give back the GPU memory that this process no longer needs, for others on the same GPU."""
    gc.collect()
    if _has_used_gpu() and not has_lost_device():
        torch.cuda.empty_cache()


def _has_used_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def require_gpu(device: torch.device) -> None:
    """Refuse to go on with a GPU that does not answer a process that has just begun.

    Errors: `CycleGANError` that names the device.
    """
    if not torch.cuda.is_available():
        raise CycleGANError(f"{gpu_name(device)} can't be used: PyTorch sees no GPU any more")
    try:
        torch.ones(1, device=device).add(1).item()
    except RuntimeError as error:
        found = gpu_error(error)
        if found is not None and found.kind == "out_of_memory":
            return  # others have its memory now; the training will say what it lacks
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CycleGANError(
            f"{gpu_name(device)} can't be used: {first}; look at it with nvidia-smi, or leave it "
            "out with CUDA_VISIBLE_DEVICES"
        ) from error


def gpu_name(device: torch.device) -> str:
    """Return a GPU's name for messages: its number, or the name by which it was made visible."""
    index, names = device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    visible = names[index].strip() if index < len(names) else ""
    return visible if visible.startswith(("GPU-", "MIG-")) else f"GPU {visible or index}"
