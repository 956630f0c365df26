"""The volumes that an enhancement reads, with the grey scale that their scan has.

A scan has one grey scale: that of the training if the generator was trained on a part of it, else
that of the whole dataset, whatever region is enhanced.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cyclegan.data import Volume, VolumeEntry, open_dataset
from cyclegan.data.hdf5_source import explained
from cyclegan.data.region import Region, check_holes, limits_text
from cyclegan.data.scan import find_scan
from cyclegan.enhance.grid import Region as Box
from cyclegan.enhance.tiling import open_frames
from cyclegan.generator import TrainedGenerator
from search.models import Model
from tracking.provenance import hash_cache
from workbench.enhancement.request import EnhanceRequest, Target

log = logging.getLogger(__name__)

_FILL_MISSING = (
    'or read the fill value there by --fill-missing ("fill_missing": true in a dataset JSON); a '
    "region does not leave the gap out, because the grey scale is that of the whole volume"
)
"""Way out for a volume with holes."""


def volumes_of(
    request: EnhanceRequest, target: Target, model: Model, scratch: Path
) -> Sequence[Volume]:
    """Return the volume of a target, or the frames of a series; files of views go to `scratch`."""
    path, generator = target.volume, model.generator
    entry = entry_of(request, path)
    if request.series:
        return open_series(entry, generator, scratch, request.roi)
    return [open_input(entry, generator, request.roi)]


def check_input(entry: VolumeEntry) -> None:
    """Refuse a dataset that can't be read or has holes, before anything is computed."""
    dataset, name = open_dataset(entry.path, entry.dset), f"{entry.path}:{entry.dset}"
    with dataset.file, explained(name):
        box = [(0, n) for n in dataset.shape[-3:]]
        check_holes(dataset, name, box, fill_missing=entry.fill_missing, way_out=_FILL_MISSING)


def entry_of(request: EnhanceRequest, path: Path) -> VolumeEntry:
    """Return the entry of a volume that is read as the request says."""
    return VolumeEntry(
        path=path,
        dset=request.dataset,
        no_data=request.no_data,
        fill_missing=request.fill_missing,
    )


def open_input(
    entry: VolumeEntry, generator: TrainedGenerator, region: Box | None = None
) -> Volume:
    """The whole dataset for `generator` A -> B; one line says which grey scale it got and why.

    `region` is what is wanted of it, for that line.
    """
    config = generator.config
    stored = Region(entry, config.channels_A)
    scan, reason = find_scan(generator.scans.get("A", ()), stored.place, hash_cache())
    stored.close()
    volume = Volume(
        entry,
        channels=config.channels_A,
        standardise=config.standardise,
        statistics=scan.statistics if scan else None,
        tell=False,
    )
    if scan is not None:
        volume.standardise_as(scan)
    volume.warn()
    _say(volume, f"{entry.path}:{entry.dset}", reason, region)
    return volume


def open_series(
    entry: VolumeEntry, generator: TrainedGenerator, folder: Path, region: Box | None = None
) -> Sequence[Volume]:
    """The frames of a series, all with the grey scale of the whole; files of views in `folder`."""
    frames = open_frames(entry, folder, standardise=generator.config.standardise)
    frames[0].warn()
    _say(frames[0], f"{entry.path}:{entry.dset}", "all frames together have these", region)
    return frames


def _say(volume: Volume, name: str, reason: str, region: Box | None) -> None:
    limits = limits_text(region, volume.shape) if region else ""
    log.info("%s%s %s; %s", name, limits, volume.grey_values, reason)
