"""Applying a generator to a whole volume, tile by tile, with the result of one single pass.

A tile is read with the halo its network needs, at an origin its network's pooling is aligned to,
translated, and cut to its core. At the volume's faces a tile ends where the volume ends, so that
the network pads there as it does in one pass over everything. Volumes whose size is no multiple of
the alignment are continued at the far faces by their last voxel, and cut again.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan.data import Size, VolumeEntry, open_dataset
from cyclegan.errors import DataError, UsageError
from cyclegan.files import refuse_overwrite, replacing
from cyclegan.hdf5 import writing_hdf5
from cyclegan.networks import Geometry, UNet3d

DEFAULT_TILE = 96
Read = Callable[[tuple[slice, slice, slice]], NDArray[np.float32]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """What an enhancement did."""

    path: Path
    shape: Size
    """Of the output, (Z, Y, X) in voxels."""
    tile: Size
    """Core of a tile in input voxels."""
    seconds: float

    @property
    def voxels_per_second(self) -> float:
        """Output voxels written per second."""
        return math.prod(self.shape) / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class _Span:
    """One tile along one axis, in input voxels: what is read, and which part of it is the core."""

    start: int
    end: int
    core_start: int
    core_end: int


def output_shape(shape: Size, factor: Fraction) -> Size:
    """Shape of the enhanced volume: factor x input, rounded up."""
    z, y, x = (math.ceil(n * factor) for n in shape)
    return z, y, x


def tiles(shape: Size, tile: Size, geometry: Geometry) -> Iterator[tuple[_Span, _Span, _Span]]:
    """The tiles that cover `shape`, slabs along Z first."""
    axes = [list(_spans(n, t, geometry)) for n, t in zip(shape, tile, strict=True)]
    z, y, x = axes
    yield from itertools.product(z, y, x)


def _spans(length: int, core: int, geometry: Geometry) -> Iterator[_Span]:
    padded = math.ceil(length / geometry.alignment) * geometry.alignment
    for start in range(0, length, core):
        end = min(start + core, padded)
        yield _Span(
            start=max(start - geometry.halo_left, 0),
            end=min(end + geometry.halo_right, padded),
            core_start=start,
            core_end=end,
        )


def choose_tile(shape: Size, geometry: Geometry, wanted: Size | None = None) -> Size:
    """The core of a tile: `wanted`, else up to 96 voxels, and never larger than the volume.

    Errors: `UsageError` if `wanted` is no multiple of the alignment.
    """
    alignment = geometry.alignment
    if wanted and any(n < 1 or n % alignment for n in wanted):
        raise UsageError(
            f"--tile {','.join(map(str, wanted))}: this network needs multiples of {alignment}"
        )
    default = max(DEFAULT_TILE // alignment, 1) * alignment
    padded = (math.ceil(n / alignment) * alignment for n in shape)
    z, y, x = (min(w, p) for w, p in zip(wanted or (default,) * 3, padded, strict=True))
    return z, y, x


def enhance_array(
    network: UNet3d,
    volume: NDArray[Any],
    *,
    tile: Size | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """The enhanced volume, factor x (Z, Y, X), of a standardised array (Z, Y, X)."""
    geometry = network.geometry
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    result = np.empty(output_shape(shape, geometry.factor), dtype=np.float32)

    def read(window: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        return np.asarray(volume[window], dtype=np.float32)

    for window, core in _enhanced_tiles(network, read, shape, tile, torch.device(device)):
        result[window] = core
    return result


def enhance_file(
    network: UNet3d,
    source: VolumeEntry,
    output: Path,
    *,
    tile: Size | None = None,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    attributes: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Enhanced:
    """Enhance a dataset (Z, Y, X) of an HDF5 file into the dataset `data` of another one.

    Reads and writes a tile at a time. The output is float32, gzip, chunked, with the attributes
    that make silx show it at once; `voxel_size_um`, if the input has it, is divided by the factor.

    Errors: `DataError` for the input, or an output that exists; one line for a full disk.
    """
    refuse_overwrite(output, overwrite)
    dataset = open_dataset(source.path, source.dset)
    geometry = network.geometry
    shape: Size = dataset.shape
    chosen = choose_tile(shape, geometry, tile)
    out = output_shape(shape, geometry.factor)
    total = sum(1 for _ in tiles(shape, chosen, geometry))
    start = time.perf_counter()

    def read(window: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        try:
            part = np.asarray(dataset[window], dtype=np.float32)
        except OSError as error:
            raise DataError(
                f"{source.path}: reading failed, the file is damaged: {error}"
            ) from error
        if not np.isfinite(part).all():
            raise DataError(
                f"{source.path}:{source.dset}: NaN or infinite voxels; replace them first"
            )
        return part

    with (
        dataset.file,
        replacing(output) as temporary,
        writing_hdf5(temporary) as (handle, check),
    ):
        chunks = tuple(min(n, 64) for n in out)
        result = handle.create_dataset(
            "data", out, dtype=np.float32, chunks=chunks, compression="gzip", compression_opts=1
        )
        done = _enhanced_tiles(network, read, shape, chosen, torch.device(device))
        for count, (window, core) in enumerate(done, start=1):
            result[window] = core
            check()
            if on_progress:
                on_progress(count, total)
        _describe(handle, dataset, geometry.factor, attributes or {})
    return Enhanced(path=output, shape=out, tile=chosen, seconds=time.perf_counter() - start)


def _enhanced_tiles(
    network: UNet3d, read: Read, shape: Size, tile: Size | None, device: torch.device
) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.float32]]]:
    geometry = network.geometry
    out = output_shape(shape, geometry.factor)
    network = network.to(device)
    for spans in tiles(shape, choose_tile(shape, geometry, tile), geometry):
        patch = _read_padded(read, spans, shape)
        with torch.inference_mode():
            image = network(torch.from_numpy(patch)[None, None].to(device))[0, 0]
        inner, outer = [], []
        for span, length in zip(spans, out, strict=True):
            first = int((span.core_start - span.start) * geometry.factor)
            target = int(span.core_start * geometry.factor)
            size = min(int((span.core_end - span.core_start) * geometry.factor), length - target)
            inner.append(slice(first, first + size))
            outer.append(slice(target, target + size))
        core = image[tuple(inner)].float().cpu().numpy()
        yield (outer[0], outer[1], outer[2]), core


def _read_padded(read: Read, spans: tuple[_Span, _Span, _Span], shape: Size) -> NDArray[np.float32]:
    z, y, x = (slice(s.start, min(s.end, n)) for s, n in zip(spans, shape, strict=True))
    patch = read((z, y, x))
    missing = [(0, s.end - s.start - n) for s, n in zip(spans, patch.shape, strict=True)]
    return np.pad(patch, missing, mode="edge") if any(after for _, after in missing) else patch


def _describe(
    handle: h5py.File, source: h5py.Dataset, factor: Fraction, attributes: Mapping[str, Any]
) -> None:
    # The NeXus attributes that make silx view open the volume itself.
    handle.attrs["NX_class"] = "NXdata"
    handle.attrs["signal"] = "data"
    carried = {**source.file.attrs, **source.attrs}
    size = carried.get("voxel_size_um")
    if size is not None:
        handle["data"].attrs["voxel_size_um"] = np.asarray(size, dtype=np.float64) / float(factor)
    for key, value in attributes.items():
        handle["data"].attrs[key] = value
