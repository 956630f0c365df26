"""The operator that is applied to a volume: a generator alone, or with trust maps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from cyclegan.data import Statistics, Volume, VolumeEntry
from cyclegan.data.region import Region, limits_text
from cyclegan.data.scan import find_scan
from cyclegan.enhance import enhance_file
from cyclegan.enhance.grid import Region as Box
from cyclegan.enhance.grid import TileOperator
from cyclegan.enhance.network import Generator, choose_precision
from cyclegan.enhance.source import open_frames
from cyclegan.errors import DataError, UsageError
from cyclegan.generator import TrainedGenerator, load_generator
from cyclegan.precision import choose_device
from cyclegan.trust import TrustOperator
from search.models import Model, find_model
from tracking.provenance import hash_cache
from viz.console import Console
from viz.enhancement import Halves
from workbench.enhancement.request import EnhanceRequest
from workbench.output import OpenStore

_AS_IT_IS = Statistics(1, 0, 0.0, 1.0)


def operator_of(
    request: EnhanceRequest,
    model: Model,
    device: torch.device,
    volume: Volume,
    *,
    open_store: OpenStore,
    console: Console,
) -> TileOperator:
    """The generator alone, or with the trust maps, calibrated on the volume."""
    network = model.generator.network
    precision = choose_precision(
        request.precision,
        network,
        device=device,
        trained_in_bf16=model.generator.config.precision == "bf16",
    )
    G_A = Generator(network, device=device, precision=precision, compiled=request.compiled)
    if not request.trust:
        return G_A
    back = load_generator(model.file, "B").network
    G_B = Generator(back, device=device, precision=precision, compiled=request.compiled)
    others = [
        Generator(
            find_model(name, open_store).generator.network,
            device=device,
            precision=precision,
        )
        for name in request.other_models
    ]
    try:
        return TrustOperator(G_A, G_B, others=others).calibrated(volume.read, volume.shape)
    except UsageError as error:
        if others:
            raise
        console.say(f"no trust maps: {error}")
        return G_A


def enhanced_halves(
    request: EnhanceRequest,
    model: Model,
    operator: TileOperator,
    volume: Volume,
    scratch: Path,
    *,
    console: Console,
) -> Halves:
    """Both half scans and what the generator alone makes of them, for the report's correlation."""
    if not request.halves:
        return {}
    generator = operator.G_A if isinstance(operator, TrustOperator) else operator
    raw, enhanced = [], []
    for number, path in enumerate(request.halves, start=1):
        half = open_input(path, request.dataset, model.generator, request.roi)
        if request.roi is not None:
            half = half.part(request.roi)
        elif half.shape != volume.shape:
            raise DataError(
                f"{path}: the half has {list(half.shape)} voxels and the volume "
                f"{list(volume.shape)}; give halves of the same scan"
            )
        output = scratch / f"half-{number}.h5"
        console.say(f"enhance: half {number} of 2, {path}")
        enhance_file(
            generator,
            half,
            output,
            tile=request.tile,
            memory_gb=request.memory_gb,
            device=choose_device(request.device),
        )
        raw.append(half)
        # Grey values of a network's output, whatever they are, are not to be touched.
        enhanced.append(Volume(VolumeEntry(path=output, dset="data"), statistics=_AS_IT_IS))
    return {"input": (raw[0], raw[1]), "enhanced": (enhanced[0], enhanced[1])}


def output_scale(request: EnhanceRequest, volume: Volume, model: Model) -> tuple[float, float]:
    """Offset and factor that bring standardised grey values into the units asked for."""
    if request.units == "standardised":
        return 0.0, 1.0
    if request.units == "input":
        return volume.mean, volume.std
    target = model.generator.grey_scales.get("B")
    if target is None:
        raise UsageError(
            f"--units target: {model.file} does not say which grey values domain B had before it "
            "was standardised; take --units input or standardised"
        )
    return target["mean"], target["std"]


# -- The volume that an enhancement reads, with the grey scale that its scan has ---------------
#
# A scan has one grey scale: that of the training if the generator was trained on a part of it, else
# that of the whole dataset, whatever region is enhanced.

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
