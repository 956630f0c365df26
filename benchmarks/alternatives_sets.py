"""The data sets of `alternatives.py`, each made by the simulator into a folder of its own.

This project made none of its choices on these sets: the phantoms have other seeds, thicker fibres
and worse scans than those of `cyclegan simulate`; the real volumes are scanned with other settings
than the demo's. Training, slow training and validation share no slice:

    fast_train.h5      domain A to train on
    slow_train.h5      domain B to train on, of another phantom or another part of the volume
    aligned_train.h5   the slow scan of what fast_train.h5 shows; only the supervised bound sees it
    fast_validate.h5   the scan that is enhanced and judged
    slow_validate.h5   aligned with it: the reference where there is no truth
    validate_truth.h5  the reference of phantoms
    set.json           the settings of the simulation; written last
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from cyclegan.files import write_text
from cyclegan.simulate import SLOW, ScanSettings, fibre_composite, real_attenuation, scan
from cyclegan.simulate.domains import REAL_PARTS, Description, write_volume
from cyclegan.simulate.real import PACKAGE, real_volume_path

Array = NDArray[np.float32]
Shape = tuple[int, int, int]

RECIPE = 1
"""Version of the simulation; raise it when the same definition gives other volumes."""
PARTS = ("fast_train", "slow_train", "validate")
ATTENUATION_ACROSS = 1.6
"""Mean attenuation of a real volume across a slice; it equals that of the demo's fibres."""
RECORD = "set.json"


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """Three fibre composites, one per part."""

    fibre_diameter: float
    packing: float
    size: int = 176
    depth: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"fast_train": 128, "slow_train": 128, "validate": 64}
    )
    truth = True

    def part(self, name: str, seed: np.random.SeedSequence) -> Array:
        """Return the attenuation of a part, (Z, Y, X)."""
        shape = (self.depth[name], self.size, self.size)
        return fibre_composite(
            shape, seed, fibre_diameter=self.fibre_diameter, packing=self.packing
        )


@dataclass(frozen=True, kw_only=True)
class Real:
    """A volume of the wheel qim3d, cut along Z."""

    file: str
    air_grey: float
    parts: Mapping[str, tuple[int, int]] = dataclasses.field(
        default_factory=lambda: {
            "fast_train": (0, 46),
            "slow_train": (48, 94),
            "validate": (96, 128),
        }
    )
    truth = False

    def part(self, name: str, seed: np.random.SeedSequence) -> Array:
        """Return the attenuation of a part, (Z, Y, X), without random numbers."""
        start, end = self.parts[name]
        return self._attenuation()[start:end]

    def _attenuation(self) -> Array:
        if self.file == real_volume_path().name:
            return real_attenuation()
        from skimage.io import imread

        path = real_volume_path().with_name(self.file)
        if not path.is_file():
            raise DataError(f"{path} is missing from {PACKAGE}; install the package again")
        grey = np.asarray(imread(path)).astype(np.float32)
        solid = np.maximum(grey - self.air_grey, 0)
        scale = ATTENUATION_ACROSS / (float(solid.mean()) * solid.shape[1])
        return np.asarray(scale * solid, np.float32)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """An object and the settings of its scans."""

    name: str
    title: str
    sample: Phantom | Real
    fast: ScanSettings
    slow: ScanSettings = SLOW
    seed: int
    window: Shape
    """Fine voxels (Z, Y, X) in the middle of the validation volume that all rows enhance."""

    @property
    def scale(self) -> int:
        """Factor by which B is finer than A."""
        return self.fast.binning

    @property
    def reference(self) -> str:
        """Name of the reference of the results."""
        return "the noise-free truth" if self.sample.truth else "the aligned slow scan"

    def definition(self) -> dict[str, Any]:
        """Plain values of all settings on which the files depend."""
        content = {"recipe": RECIPE, **dataclasses.asdict(self)}
        del content["title"], content["window"]
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain


# At 1x the phantom's fast scan is at 16.5 dB against the truth, or at 18.7 dB after the fit.
_FEW = ScanSettings(angles=60, photons=750, flats=15, psf_pixels=0.7)
SETS = {
    data.name: data
    for data in (
        DataSet(
            name="phantom_1x",
            title="Phantom, 1x: glass fibres 13 voxels wide, 60 angles, 750 photons",
            sample=Phantom(fibre_diameter=13.0, packing=0.5),
            fast=_FEW,
            seed=71,
            window=(64, 112, 112),
        ),
        DataSet(
            name="phantom_2x",
            title="Phantom, 2x: glass fibres 13 voxels wide, 60 angles, 200 photons a fine pixel",
            sample=Phantom(fibre_diameter=13.0, packing=0.5),
            fast=replace(_FEW, photons=200, binning=2),
            seed=72,
            window=(64, 112, 112),
        ),
        DataSet(
            name="phantom_4x",
            title="Phantom, 4x: glass fibres 26 voxels wide, 60 angles, 60 photons a fine pixel",
            sample=Phantom(
                fibre_diameter=26.0,
                packing=0.5,
                size=272,
                depth={"fast_train": 160, "slow_train": 128, "validate": 64},
            ),
            fast=replace(_FEW, photons=60, binning=4),
            seed=74,
            window=(64, 128, 128),
        ),
        DataSet(
            name="fibres",
            title="Real fibre composite (the demo's), 60 angles, 800 photons",
            sample=Real(file="fibers_150x150x150.tif", air_grey=40.0, parts=REAL_PARTS),
            fast=replace(_FEW, photons=800),
            seed=81,
            window=(32, 128, 128),
        ),
        DataSet(
            name="cement",
            title="Real cement with pores, 120 angles, 250 photons",
            sample=Real(file="cement_128x128x128.tif", air_grey=29.0),
            fast=replace(_FEW, angles=120, photons=250),
            seed=82,
            window=(32, 112, 112),
        ),
        DataSet(
            name="bone",
            title="Real bone, 45 angles, 1,500 photons",
            sample=Real(file="bone_128x128x128.tif", air_grey=7.0),
            fast=replace(_FEW, angles=45, photons=1_500),
            seed=83,
            window=(32, 112, 112),
        ),
    )
}
"""All data sets by name."""


@dataclass(frozen=True, kw_only=True)
class Scans:
    """A data set on the disk, and the window of it that is judged."""

    data: DataSet
    folder: Path
    seconds: float
    """Seconds of the simulation."""
    source: Array
    """The fast scan's window, (Z, Y, X), standardised."""
    reference: Array
    """Truth or slow scan of the same region, `scale` times finer."""


def make(data: DataSet, folder: Path, say: Callable[[str], None]) -> Scans:
    """Simulate `data` into `folder`, unless it is there already, and read its window."""
    record = folder / RECORD
    if not _is_made(data, record):
        say(f"{data.name}: simulating into {folder}")
        started = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        _write(data, folder)
        seconds = time.perf_counter() - started
        content = {"definition": data.definition(), "seconds": seconds}
        write_text(record, json.dumps(content, indent=1) + "\n")
    seconds = float(json.loads(record.read_text(encoding="utf-8"))["seconds"])
    name = "validate_truth" if data.sample.truth else "slow_validate"
    coarse = tuple(n // data.scale for n in data.window)
    return Scans(
        data=data,
        folder=folder,
        seconds=seconds,
        source=_middle(read(folder / "fast_validate.h5"), coarse),
        reference=_middle(read(folder / f"{name}.h5"), data.window),
    )


def read(path: Path) -> Array:
    """Return a volume of the simulator, (Z, Y, X), standardised."""
    with h5py.File(path, "r") as handle:
        return np.asarray(handle["data"][()], np.float32)


def _is_made(data: DataSet, record: Path) -> bool:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return bool(content["definition"] == data.definition())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(data: DataSet, folder: Path) -> None:
    seeds = iter(np.random.SeedSequence(data.seed).spawn(8))
    jobs = {
        "fast_train": {"fast_train": data.fast, "aligned_train": data.slow},
        "slow_train": {"slow_train": data.slow},
        "validate": {"fast_validate": data.fast, "slow_validate": data.slow},
    }
    for part in PARTS:
        sample = data.sample.part(part, next(seeds))
        for name, settings in jobs[part].items():
            volume = scan(sample, settings, next(seeds))
            write_volume(folder / f"{name}.h5", volume, _describe(data, name, settings))
    if data.sample.truth:
        crop = slice(data.slow.crop, -data.slow.crop)
        truth = _describe(data, "validate_truth", None)
        write_volume(folder / "validate_truth.h5", sample[:, crop, crop], truth)
    for domain in ("fast", "slow"):
        parts = {p: [{"path": f"{domain}_{p}.h5", "dset": "data"}] for p in ("train", "validate")}
        write_text(folder / f"{domain}.json", json.dumps(parts, indent=2) + "\n")


def _describe(data: DataSet, title: str, settings: ScanSettings | None) -> Description:
    return Description(
        title=title,
        source=data.title,
        settings=settings,
        voxel_size_um=None,
        binning=settings.binning if settings else 1,
        arguments=data.definition(),
    )


def _middle(volume: Array, shape: tuple[int, ...]) -> Array:
    starts = [(have - n) // 2 for have, n in zip(volume.shape, shape, strict=True)]
    where = tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))
    return np.ascontiguousarray(volume[where])
