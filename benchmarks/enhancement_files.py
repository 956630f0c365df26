"""The part of `enhancement.py` that goes from file to file: the way before, and the way now."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import torch
from machine import peak_bytes
from scipy.ndimage import gaussian_filter

from cyclegan.data import VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.enhance.chunks import FILTERS
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.enhance.network import Generator
from cyclegan.enhance.partial import PartStore
from cyclegan.networks import UNet3d

BEFORE, NOW = "one after the other", "at the same time"
FILES = tuple(
    f"{operator}, {compression}, {way}"
    for operator in ("no network", "fp32", "bf16")
    for compression in ("gzip", "lz4", "none")
    for way in (BEFORE, NOW)
    if operator == "no network" or compression == "gzip"
)


class Copying:
    """A tile operator without a network: the window itself."""

    alignment, halo_left, halo_right = 4, 16, 16
    channels_in, channels_out = 1, 1
    identity = "copy"

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        """The factor of the only output."""
        return {"data": Fraction(1)}

    def __call__(self, patch: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Copy a window."""
        return {"data": patch.clone()}


class WriterBefore:
    """A `TileWriter` that compresses in HDF5 and stores before it returns."""

    def __init__(self, store: PartStore) -> None:
        self._store = store

    def __enter__(self) -> WriterBefore:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: everything is stored."""

    def add(self, tile: int, cores: Mapping[str, Any]) -> None:
        """Compress a tile in a file in memory, and store its chunks."""
        chunks = []
        for name, (origin, array) in cores.items():
            layout = self._store.layouts[name]
            with h5py.File("tile", "w", driver="core", backing_store=False) as file:
                made = file.create_dataset(
                    "data",
                    array.shape,
                    np.float32,
                    chunks=layout.chunks,
                    maxshape=(None,) * array.ndim,
                    **FILTERS[layout.compression],
                )
                made[...] = array
                file.flush()
                for index in range(made.id.get_num_chunks()):
                    place = made.id.get_chunk_info(index).chunk_offset
                    mask, data = made.id.read_direct_chunk(place)
                    first = [int(o + n) for o, n in zip(origin, place, strict=True)]
                    chunks.append((name, first, int(mask), bytes(data)))
        self._store.add(tile, chunks)


def read_before(items: Sequence[Any], read: Any) -> Iterator[tuple[Any, Any]]:
    """Read each window when it is wanted."""
    for item in items:
        yield item, read(item)


def as_before() -> contextlib.ExitStack:
    """Return a context in which an enhancement does one thing after the other."""
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch("cyclegan.enhance.volumes.TileWriter", WriterBefore))
    stack.enter_context(mock.patch("cyclegan.enhance.volumes.read_ahead", read_before))
    return stack


def source(folder: Path, size: int) -> VolumeEntry:
    """Return a volume of smooth structure and noise, in slices compressed as detectors do it."""
    path = folder / "input.h5"
    if not path.exists():
        random = np.random.default_rng(0)
        image = 20 * gaussian_filter(random.normal(size=(size,) * 3), 3)
        image += 0.3 * random.normal(size=image.shape)
        with h5py.File(path, "w") as file:
            stored = (1000 + 200 * image).astype(np.uint16)
            file.create_dataset("data", data=stored, chunks=(1, size, size), **FILTERS["lz4"])
    return VolumeEntry(path=path, dset="data")


def run_file(variant: str, net: UNet3d, folder: Path, size: int, device: str) -> None:
    """Enhance a file twice; print seconds, bytes and peak memory of the second time as JSON."""
    keep_freed_memory()
    kind, compression, way = variant.split(", ")
    precision: Any = "bf16" if kind == "bf16" else "fp32"
    operator: Any = (
        Copying() if kind == "no network" else Generator(net, device=device, precision=precision)
    )
    entry, output = source(folder, size), folder / "output.h5"
    tile = (64,) * 3  # many tiles, even of a small volume
    with as_before() if way == BEFORE else contextlib.nullcontext():
        for _ in range(2):
            start = time.perf_counter()
            enhance_file(
                operator,
                entry,
                output,
                EnhanceSettings(tile=tile, device=device, compression=compression, overwrite=True),
            )
            seconds = time.perf_counter() - start
    size_on_disk = output.stat().st_size
    print(json.dumps({"seconds": seconds, "bytes": size_on_disk, "peak": peak_bytes("cpu")}))


def print_files(rounds: Sequence[Mapping[str, Mapping[str, float]]], size: int, nf: int) -> None:
    """Print medians, and the ratio of each variant to gzip one after the other."""
    voxels = size**3
    print(
        f"{size}^3 voxels, UNetSim3d, nf = {nf}, {torch.get_num_threads()} threads, "
        f"median of {len(rounds)} (range)"
    )
    print(
        f"{'':40s}{'seconds':>18s}{'Mvoxel/s':>10s}{'to before':>11s}{'file':>9s}{'of raw':>8s}"
        f"{'peak':>9s}"
    )
    seconds = {
        name: statistics.median(found[name]["seconds"] for found in rounds) for name in FILES
    }
    for name in FILES:
        times = [found[name]["seconds"] for found in rounds]
        stored = rounds[0][name]["bytes"]
        base = seconds[f"{name.split(', ')[0]}, gzip, {BEFORE}"]
        print(
            f"{name:40s}{seconds[name]:7.2f} ({min(times):.2f}-{max(times):.2f})"
            f"{voxels / seconds[name] / 1e6:10.1f}{base / seconds[name]:9.2f} x"
            f"{stored / 1e6:6.0f} MB{100 * stored / (4 * voxels):6.0f} %"
            f"{max(found[name]['peak'] for found in rounds) / 1e9:6.2f} GB"
        )
    print("to before: the speed of gzip, one after the other, with the same network is 1")
