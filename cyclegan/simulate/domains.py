"""Both domains of a training, simulated: fast scans (A), slow scans (B), and aligned validation.

The real volume is cut along Z into three parts without a common slice: the first is scanned fast
for A, the second slowly for B, the third both ways for validation (fibres along Z do run through
all three). Otherwise three different phantoms are made, and the validation's noise-free truth is
written, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan.errors import DataError, UsageError
from cyclegan.files import replacing
from cyclegan.simulate.phantom import FIBRE_DIAMETER, VOXEL_SIZE_UM, fibre_composite
from cyclegan.simulate.real import SOURCE, real_attenuation
from cyclegan.simulate.scanner import FAST, SLOW, Float32, ScanSettings, scan

Progress = Callable[[str, int, int], None]
RECIPE = 1
"""Version of the simulation; increase it when the same arguments give other volumes than before."""
REAL_PARTS = {"fast_train": (0, 56), "slow_train": (59, 115), "validate": (118, 150)}
"""[start, end) along Z of the real volume; because of the gaps of 3 slices no two parts share the
noise that neighbouring slices have in common."""
_PHANTOM_DEPTH = {"fast_train": 160, "slow_train": 160, "validate": 64}
_PHANTOM_SIZE = {1: 176, 2: 176, 4: 272}
_PHANTOM_FINER = {1: 1, 2: 1, 4: 2}
"""Phantom voxels per standard voxel along each axis; at 4x they are half as long, so that binned
ones still resolve a fibre."""
RECORD = "simulation.json"
_VOLUMES = ("fast_train.h5", "slow_train.h5", "fast_validate.h5", "slow_validate.h5")
_TRUTH = "validate_truth.h5"
_DOMAINS = ("fast", "slow")


@dataclass(frozen=True, kw_only=True)
class SimulatedDomains:
    """Paths and arguments of a simulated set."""

    folder: Path
    phantom: bool
    scale: int
    seed: int
    reused: bool
    """True if the same simulation existed already and nothing was done."""

    @property
    def fast(self) -> Path:
        """Path of the dataset JSON of domain A."""
        return self.folder / "fast.json"

    @property
    def slow(self) -> Path:
        """Path of the dataset JSON of domain B."""
        return self.folder / "slow.json"

    @property
    def truth(self) -> Path | None:
        """Path of the validation volume before any scan; None for the real volume."""
        return self.folder / _TRUTH if self.phantom else None

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths of all files: the dataset JSONs first, the record of the simulation last."""
        names = ("fast.json", "slow.json", *_volume_names(self.phantom), RECORD)
        return tuple(self.folder / name for name in names)


def simulate(
    out_dir: Path,
    *,
    phantom: bool = False,
    scale: int = 1,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> SimulatedDomains:
    """Simulate both domains into `out_dir`: volumes in HDF5 and the dataset JSONs.

    `fast.json` (A) and `slow.json` (B) are for `data_A` and `data_B` of a training. `scale` (1, 2
    or 4) is how many times coarser A is than B, along Z, Y and X; 4 needs the phantom. In the real
    volume fibres are 5 voxels wide, so single ones are hardly visible in A at 2x.
    `on_progress(label, done, total)` is called before every stage and at the end.
    The same arguments give the same bytes. If the set exists already, nothing is done; if it is
    incomplete or with `overwrite`, it is made anew. Files get their names when all are written,
    `simulation.json` last.
    Errors: `UsageError` for an impossible scale or seed, `DataError` if other files are in the way
    or the real volume is missing, `CycleGANError` for a disk that is full or not writable.
    """
    if scale not in FAST:
        raise UsageError(f"scale = {scale} can't be simulated; use 1, 2 or 4")
    if scale == 4 and not phantom:
        raise UsageError(
            "scale = 4 can't be simulated from the real volume, whose fibres are 5 voxels wide "
            "and would vanish; use the phantom"
        )
    if seed < 0:
        raise UsageError(f"seed = {seed} can't be used; it must be 0 or more")
    if out_dir.exists() and not out_dir.is_dir():
        raise DataError(f"{out_dir} is not a folder; name another one")
    arguments = {"recipe": RECIPE, "phantom": phantom, "scale": scale, "seed": seed}
    made = SimulatedDomains(folder=out_dir, phantom=phantom, scale=scale, seed=seed, reused=False)
    if not overwrite:
        if _is_complete(made, arguments):
            return SimulatedDomains(**{**vars(made), "reused": True})
        _refuse_foreign(made, arguments)
    _write_set(made, arguments, on_progress or (lambda label, done, total: None))
    return made


def _write_set(made: SimulatedDomains, arguments: dict[str, Any], report: Progress) -> None:
    record = made.folder / RECORD
    sizes: dict[str, int] = {}
    # The stack renames the files when all are written, in reverse order: the record comes last.
    with contextlib.ExitStack() as stack:
        temporary_record = stack.enter_context(replacing(record))
        for name, volume, about in _acquire(made, arguments, report):
            temporary = stack.enter_context(replacing(made.folder / name))
            write_volume(temporary, volume, about)
            sizes[name] = temporary.stat().st_size
        for domain in _DOMAINS:
            temporary = stack.enter_context(replacing(made.folder / f"{domain}.json"))
            temporary.write_text(_dataset_json(domain), encoding="utf-8")
        content = {"arguments": arguments, "sizes_bytes": sizes}
        temporary_record.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        # Until all files are renamed, the old record would describe a mixed set.
        record.unlink(missing_ok=True)
        truth = made.folder / _TRUTH
        if not made.phantom and arguments_of(truth) is not None:
            truth.unlink()


def _acquire(
    made: SimulatedDomains, arguments: dict[str, Any], report: Progress
) -> Iterator[tuple[str, Float32, Description]]:
    """Yield file name, volume and description of every file, one after the other."""
    seeds = iter(np.random.SeedSequence(made.seed).spawn(7))
    voxel_size = VOXEL_SIZE_UM / _PHANTOM_FINER[made.scale] if made.phantom else None
    jobs = {"fast_train": ["fast"], "slow_train": ["slow"], "validate": ["fast", "slow"]}
    total, done = 7, 0
    for part, speeds in jobs.items():
        report(
            f"{part}: {'making a phantom' if made.phantom else 'reading the volume'}", done, total
        )
        sample, source = _sample(made, part, next(seeds))
        done += 1
        for speed in speeds:
            report(f"{part}: {speed} scan", done, total)
            settings = FAST[made.scale] if speed == "fast" else SLOW
            volume = scan(sample, settings, next(seeds))
            yield (
                f"{speed}_{part.removeprefix(f'{speed}_')}.h5",
                volume,
                _describe(f"{speed} scan", source, settings, voxel_size, arguments),
            )
            done += 1
    if made.phantom:
        truth = sample[:, SLOW.crop : -SLOW.crop, SLOW.crop : -SLOW.crop]
        yield _TRUTH, truth, _describe("truth", source, None, voxel_size, arguments)
    report("done", total, total)


def _sample(made: SimulatedDomains, part: str, seed: np.random.SeedSequence) -> tuple[Float32, str]:
    """Return the attenuation map of a part, and a description of its source."""
    if not made.phantom:
        start, end = REAL_PARTS[part]
        text = f"{SOURCE}; slices {start} to {end - 1}, scanned again numerically"
        return real_attenuation()[start:end], text
    size, finer = _PHANTOM_SIZE[made.scale], _PHANTOM_FINER[made.scale]
    shape = (_PHANTOM_DEPTH[part], size, size)
    sample = fibre_composite(shape, seed, fibre_diameter=FIBRE_DIAMETER * finer)
    return sample, f"simulated fibre composite for {part}, scanned numerically"


def _describe(
    title: str,
    source: str,
    settings: ScanSettings | None,
    voxel_size_um: float | None,
    arguments: dict[str, Any],
) -> Description:
    binning = settings.binning if settings else 1
    return Description(
        title=title,
        source=source,
        settings=settings,
        voxel_size_um=None if voxel_size_um is None else voxel_size_um * binning,
        binning=binning,
        arguments=arguments,
    )


def _dataset_json(domain: str) -> str:
    parts = {
        part: [{"path": f"{domain}_{part}.h5", "dset": "data"}] for part in ("train", "validate")
    }
    return json.dumps(parts, indent=2) + "\n"


def _volume_names(phantom: bool) -> tuple[str, ...]:
    return (*_VOLUMES, _TRUTH) if phantom else _VOLUMES


def _is_complete(made: SimulatedDomains, arguments: dict[str, Any]) -> bool:
    """Return True if `simulation.json` has these arguments and all its files are complete."""
    try:
        record = json.loads((made.folder / RECORD).read_text(encoding="utf-8"))
        sizes: dict[str, int] = record["sizes_bytes"]
        return (
            record["arguments"] == arguments
            and set(sizes) == set(_volume_names(made.phantom))
            and all((made.folder / name).stat().st_size == size for name, size in sizes.items())
            and all(_is_ours(made.folder / f"{domain}.json", domain) for domain in _DOMAINS)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_ours(path: Path, domain: str) -> bool:
    return path.read_bytes() == _dataset_json(domain).encode()


def _refuse_foreign(made: SimulatedDomains, arguments: dict[str, Any]) -> None:
    """Raise `DataError` if a file in the way was not made with these arguments."""
    for name in _volume_names(phantom=True):
        path = made.folder / name
        if path.exists() and arguments_of(path) != arguments:
            raise DataError(
                f"{path} is in the way and was not made with these arguments; "
                "name another folder or add --overwrite"
            )
    for domain in _DOMAINS:
        path = made.folder / f"{domain}.json"
        if path.exists() and not _is_ours(path, domain):
            raise DataError(
                f"{path} is in the way and has other contents; "
                "name another folder or add --overwrite"
            )


# -- A simulated volume as an HDF5 file: standardised, described, reproducible to the byte -----

DATASET = "data"


ARGUMENTS = "simulation"


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a volume in its file."""

    title: str
    source: str
    """The scanned sample, and the part of it."""
    settings: ScanSettings | None
    """Settings of the scan; None for the truth, which was not scanned."""
    voxel_size_um: float | None
    """Voxel size in micrometres; None if it is unknown."""
    binning: int
    """Voxels of the scanned sample along each side of a voxel of this volume."""
    arguments: dict[str, Any]
    """Arguments of the simulation, which make the same file again."""


def write_volume(path: Path, volume: Float32, about: Description) -> None:
    """Write (Z, Y, X) as the dataset `data`, float32, mean 0 and standard deviation 1.

    The file's root is a NeXus `NXdata` group, so that silx view shows the volume at once. The
    attributes of `data` undo the standardisation: `volume * std + mean` is the attenuation per
    voxel of the sample. There are no time stamps: the same volume gives the same bytes.
    """
    import h5py

    mean, std = float(volume.mean(dtype=np.float64)), float(volume.std(dtype=np.float64))
    standardised = ((volume - mean) / std).astype(np.float32)
    # Made in memory: if HDF5 finds the disk full while it closes a file, it can crash the process.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as handle:
        data = handle.create_dataset(
            DATASET,
            data=standardised,
            # About the size of a training patch: reading a patch must not unpack the whole volume.
            chunks=tuple(min(n, side) for n, side in zip(volume.shape, (16, 64, 64), strict=True)),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            track_times=False,
        )
        handle.attrs.update(NX_class="NXdata", signal=DATASET, title=about.title)
        handle.attrs.update(
            source=about.source, simulation=json.dumps(about.arguments, sort_keys=True)
        )
        if about.settings is not None:
            handle.attrs["scan"] = json.dumps(dataclasses.asdict(about.settings), sort_keys=True)
        data.attrs.update(
            mean=mean, std=std, axis_order="Z,Y,X", long_name="attenuation, standardised"
        )
        data.attrs["binning"] = about.binning
        if about.voxel_size_um is not None:
            data.attrs["voxel_size_um"] = about.voxel_size_um
        handle.flush()
        path.write_bytes(handle.id.get_file_image())


def arguments_of(path: Path) -> Any:
    """Return the arguments of the simulation that made a file.

    None if no simulation made it, or if it can't be read.
    """
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            return json.loads(handle.attrs[ARGUMENTS])
    except (OSError, KeyError, TypeError, ValueError):
        return None
