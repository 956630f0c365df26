"""The six images of a cycle as volumes: a file for HDF5 viewers, a page for the browser.

```
volumes/cycle_00000400.h5    both fixed validation patches, whole values
viewer/cycle_00000400.html   the first patch, 8 bits: opens in MLflow's artifact pane
```
There are some of the way (the first validation, then at twice the iterations of the one before, and
again), the best, and the last. All of a run together stay within its budget: the way is left out
first, then volumes are cropped around their centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.voxel_size import VoxelSize, as_voxel_size
from cyclegan.errors import DataError
from cyclegan.files import replacing
from cyclegan.hdf5 import writing_hdf5
from cyclegan.model import IMAGES
from cyclegan.validation import ValidationReport
from tracking.run import Run
from viz.viewer import cycle_layers, write_viewer

if TYPE_CHECKING:
    from tracking.run import Run


FOLDER, PAGES = "volumes", "viewer"
_FILES = 6
"""Files that fit into a budget: four of the way, the best, the last."""
Images = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class CycleVolume:
    """A record: the images of one validation, (B, C, Z, Y, X) by name.

    The files are made when it is written, which takes a thread's time, not the training's.
    """

    images: Images
    about: Mapping[str, Any]
    """`iteration`, `step`, `score`, `run`."""
    voxel_size_A: VoxelSize | None = None

    @property
    def _name(self) -> str:
        return f"cycle_{self.about['iteration']:08d}"

    def write(self, run: Run) -> None:  # noqa: D102
        with run.new_artifact(f"{FOLDER}/{self._name}.h5") as path:
            write_cycle(path, self.images, {**self.about, "run_id": run.id}, self.voxel_size_A)
        with run.new_artifact(f"{PAGES}/{self._name}.html") as path:
            write_viewer(
                path,
                cycle_layers(self.images, voxel_size_A=self.voxel_size_A),
                title=f"{self.about['run']}, iteration {self.about['iteration']}",
                note=f"Step {self.about['step']}, score {self.about['score']:.2f}. Intensities are "
                "standardised. A fixed validation patch: the same in every report and trial.",
            )

    def pack(self, bulk: Path) -> dict[str, Any]:  # noqa: D102
        write_cycle(bulk, self.images, self.about, self.voxel_size_A)
        return {"about": dict(self.about), "voxel_size_A": self.voxel_size_A}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:  # noqa: D102
        size = values["voxel_size_A"]
        return cls(read_cycle(bulk), values["about"], None if size is None else tuple(size))


class CycleVolumes:
    """Chooses the validations whose volumes are kept.

    Args:
        budget: bytes for all of them together, uncompressed; 0 for none.
        run: its name, for titles.
    """

    def __init__(self, budget: float, run: str) -> None:
        self.budget, self.run = budget, run
        self.voxel_size_A: VoxelSize | None = None
        self._next = 0
        self._spent = 0
        self._last: CycleVolume | None = None
        self._best: CycleVolume | None = None
        self._written: set[int] = set()

    def begin(self, written: set[int], voxel_size_A: VoxelSize | None) -> None:
        """The training begins or goes on; `written`: iterations of which the run has a file."""
        self.voxel_size_A = voxel_size_A
        self._written |= written
        self._next = 2 * max(self._written, default=0)
        self._spent = len(self._written) * round(self.budget / _FILES)

    def validated(self, report: ValidationReport) -> Iterator[CycleVolume]:
        """Take a validation; gives it, if it is one of the way."""
        if not self.budget:
            return
        volume = self._volume(report)
        self._last = volume
        if report.beats(self._best.about["score"] if self._best else None):
            self._best = volume
        size = _bytes(volume.images)
        reserved = 2 * self.budget / _FILES
        if report.iteration >= self._next and self._spent + size + reserved <= self.budget:
            self._next = 2 * report.iteration
            yield from self._given(volume)

    def ended(self) -> Iterator[CycleVolume]:
        """The best and the last, where they are not yet given."""
        for volume in (self._best, self._last):
            if volume is not None:
                yield from self._given(volume)

    def _given(self, volume: CycleVolume) -> Iterator[CycleVolume]:
        if volume.about["iteration"] not in self._written:
            self._written.add(volume.about["iteration"])
            self._spent += _bytes(volume.images)
            yield volume

    def _volume(self, report: ValidationReport) -> CycleVolume:
        images = {name: image.numpy() for name, image in report.images.items()}
        about = {
            "iteration": report.iteration,
            "step": report.step,
            "score": report.score,
            "run": self.run,
        }
        return CycleVolume(_within(images, self.budget / _FILES), about, self.voxel_size_A)


def _bytes(images: Images) -> int:
    """Bytes of the file's datasets and of the page, and an eighth more."""
    return round(1.125 * sum(4 * image.size for image in images.values()))


def _within(images: Images, limit: float) -> Images:
    """As many patches as fit into `limit` bytes, of the last one the centre if it does not."""
    for patches in range(len(images["real_A"]), 0, -1):
        fewer = {name: image[:patches] for name, image in images.items()}
        if _bytes(fewer) <= limit:
            return fewer
    share = (limit / _bytes(fewer)) ** (1 / 3)
    coarse = images["real_A"].shape[2:]
    kept = [max(1, int(n * share)) for n in coarse]
    cropped = {}
    for name, image in fewer.items():
        scale = image.shape[2] // coarse[0]
        window = [
            slice(scale * ((n - k) // 2), scale * ((n - k) // 2 + k))
            for n, k in zip(coarse, kept, strict=True)
        ]
        cropped[name] = np.ascontiguousarray(image[(slice(None), slice(None), *window)])
    return cropped


# -- The six images of a cycle as a run keeps them: volumes of some validations, pictures of all


@dataclass(frozen=True, kw_only=True)
class StoredCycle:
    """The images of one validation, (B, C, Z, Y, X) by name."""

    iteration: int
    images: Mapping[str, NDArray[np.float32]]
    voxel_size_A: VoxelSize | None
    """(z, y, x) in micrometres, where the data said it."""


def stored_iterations(run: Run) -> dict[int, str]:
    """Artifact names of the volumes of a run by iteration, in rising order."""
    found = {}
    for name in run.artifact_names(FOLDER):
        path = PurePosixPath(name)
        begin, _, number = path.stem.rpartition("_")
        if begin == "cycle" and number.isdigit() and path.suffix == ".h5":
            found[int(number)] = name
    return dict(sorted(found.items()))


def read_stored(run: Run, iteration: int, name: str) -> StoredCycle:
    """Read one of `stored_iterations`. Errors: `DataError` if the file is damaged."""
    path = run.artifact_path(name)
    try:
        images = read_cycle(path)
        with h5py.File(path) as file:
            size = file["real_A"].attrs.get("voxel_size_um")
    except (OSError, KeyError) as error:
        raise DataError(f"run {run.name}: {name} can't be read: {error}") from error
    return StoredCycle(
        iteration=iteration,
        images=images,
        voxel_size_A=None if size is None else as_voxel_size(size),
    )


# -- The six images of a cycle as one HDF5 file that HDF5 viewers open with the right axes -----

_AXES = ("patch", "channel", "z", "y", "x")


_SHOWN = "fake_B"


def write_cycle(
    path: Path,
    images: Mapping[str, NDArray[np.float32]],
    attributes: Mapping[str, object],
    voxel_size_A: VoxelSize | None = None,
) -> None:
    """Write images (B, C, Z, Y, X) as datasets `real_A` ... `rec_B` at the file's top level.

    Each dataset keeps its axes; intensities are standardised, as the networks see them.
    `attributes` describe the file; `voxel_size_A` (z, y, x) is in micrometres, B's follows from the
    shapes. Below `entry` each image is an NXdata group as well (a link, no
    copy), `fake_B` the one shown first: viewers such as `silx view` then name the axes.
    Format: NeXus, https://manual.nexusformat.org/classes/base_classes/NXdata.html.
    """
    coarse = images["real_A"].shape[2:]
    with replacing(path) as temporary, writing_hdf5(temporary) as (file, _):
        file.attrs.update({"NX_class": "NXroot", "default": "entry", **attributes})
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": _SHOWN})
        for name in IMAGES:
            data = np.asarray(images[name], dtype=np.float32)
            # A chunk a patch and slice along Z: viewers and previews read slices.
            chunks = (1, 1, 1, *data.shape[3:])
            dataset = file.create_dataset(
                name, data=data, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
            )
            dataset.attrs["units"] = "standardised intensity"
            size = [
                s * a / b
                for s, a, b in zip(voxel_size_A or (1, 1, 1), coarse, data.shape[2:], strict=True)
            ]
            if voxel_size_A is not None:
                dataset.attrs["voxel_size_um"] = size
            group = entry.create_group(name)
            group.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": list(_AXES)})
            group["data"] = dataset
            group["title"] = name
            for axis, length in zip(_AXES, data.shape, strict=True):
                # Viewers refuse axes that are only names.
                step = size["zyx".index(axis)] if axis in "zyx" and voxel_size_A else 1
                group[axis] = np.arange(length) * step
                if axis in "zyx":
                    group[axis].attrs["units"] = "um" if voxel_size_A else "voxel"


def read_cycle(path: Path) -> dict[str, NDArray[np.float32]]:
    """The images (B, C, Z, Y, X) by name of a file that `write_cycle` made.

    Errors: `OSError` or `KeyError` if it is damaged.
    """
    with h5py.File(path) as file:
        return {name: np.asarray(file[name][...], dtype=np.float32) for name in IMAGES}
