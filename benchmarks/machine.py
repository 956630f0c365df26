"""Measurements of a machine for the other scripts: time, peak memory and top speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch


def work_seconds() -> float:
    """Return a clock of the work done, for differences, in seconds.

    Without a GPU it counts the processor's time, which waiting for other programs is no part of.
    """
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def seconds_of(device: str, call: Callable[[], object]) -> float:
    """Return the seconds of one call, a GPU's work included."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def matmul_speed(device: str, dtype: torch.dtype) -> float:
    """Return the best FLOP/s of a large matrix product: this machine's top speed in `dtype`."""
    size = 8192 if device.startswith("cuda") else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(seconds_of(device, lambda: torch.mm(a, a)) for _ in range(6))


def peak_bytes(device: str) -> int:
    """Return the peak memory of this process in bytes, on the GPU if that is the device."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
