"""The volume that an enhancement reads, with the grey scale that its scan has.

A scan has one grey scale: that of the training if the generator was trained on a part of it, else
that of the whole dataset, whatever region is enhanced.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cyclegan.data import Volume, VolumeEntry
from cyclegan.data.region import Region, limits_text
from cyclegan.data.scan import find_scan
from cyclegan.enhance.grid import Region as Box
from cyclegan.enhance.source import open_frames
from cyclegan.generator import TrainedGenerator
from tracking.provenance import hash_cache

log = logging.getLogger(__name__)


def open_input(
    path: Path, dataset: str, generator: TrainedGenerator, region: Box | None = None
) -> Volume:
    """The whole dataset for `generator` A -> B; one line says which grey scale it got and why.

    `region` is what is wanted of it, for that line.
    """
    config = generator.config
    entry = VolumeEntry(path=path, dset=dataset)
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
    if scan is None:
        volume.warn()
    else:
        volume.standardise_as(scan)
    _say(volume, f"{path}:{dataset}", reason, region)
    return volume


def open_series(
    path: Path, dataset: str, generator: TrainedGenerator, folder: Path, region: Box | None = None
) -> Sequence[Volume]:
    """The frames of a series, all with the grey scale of the whole; files of views in `folder`."""
    frames = open_frames(path, dataset, folder, standardise=generator.config.standardise)
    frames[0].warn()
    _say(frames[0], f"{path}:{dataset}", "that is of all frames together", region)
    return frames


def _say(volume: Volume, name: str, reason: str, region: Box | None) -> None:
    limits = limits_text(region, volume.shape) if region else ""
    log.info("%s%s %s; %s", name, limits, volume.grey_values, reason)
