"""Choose the tile size: the free memory, the memory that a tile takes, and the cheapest grid."""

from __future__ import annotations

import ctypes
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cyclegan import slurm
from cyclegan.enhance.grid import Grid, Region, Size, TileOperator
from cyclegan.enhance.network import eager
from cyclegan.errors import UsageError
from cyclegan.numbers import ceil_div, round_up

LARGEST_CORE = 256
"""Most voxels of a core along an axis; larger tiles save hardly any halo."""
STEP = 16
"""Step of the lengths of cores in voxels, where there is room: compression likes whole chunks."""
SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the free memory that is used, by device, if the user sets no limit."""
SAFETY = 1.15
"""Factor on the computed memory of a tile: allocators hold more than they hand out."""
_PER_TILE = 20_000
"""Cost of a tile besides its voxels, in voxels: reading, compressing, starting kernels."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_PROBE = 16
_USUAL = 64
"""Voxels along an axis of the window that is measured, and of a usual window."""


def available_bytes(device: torch.device) -> int:
    """Return the free bytes of the GPU, or of this machine within this process's limits.

    Those are of control groups, of the address space, and of a SLURM job.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + kept
    limits = [psutil.virtual_memory().available, *_free_in_cgroups(), *_free_address_space()]
    of_job = slurm.memory_bytes()
    if of_job is not None:
        limits.append(of_job - resident_bytes())
    return max(min(limits), 0)


def budget_bytes(device: torch.device, memory_gb: float | None) -> int:
    """Return the bytes for a tile: a share of the free memory, or `memory_gb` less what is in use.

    `memory_gb` limits the peak of the whole process (of the GPU's memory, if that is the device).
    """
    if memory_gb is None:
        return int(SHARE[device.type] * available_bytes(device))
    used = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()
    return int(memory_gb * 1e9) - used


def keep_freed_memory() -> None:
    """Let this process keep freed memory for the next tile or training step, which is as large.

    glibc gives large blocks back at once and requests them again, and the kernel zeroes them each
    time, which takes a quarter of an enhancement's time and a tenth of a training's on a CPU.
    Blocks that stay fit less tightly: the peak can be half as high again. With another C library
    this does nothing.
    """
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    adjust(_M_TRIM_THRESHOLD, 2**31 - 1)
    adjust(_M_MMAP_MAX, 0)


def resident_bytes() -> int:
    """Return the bytes of memory that this process has in use."""
    return psutil.Process().memory_info().rss


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that this process has used so far; on a GPU, of the GPU's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def bytes_per_voxel(operator: TileOperator) -> float:
    """Return the peak memory in bytes per voxel of a window, without the weights.

    It is measured on a small window by following every tensor that is made and freed, together with
    a convolution's workspace: the columns of im2col where PyTorch unfolds, else copies of input and
    output in the blocked layout of oneDNN or cuDNN. Networks are convolutional, so memory grows
    with the number of voxels. Windows and results in float32 are added: the window in work with
    its standardised copy and the next one, and results as computed, scaled, waiting, compressed.
    """
    side = round_up(_PROBE, operator.alignment)
    patch = torch.zeros(1, operator.channels_in, side, side, side)
    with torch.inference_mode(), eager(), _AllocationCounter() as followed:
        images = operator(patch)
        del images
    ends = sum(
        4 * float(factor) ** 3 * (operator.channels_out if name == "data" else 1)
        for name, factor in operator.outputs.items()
    )
    own = followed.peak / float(side**3)
    return float(own + 3 * 4 * operator.channels_in + 4 * ends)


def window_bytes(operator: TileOperator, grid: Grid) -> float:
    """Return the bytes that a tile of the grid takes, with a safety margin."""
    return SAFETY * bytes_per_voxel(operator) * math.prod(grid.window)


def choose_grid(
    operator: TileOperator,
    shape: Size,
    *,
    region: Region | None = None,
    wanted: Size | None = None,
    budget: float,
    shares: int = 1,
) -> Grid:
    """Return the grid that computes the fewest voxels with tiles that fit into `budget` bytes.

    A core that is `wanted` is used unchanged. Else the tiles of an axis have about equal lengths.
    If the tiles are shared out among `shares` processes, what counts is the one with the most.

    Errors: `UsageError` if no tile fits, or if `wanted` is not a multiple of the alignment.
    """
    if wanted is not None:
        return Grid.of(operator, shape, wanted, region)
    each = SAFETY * bytes_per_voxel(operator)
    best: tuple[float, Grid] | None = None
    smallest = math.inf
    for core in _candidates(operator, shape, region):
        grid = Grid.of(operator, shape, core, region)
        voxels = math.prod(grid.window)
        smallest = min(smallest, voxels * each)
        cost = ceil_div(len(grid), shares) * (voxels + _PER_TILE)
        if voxels * each <= budget and (best is None or cost < best[0]):
            best = cost, grid
    if best is None:
        raise UsageError(
            f"the smallest tile of this network needs {smallest / 1e9:.2g} GB, but only "
            f"{max(budget, 0) / 1e9:.2g} GB are left; give more with --memory-gb, or set --tile"
        )
    return best[1]


def _candidates(operator: TileOperator, shape: Size, region: Region | None) -> Iterator[Size]:
    """Yield cores from large to small, each axis cut into equal parts."""
    alignment = operator.alignment
    lengths = [end - first for first, end in region or [(0, n) for n in shape]]
    seen = set()
    for side in range(max(LARGEST_CORE, alignment), 0, -alignment):
        core = []
        for length in lengths:
            count = ceil_div(length, side)
            part = ceil_div(length, count)
            step = math.lcm(alignment, STEP) if count > 1 and part >= 2 * STEP else alignment
            core.append(max(min(round_up(part, step), side // alignment * alignment), alignment))
        z, y, x = core
        if (z, y, x) not in seen:
            seen.add((z, y, x))
            yield z, y, x


class _AllocationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the most bytes of tensors alive at a time; tensors made outside don't count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage(tensor) not in given:
                self._made[_storage(tensor)] = tensor.untyped_storage().nbytes()
        dead = [ref for ref in self._made if ref.expired()]  # type: ignore[no-untyped-call]
        for ref in dead:
            del self._made[ref]
        extra = _beside(func.name(), args, result)
        self.peak = max(self.peak, sum(self._made.values()) + extra)
        return result


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _beside(name: str, arguments: Any, result: Any) -> int:
    """Return the bytes that an operation takes besides its arguments and its result.

    Inference mode shows a composite operation as a whole, not the kernels that it consists of.
    """
    if "max_pool" in name:
        return 8 * int((result if isinstance(result, Tensor) else result[0]).numel())  # indices
    if "conv" not in name:
        return 0
    image, weight = arguments[0], arguments[1]
    transposed = "transpose" in name or (len(arguments) > 6 and arguments[6] is True)
    copies = _blocked(result)
    if not image.is_contiguous(memory_format=torch.channels_last_3d):
        copies += _blocked(image)
    if "mkldnn" in name:
        return copies
    ones = [1] * weight[0, 0].ndim
    # PyTorch would unfold the small image, but not a window of usual size.
    wide = [*image.shape[:2], *(n * _USUAL // _PROBE for n in image.shape[2:])]
    backend = torch._C._select_conv_backend(
        image[:1, :1].reshape(-1)[:1].expand(wide),
        *(weight, None, ones, ones, ones, transposed, [0 * n for n in ones], 1, None),
    )
    if "Slow" not in backend.name:
        return copies
    inputs, outputs = (result, image) if transposed else (image, result)
    columns = inputs.shape[1] * math.prod(weight.shape[2:]) * math.prod(outputs.shape[2:])
    return max(copies, int(columns * image.element_size()))


def _blocked(image: Tensor) -> int:
    """Return the bytes of an image whose channels are padded to whole vectors of 16."""
    return int(image.nbytes) // int(image.shape[1]) * round_up(int(image.shape[1]), 16)


def _free_in_cgroups() -> Iterator[int]:
    """Yield the bytes that containers and batch systems leave (cgroups v2 and v1)."""
    for root, limit, used, name in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
        (
            Path("/sys/fs/cgroup/memory"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        for folder in _own_cgroups(root):
            try:
                most, taken = _number(folder / limit), _number(folder / used)
                statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
            except (OSError, ValueError):  # the root has no limit, and `max` is no number
                continue
            # The kernel gives back unused pages of files when memory is needed.
            cached = dict(zip(statistics[::2], statistics[1::2], strict=True)).get(name, "0")
            yield most - taken + int(cached)


def _own_cgroups(root: Path) -> Iterator[Path]:
    yield root
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            folder = root / place.strip("/")
            while folder != root and root in folder.parents:
                yield folder
                folder = folder.parent


def _free_address_space() -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        yield limit - resident_bytes()


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
