"""The viewer of an enhanced volume: beside it, for a browser, and by the command `cyclegan viewer`.

The page shows true voxels: what does not fit is cropped around the centre, and the page says so.
Only what it shows is read, so that it costs as little for a volume larger than the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py

from cyclegan.data import Statistics, Volume, VolumeEntry
from cyclegan.data.fingerprint import file_hashes
from cyclegan.errors import DataError, UsageError, nearest
from cyclegan.files import refuse_overwrite
from viz.viewer import LIMIT, Layer, enhanced_layers, write_viewer
from workbench.enhance.request import viewer_beside
from workbench.session import Session

FITS = ("crop", "bin")
_ALL_MAPS = LIMIT
"""Voxels up to which all trust maps are shown; of larger volumes the doubt that sums them up."""


def write_enhanced_viewer(
    enhanced: Path,
    source: Volume | None,
    *,
    region: Sequence[tuple[int, int]] | None = None,
    note: str,
    say: Callable[[str], None],
    path: Path | None = None,
    fit: Any = "crop",
) -> Path | None:
    """Write the viewer beside `enhanced`, or under `path`; None if that can't be shown, with why.

    `source` is the input, of which `region` was enhanced, or all of it.
    """
    path = path or viewer_beside(enhanced)
    try:
        with h5py.File(enhanced, "r") as file:
            layers = _chosen(enhanced_layers(file, source=source, region=region))
            write_viewer(path, layers, title=enhanced.name, note=note, fit=fit)
    except DataError as error:
        say(f"no viewer: {error}")
        return None
    return path


def _chosen(layers: list[Layer]) -> list[Layer]:
    if sum(layer.data.size for layer in layers) <= _ALL_MAPS:
        return layers
    return [layer for layer in layers if layer.kind == "image" or layer.name == "doubt"]


def run_viewer(
    session: Session, enhanced: Path, *, output: Path | None, fit: str, overwrite: bool
) -> None:
    """Write the viewer of a volume that was enhanced before; with its input if that is found."""
    if fit not in FITS:
        raise UsageError(f"--fit {fit}: not known; {nearest(fit, FITS)}")
    path = output or viewer_beside(enhanced)
    refuse_overwrite(path, overwrite)
    source, name, made = _input_of(enhanced)
    note = f"of {name} by {made}"
    try:
        if source is None:
            session.say(f"without the input: {name} is not there, or has changed")
        written = write_enhanced_viewer(
            enhanced, source, note=note, say=session.say, path=path, fit=fit
        )
    finally:
        if source is not None:
            source.close()
    if written is None:
        raise DataError(f"{enhanced}: nothing in it can be shown")
    data = {"viewer": str(written), "input": None if source is None else name}
    session.result(data, f"written    {written}, open it in a browser")


def _input_of(enhanced: Path) -> tuple[Volume | None, str, str]:
    """The region of the input that `enhanced` was made of, by its attributes; its name; the model.

    Errors: `DataError` if that is no volume of `cyclegan enhance`.
    """
    try:
        with h5py.File(enhanced, "r") as file:
            attributes = dict(file["data"].attrs)
            shape = file["data"].shape
        path, _, dset = str(attributes["source"]).rpartition(":")
        region = tuple((int(first), int(end)) for first, end in attributes["roi"])
        mean, std = (float(attributes[f"input_{name}"]) for name in ("mean", "std"))
        on_load = bool(attributes["input_standardised_on_load"])
        wanted = str(attributes.get("source_hash", ""))
        made = f"model {attributes.get('model_version', attributes['model'])}"
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{enhanced}: no volume that `cyclegan enhance` wrote: {error}") from error
    name = f"{path}:{dset}"
    if len(shape) != 3:  # a series: its input is no volume by itself
        return None, name, made
    for place in (Path(path), enhanced.parent / path, enhanced.parent / Path(path).name):
        if place.is_file() and wanted in ("", *file_hashes([place]).values()):
            volume = _opened(place, dset, region, Statistics(1, 0, mean, std), on_load)
            return volume, name, made
    return None, name, made


def _opened(
    path: Path, dset: str, region: Any, statistics: Statistics, on_load: bool
) -> Volume | None:
    try:
        return Volume(
            VolumeEntry(path=path, dset=dset, roi=region),
            standardise="always" if on_load else "never",
            statistics=statistics,
        )
    except DataError:
        return None
