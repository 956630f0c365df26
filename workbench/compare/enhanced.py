"""Comparison of enhanced volumes, read in blocks because they may be larger than memory."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Size
from cyclegan.data.voxel_size import voxel_size_um
from cyclegan.errors import DataError
from cyclegan.metrics.agreement import Blocks, ImageDifferences
from tracking import project_root
from viz.enhancement.reading import SAMPLED_BLOCKS, SCANNED, spread_blocks
from viz.pictures import Picture, Window, comparison, difference_picture, grey_window
from viz.viewer import Layer
from workbench.compare.result import (
    ComparedImages,
    Pair,
    PairAgreement,
    Shown,
    agreements,
    cubic,
    groups,
    largest_shown,
    names_of_runs,
    spectra,
)
from workbench.compare.runs import ComparedRun

_DATASET = "data"
_SIDE = 128
"""Side in voxels of the blocks that are read at once."""
_SHELLS, _BLOCKS = 64, 8
"""Side in voxels, and number, of the blocks for spectra and shell correlations."""
_PIXELS = 384


class FirstImage:
    """The first volume (Z, Y, X) of an open dataset with leading axes; slicing reads it."""

    ndim = 3

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self.dtype = dataset.dtype
        self.leading = (0,) * (dataset.ndim - 3)
        z, y, x = dataset.shape[-3:]
        self.shape: Size = (z, y, x)
        self.size = z * y * x

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read and return a part."""
        inner = index if isinstance(index, tuple) else (index,)
        part: NDArray[Any] = self.dataset[self.leading + inner]
        return part

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Iterate over the slices along Z."""
        return (self[z] for z in range(len(self)))

    def block(self, origin: Size, size: Size) -> NDArray[np.float32]:
        """Read the window of `size` at `origin`, both (z, y, x)."""
        window = tuple(slice(o, o + n) for o, n in zip(origin, size, strict=True))
        return np.asarray(self[window], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class _Open:
    """The volume of one run."""

    image: FirstImage
    source: tuple[str, ...]
    """Input volume, region and units: runs that share them can be compared voxel by voxel."""


def compare_enhanced(
    runs: Sequence[ComparedRun], stack: contextlib.ExitStack, *, pictures: bool
) -> ComparedImages:
    """Compare the enhanced volumes whose files are still there.

    Only volumes of the same input region and resolution are measured against each other.
    `pictures` adds slices, differences and layers for a page; the layers read from the files, which
    stay open until `stack` is closed.
    """
    remarks: list[str] = []
    found: dict[int, _Open] = {}
    for run in runs:
        try:
            found[run.number] = _opened(run, stack)
        except DataError as error:
            remarks.append(f"run {run.number}: {error}")
    grouped = list(groups({n: (one.source, one.image.shape) for n, one in found.items()}))
    if len(grouped) > 1:
        parts = "; ".join(names_of_runs(group) for group in grouped)
        remarks.append(
            f"the inputs, regions or resolutions differ: {parts}; "
            f"only volumes of {names_of_runs(grouped[0])} are compared"
        )
    images = {number: one.image for number, one in found.items()}
    shown = _shown(images) if pictures and images else {}
    if not grouped:
        return ComparedImages(what="enhanced", remarks=tuple(remarks))
    return _measured(images, grouped[0], shown, remarks, runs if pictures else ())


def output_of(run: ComparedRun) -> Path:
    """Return the output path of an enhancement, relative to here, else to the project."""
    path = Path(run.info.params.get("output", ""))
    at_home = project_root() / path
    return at_home if not path.exists() and at_home.exists() else path


def _opened(run: ComparedRun, stack: contextlib.ExitStack) -> _Open:
    path = output_of(run)
    if not path.is_file():
        raise DataError(f"its volume is gone, {path}")
    try:
        file = stack.enter_context(h5py.File(path, "r"))
        dataset = file[_DATASET]
    except (OSError, KeyError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    source = tuple(run.info.params.get(name, "") for name in ("volume", "roi", "units"))
    return _Open(image=FirstImage(dataset), source=source)


def _measured(
    images: Mapping[int, FirstImage],
    numbers: Sequence[int],
    shown: Mapping[int, Shown],
    remarks: list[str],
    runs: Sequence[ComparedRun],
) -> ComparedImages:
    first = images[numbers[0]]
    places = spread_blocks(first.shape, _SHELLS, _BLOCKS)
    blocks: dict[int, Blocks] = {
        n: np.stack([images[n].block(*place) for place in places]) for n in numbers
    }
    pairs: dict[Pair, PairAgreement] = {}
    if len(numbers) > 1:
        try:
            found, share = _differences([images[n] for n in numbers])
            pairs = agreements(numbers, blocks, found)
        except DataError as error:
            remarks.append(str(error))
        else:
            if share < 1:
                remarks.append(f"differences: measured on a sample of {share:.0%} of the volume")
    limit = largest_shown(pairs.values())
    shape = " x ".join(map(str, first.shape))
    sides = " x ".join(map(str, places[0][1]))
    return ComparedImages(
        what="enhanced",
        runs=tuple(numbers),
        pairs=pairs,
        spectra=spectra(blocks),
        shown=shown,
        differences=_pictures(images, numbers, limit) if runs else {},
        layers=_layers(runs, images, numbers) if runs else (),
        limit=limit,
        voxel_um=cubic(voxel_size_um(first.dataset)),
        region=f"{shape} voxels; shells and spectra on {len(places)} blocks of {sides}",
        remarks=tuple(remarks),
    )


def _differences(images: Sequence[FirstImage]) -> tuple[ImageDifferences, float]:
    """Return the differences of all voxels, or of a sample if they are too many; and its share."""
    found, shape = ImageDifferences(len(images)), images[0].shape
    read = 0
    for origin, size in _places(images[0]):
        found.add([image.block(origin, size) for image in images])
        read += math.prod(size)
    return found, read / math.prod(shape)


def _places(image: FirstImage) -> Iterator[tuple[Size, Size]]:
    """Yield blocks that cover a volume along its chunks, or are spread over a very large one."""
    if image.size > SCANNED:
        yield from spread_blocks(image.shape, _SIDE, SAMPLED_BLOCKS)
        return
    chunks = (image.dataset.chunks or (_SIDE,) * 3)[-3:]
    steps = [chunk * max(1, _SIDE // chunk) for chunk in chunks]
    starts = (range(0, n, step) for n, step in zip(image.shape, steps, strict=True))
    for z, y, x in itertools.product(*starts):
        ends = zip((z, y, x), steps, image.shape, strict=True)
        d, h, w = (min(step, n - start) for start, step, n in ends)
        yield (z, y, x), (d, h, w)


def _shown(images: Mapping[int, FirstImage]) -> dict[int, Shown]:
    """Return central slices, all on the grey scale of the first volume."""
    window = _window(next(iter(images.values())))
    return {
        number: Shown(
            slices={"enhanced": comparison({"": image}, window=window, pixels=_PIXELS)},
            caption=f"{' × '.join(map(str, image.shape))} voxels",
        )
        for number, image in images.items()
    }


def _window(image: FirstImage) -> Window:
    return grey_window(_middle(image))


def _middle(image: FirstImage) -> NDArray[np.float32]:
    """Return the middle of the central xy slice."""
    z, y, x = image.shape
    height, width = min(y, _PIXELS), min(x, _PIXELS)
    plane: NDArray[np.float32] = image.block(
        (z // 2, (y - height) // 2, (x - width) // 2), (1, height, width)
    )[0]
    return plane


def _pictures(
    images: Mapping[int, FirstImage], numbers: Sequence[int], limit: float
) -> dict[Pair, Picture]:
    first, *others = numbers
    base = _middle(images[first])
    return {(first, n): difference_picture(base, _middle(images[n]), limit) for n in others}


def _layers(
    runs: Sequence[ComparedRun], images: Mapping[int, FirstImage], numbers: Sequence[int]
) -> tuple[Layer, ...]:
    names = {run.number: run.name for run in runs}
    sizes = {n: voxel_size_um(images[n].dataset) for n in numbers}
    known = None not in sizes.values()
    return tuple(
        Layer(
            name=names[n],
            data=images[n],  # type: ignore[arg-type]  # it is sliced like an array
            voxel_size=sizes[n] if known else None,
            domain="B",
        )
        for n in numbers
    )
