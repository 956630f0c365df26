"""The request for an enhancement: volumes, their outputs, and how to make them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclegan.data import Size
from cyclegan.enhance.chunks import COMPRESSIONS, Compression
from cyclegan.enhance.grid import Region
from cyclegan.enhance.network import Precision
from cyclegan.enhance.partial import Shard
from cyclegan.errors import UsageError, nearest
from cyclegan.files import check_outputs, refuse_overwrite, same_file

Units = Literal["standardised", "input", "target"]
LogVolume = Literal["link", "copy"]
LOG_VOLUME = ("link", "copy")
UNITS = ("standardised", "input", "target")
PRECISIONS = ("fp32", "bf16", "auto")


@dataclass(frozen=True, kw_only=True)
class EnhanceRequest:
    """Volumes to enhance, with which model, and how."""

    volumes: tuple[Path, ...]
    dataset: str
    model: str
    output: Path
    """An HDF5 file; of several volumes a folder."""
    tile: Size | None = None
    roi: Region | None = None
    memory_gb: float | None = None
    series: bool = False
    no_data: float | None = None
    """Value of voxels without data in the volumes and half scans."""
    fill_missing: bool = False
    """Read chunks that were never written as the fill value, in all volumes that are read."""
    reference: Path | None = None
    halves: tuple[Path, ...] = ()
    """Two volumes of the same object with independent noise, e.g. from even and odd projections."""
    trust: bool = True
    other_models: tuple[str, ...] = ()
    """Their generators A -> B join the disagreement."""
    device: str = "auto"
    precision: Precision | Literal["auto"] = "fp32"
    compiled: bool = False
    compression: Compression = "gzip"
    units: Units = "standardised"
    report: bool = True
    """With the report and the viewer beside the result."""
    log_volume: LogVolume = "link"
    """`link`: the MLflow run gets the path of the result; `copy`: a copy of it."""
    shard: Shard | None = None
    """Compute only a part of the tiles; the last of all shards puts them together."""
    overwrite: bool = False

    @property
    def several(self) -> bool:
        """True if the output is a folder."""
        return len(self.volumes) > 1 or self.output.is_dir()


@dataclass(frozen=True, kw_only=True)
class Target:
    """One volume and what is made of it."""

    volume: Path
    output: Path

    @property
    def picture(self) -> Path:
        """Path of the picture with slices of input and output side by side."""
        return self.output.with_suffix(".png")

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.output.with_suffix(".html")

    @property
    def report_picture(self) -> Path:
        """Path of the report's slices as a picture."""
        return self.output.with_suffix(".report.png")

    @property
    def viewer(self) -> Path:
        """Path of the viewer."""
        return viewer_beside(self.output)

    @property
    def files(self) -> dict[str, Path]:
        """Paths of all that is written, by what they hold."""
        return {
            "the enhanced volume": self.output,
            "its picture": self.picture,
            "its viewer": self.viewer,
            "its report": self.report,
            "the report's picture": self.report_picture,
        }


def viewer_beside(enhanced: Path) -> Path:
    """Return the path of an enhanced volume's viewer."""
    return enhanced.with_suffix(".viewer.html")


ARRAY = "array"
"""Value of `--shard` in a SLURM array: each task is a shard."""


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Return the shard `K/N`, or that of this task of a SLURM array for `array`.

    Errors: `UsageError` for anything else.
    """
    if text is None:
        return None
    if text == ARRAY:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        try:
            task, first, count = (int(environment[name]) for name in names)
        except (KeyError, ValueError):
            raise UsageError(
                "--shard array: this is no task of a SLURM array; give --shard K/N"
            ) from None
        number = task - first + 1
    else:
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard {text}: give K/N with K from 1 to N, e.g. 2/4, or array")
    return Shard(number, count)


def targets(request: EnhanceRequest) -> list[Target]:
    """Every volume with its output: the names are kept in a folder.

    Errors: `UsageError` for what does not go together, `DataError` if an output exists, is an
    input or another output.
    """
    _check(request)
    if request.several:
        names = Counter(path.name for path in request.volumes)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise UsageError(
                f"{twice[0]}: several volumes have this name, and so would their outputs; "
                "enhance them one by one"
            )
        found = [
            Target(volume=path, output=request.output / f"{path.stem}.h5")
            for path in request.volumes
        ]
    else:
        found = [Target(volume=request.volumes[0], output=request.output)]
    inputs = [
        *request.volumes,
        *request.halves,
        *([request.reference] if request.reference else []),
    ]
    inputs += [Path(name) for name in (request.model, *request.other_models)]
    for target in found:
        check_outputs(target.files, inputs)
    if not request.several and not found[0].output.exists():
        for path in found[0].files.values():
            refuse_overwrite(path, request.overwrite)
    return found


def keeps(request: EnhanceRequest, target: Target) -> bool:
    """Return True if an output that this very command has made before stays."""
    return not request.overwrite and (request.several or target.output.exists())


def _check(request: EnhanceRequest) -> None:
    for option, value, known in (
        ("--precision", request.precision, PRECISIONS),
        ("--compression", request.compression, COMPRESSIONS),
        ("--units", request.units, UNITS),
        ("--log-volume", request.log_volume, LOG_VOLUME),
    ):
        if value not in known:
            raise UsageError(f"{option} {value}: not known; {nearest(value, known)}")
    if request.memory_gb is not None and not 0 < request.memory_gb < 1e9:
        raise UsageError(f"--memory-gb {request.memory_gb:g}: must be above 0 and below 1e9")
    if len(request.volumes) > 1 and request.output.suffix in (".h5", ".hdf5"):
        raise UsageError(
            f"--output {request.output}: {len(request.volumes)} volumes are given; name a folder"
        )
    for option, given in (("--reference", request.reference), ("--half", request.halves)):
        if request.series and given:
            raise UsageError(f"{option} does not work with --series; enhance one frame by itself")
        if len(request.volumes) > 1 and given:
            raise UsageError(f"{option} works with one volume; enhance them one by one")
    if len(request.halves) not in (0, 2):
        raise UsageError(f"--half is given {len(request.halves)} times; give two halves")
    if request.halves and same_file(*request.halves):
        raise UsageError(
            f"--half {request.halves[0]} and --half {request.halves[1]} are one file, whose noise "
            "would count as structure; name two half scans"
        )
    if request.halves and not request.report:
        raise UsageError("--half is for the report; leave out --no-report")
    if request.other_models and not request.trust:
        raise UsageError("--other-model is for the trust maps; leave out --no-trust")


def parse_tile(text: str | None) -> Size | None:
    """`64,96,96` as voxels along Z, Y, X."""
    if text is None:
        return None
    sizes = [int(part) for part in text.split(",") if re.fullmatch(r"\s*[0-9]{1,9}\s*", part)]
    if len(sizes) != 3 or len(sizes) != text.count(",") + 1:
        raise UsageError(f"--tile {text}: give three numbers, e.g. --tile 64,96,96")
    return sizes[0], sizes[1], sizes[2]


def parse_roi(text: str | None) -> Region | None:
    """`0:64,10:90,10:90` as [start, end) along Z, Y, X."""
    if text is None:
        return None
    found = [re.fullmatch(r"\s*([0-9]{1,9}):([0-9]{1,9})\s*", part) for part in text.split(",")]
    limits = [(int(m[1]), int(m[2])) for m in found if m]
    if len(limits) != 3 or len(found) != 3 or any(first >= end for first, end in limits):
        raise UsageError(f"--roi {text}: give three ranges in voxels, e.g. --roi 0:64,10:90,10:90")
    return limits[0], limits[1], limits[2]


def check_roi(region: Region | None, shape: Sequence[int], name: str) -> None:
    """Errors: `UsageError` if the region ends outside the volume."""
    for axis, ((_, end), length) in enumerate(zip(region or (), shape, strict=False)):
        if end > length:
            raise UsageError(
                f"--roi ends at {end} along {'ZYX'[axis]}, but {name} has {length} voxels there"
            )
