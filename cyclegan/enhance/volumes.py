"""Apply a generator, or any tile operator, to volumes on disk: exact, streaming, resumable.

The result does not depend on the tile size (see `grid.py`). Memory depends on the tile, not on the
volume: a slab of input of limited size, one window with its activations, one compressed core.
Finished tiles survive a kill (`partial.py`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan.data import Size, Volume, VolumeEntry
from cyclegan.data.grey_levels import LevelSample
from cyclegan.enhance.grid import Grid, Tile, TileOperator
from cyclegan.enhance.memory import budget_bytes, choose_grid, window_bytes
from cyclegan.enhance.network import Generator, Precision
from cyclegan.enhance.output import Job, Plan, describe
from cyclegan.enhance.partial import (
    Core,
    PartStore,
    Shard,
    agree,
    agreeing,
    discard,
    part_folder,
    resumable,
    shard_store,
    tiles_of_shards,
)
from cyclegan.enhance.pipeline import TileWriter, read_ahead
from cyclegan.enhance.settings import DEFAULT, EnhanceSettings
from cyclegan.enhance.tiling import Read, SlabReader, TileRunner, apply_tiled, read_padded
from cyclegan.errors import DataError
from cyclegan.files import refuse_overwrite
from cyclegan.networks import UNet3d
from cyclegan.numbers import ceil_div

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Function of the finished voxels of `data` and of all its voxels."""
_SLAB_SHARE, _SLAB_BYTES = 0.1, 512_000_000
"""Most memory for input that is read ahead, as a share of the budget and in bytes."""


@dataclass(frozen=True, kw_only=True)
class EnhanceResult:
    """Result of an enhancement."""

    path: Path
    shape: tuple[int, ...]
    """Shape of `data`: (Z, Y, X), with frames or channels in front if there are any."""
    tile: Size
    """Core of a tile in input voxels."""
    tiles: int
    """Number of tiles in all frames."""
    resumed: int
    """Number of tiles that an earlier call had finished."""
    seconds: float
    """Duration of this call in seconds."""

    @property
    def voxels_per_second(self) -> float:
        """Output voxels that this call made per second, without those of an earlier call."""
        share = 1 - self.resumed / self.tiles
        return share * math.prod(self.shape) / max(self.seconds, 1e-9)


def enhance_array(
    network: UNet3d | TileOperator,
    volume: NDArray[Any],
    *,
    tile: Size | None = None,
    memory_gb: float | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> NDArray[np.floating[Any]]:
    """Return the enhanced volume of a standardised array.

    (Z, Y, X) or (C, Z, Y, X) becomes factor x (Z, Y, X), with channels in front if the network
    makes several; float32, or float64 for a network in float64. Without `tile`, tiles are as large
    as the memory allows. If an operator has several outputs, this returns `data`; `apply_tiled`
    returns all.
    """
    operator = as_operator(network, device=device, precision=precision)
    dtype = operator.image_dtype if isinstance(operator, Generator) else torch.float32
    array = np.asarray(volume, dtype=np.float64 if dtype == torch.float64 else np.float32)
    shape: Size = (array.shape[-3], array.shape[-2], array.shape[-1])
    budget = budget_bytes(torch.device(device), memory_gb)
    core = choose_grid(operator, shape, wanted=tile, budget=budget).core
    image = apply_tiled(operator, array, core)["data"]
    result: NDArray[np.floating[Any]] = image[0] if operator.channels_out == 1 else image
    return result


def as_operator(
    network: UNet3d | TileOperator,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> TileOperator:
    """Return a network as an operator on `device`; return an operator unchanged."""
    if isinstance(network, torch.nn.Module):
        return Generator(network, device=device, precision=precision)
    return network


def enhance_file(
    network: UNet3d | TileOperator,
    source: VolumeEntry | Volume | Sequence[Volume],
    output: Path,
    settings: EnhanceSettings = DEFAULT,
    *,
    keep: bool = False,
    attributes: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> EnhanceResult:
    """Enhance a volume, or the frames of a time series, into an HDF5 file.

    `output.py` describes the file. The source is read as `Volume` reads it: standardised, with
    non-finite voxels replaced.

    Args:
        network: a network, or an operator, each output of which becomes a dataset.
        source: one volume (Z, Y, X), or volumes of equal shape that are the frames of a series.
        keep: leave an output as it is if this very call has made it before.
        on_progress: called at the start, with the voxels that an earlier call had finished, and
            after each tile.

    Errors: `DataError` for bad input or an output that exists; `BusyError` if another process is
    making it; one line for a full disk. After a kill, Ctrl-C or a full disk the finished tiles stay
    in `OUTPUT.part`, and the same call goes on from there.
    """
    # Killed after the output got its name: only the clean-up is left.
    nearly = output.exists() and part_folder(output).exists()
    if not (keep or nearly):
        refuse_overwrite(output, settings.overwrite)
    began = time.perf_counter()
    job = _job(network, source, settings)
    operator, volumes = job.operator, job.volumes
    frames = None if isinstance(source, VolumeEntry | Volume) else len(volumes)
    made = job.made(output) if keep or nearly else None
    if made is not None:
        if nearly:
            discard(output)
        return _done(output, Plan.of(operator, made, frames))
    refuse_overwrite(output, settings.overwrite)
    budget = budget_bytes(torch.device(settings.device), settings.memory_gb)
    grid = _grid(job, output, settings.tile, (1 - _SLAB_SHARE) * budget)
    plan = Plan.of(operator, grid, frames)
    layouts = plan.layouts(settings.compression)
    about = job.attributes(grid) | dict(attributes or {})
    slab = min(_SLAB_SHARE * budget, _SLAB_BYTES)
    work = _Work(operator, volumes, plan, slab, settings.scale, on_progress)

    def described(file: h5py.File) -> None:
        size = volumes[0].voxel_size_um
        describe(file, plan, voxel_size_um=size, attributes=about)

    with resumable(output, job.content(grid), layouts) as (store, temporary):
        resumed = len(store.finished)
        if resumed:
            logger.info("%s: %d of %d tiles were finished before", output, resumed, work.tiles)
        work.run(store)
        store.write(temporary, described)
    _warn_of_lost_levels(output, work.levels)
    return _done(output, plan, resumed, time.perf_counter() - began)


def enhance_shard(
    network: UNet3d | TileOperator,
    source: VolumeEntry | Volume | Sequence[Volume],
    output: Path,
    shard: Shard,
    settings: EnhanceSettings = DEFAULT,
    *,
    on_progress: Progress | None = None,
) -> bool:
    """Compute one shard's tiles of what `enhance_file` makes; return True if none is missing now.

    Then `enhance_file` with the same arguments puts all shards together, bit for bit as if one
    process had computed them. The first shard chooses the tiles, by its memory; the others take
    them.

    Args and errors: those of `enhance_file`; `BusyError` if another process is this shard.
    """
    job = _job(network, source, settings)
    frames = None if isinstance(source, VolumeEntry | Volume) else len(job.volumes)
    if job.made(output) is not None:
        return True
    refuse_overwrite(output, settings.overwrite)
    budget = budget_bytes(torch.device(settings.device), settings.memory_gb)
    with agreeing(output):
        started = job.started(output) if settings.tile is None else None
        most = (1 - _SLAB_SHARE) * budget
        grid = started or _grid(job, output, settings.tile, most, shard.count)
        agree(output, job.content(grid))
    plan = Plan.of(job.operator, grid, frames)
    slab = min(_SLAB_SHARE * budget, _SLAB_BYTES)
    work = _Work(job.operator, job.volumes, plan, slab, settings.scale, on_progress)
    with shard_store(output, shard, plan.layouts(settings.compression)) as store:
        work.run(store, shard)
    return len(tiles_of_shards(output)) == work.tiles


def _job(
    network: UNet3d | TileOperator,
    source: VolumeEntry | Volume | Sequence[Volume],
    settings: EnhanceSettings,
) -> Job:
    operator = as_operator(network, device=settings.device)
    return Job(
        operator=operator,
        identity=settings.identity,
        volumes=_volumes(source, operator.channels_in),
        region=settings.region,
        compression=settings.compression,
        scale=settings.scale,
    )


def _grid(job: Job, output: Path, tile: Size | None, budget: float, shares: int = 1) -> Grid:
    """Return the grid of `tile`, or else that of the tiles finished before.

    Those of shards stay whatever the memory here; others only if they fit.
    """
    started = job.started(output) if tile is None else None
    fits = started is not None and window_bytes(job.operator, started) <= budget
    if started is not None and (fits or tiles_of_shards(output)):
        return started
    shape = job.volumes[0].shape
    each = ceil_div(shares, len(job.volumes))  # of a series every frame has these tiles
    return choose_grid(
        job.operator, shape, region=job.region, wanted=tile, budget=budget, shares=each
    )


def _done(
    output: Path, plan: Plan, resumed: int | None = None, seconds: float = 0.0
) -> EnhanceResult:
    tiles = len(plan.grid) * (plan.frames or 1)
    return EnhanceResult(
        path=output,
        shape=(*plan.leading("data"), *plan.grid.output_shape(plan.outputs["data"])),
        tile=plan.grid.core,
        tiles=tiles,
        resumed=tiles if resumed is None else resumed,
        seconds=seconds,
    )


_ALL = Shard(1, 1)


class _Work:
    """The computation of all tiles of all frames."""

    def __init__(
        self,
        operator: TileOperator,
        volumes: Sequence[Volume],
        plan: Plan,
        slab_bytes: float,
        scale: tuple[float, float],
        on_progress: Progress | None,
    ) -> None:
        self.volumes, self.plan, self.scale = volumes, plan, scale
        self.runner = TileRunner(operator)
        self.slab_bytes, self.on_progress = slab_bytes, on_progress
        self.tiles = len(plan.grid) * len(volumes)
        self.levels = LevelSample(self.tiles)
        """Some voxels of `data`, as computed and as stored."""
        self._frame = -1

    def run(self, store: PartStore, shard: Shard = _ALL) -> None:
        """Compute the tiles of a shard that the store lacks."""
        grid, finished = self.plan.grid, store.finished
        own = [number for number in range(self.tiles) if shard.takes(number, self.tiles)]
        places = list(grid)
        voxels = [self._voxels(tile) for tile in places]
        total = sum(voxels[number % len(grid)] for number in own)
        done = sum(voxels[number % len(grid)] for number in own if number in finished)
        self._tell(done, total)
        missing = [number for number in own if number not in finished]

        def window(number: int) -> tuple[Read, NDArray[Any]]:
            read = self._reader(number // len(grid))
            return read, read_padded(read, places[number % len(grid)], grid.shape)

        with (
            TileWriter(store) as writer,
            contextlib.closing(read_ahead(missing, window)) as windows,
        ):
            for number, (read, patch) in windows:
                frame, index = divmod(number, len(grid))
                writer.add(number, self._cores(read, places[index], frame, patch))
                done += voxels[index]
                self._tell(done, total)
        # All was finished before, and nobody has looked at it.
        if self.levels.is_empty and shard == _ALL:
            self._cores(self._reader(0), places[0], 0)
        store.sync()

    def _reader(self, frame: int) -> SlabReader:
        """Return the reader of a frame, one at a time: each holds a slab."""
        if frame != self._frame:
            volume = self.volumes[frame]
            grid = self.plan.grid
            self._slabs = SlabReader(volume.read, grid, volume.channels, self.slab_bytes)
            self._frame = frame
        return self._slabs

    def _tell(self, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress(done, total)

    def _voxels(self, tile: Tile) -> int:
        window = self.plan.grid.outer(tile, self.plan.outputs["data"])
        return math.prod(s.stop - s.start for s in window)

    def _cores(
        self, read: Read, tile: Tile, frame: int, window: NDArray[Any] | None = None
    ) -> dict[str, Core]:
        cores = {}
        images = self.runner.run(read, tile, self.plan.grid, window)
        for name, image in images.items():
            if name == "data":
                image = self._scaled(image)
            if len(image) == 1:
                image = image[0]
            place = [s.start for s in self.plan.grid.outer(tile, self.plan.outputs[name])]
            origin = [*([frame] if self.plan.frames else []), *([0] * (image.ndim - 3)), *place]
            array = image[None] if self.plan.frames else image
            cores[name] = tuple(origin), np.asarray(array, dtype=np.float32)
        return cores

    def _scaled(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return an image in the units asked for, and remember some of its voxels."""
        offset, factor = self.scale
        scaled = image if self.scale == (0.0, 1.0) else offset + factor * image
        self.levels.add(image, np.asarray(scaled, dtype=np.float32))
        return scaled


def _warn_of_lost_levels(output: Path, levels: LevelSample) -> None:
    lost = levels.lost()
    if lost is not None:
        logger.warning(
            "%s: %s; float32 is too coarse for the grey values of these units; use --units "
            "standardised, or subtract an offset from the input first",
            output,
            lost.text,
        )


def _volumes(source: VolumeEntry | Volume | Sequence[Volume], channels: int) -> Sequence[Volume]:
    if isinstance(source, VolumeEntry):
        return [Volume(source, channels=channels)]
    if isinstance(source, Volume):
        return [source]
    first = source[0]
    for other in source:
        if other.shape != first.shape:
            raise DataError(
                f"{other.name} has {list(other.shape)} voxels, {first.name} {list(first.shape)}; "
                "the frames of a series must have one shape; enhance these one by one"
            )
    return source
