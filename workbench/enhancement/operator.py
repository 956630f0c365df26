"""Make the operator that an enhancement applies, enhance the half scans, find the units."""

from __future__ import annotations

from pathlib import Path

import torch

from cyclegan.data import Statistics, Volume, VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.enhance.grid import TileOperator
from cyclegan.enhance.network import Generator, choose_precision, trusted_precision
from cyclegan.errors import DataError, UsageError
from cyclegan.generator import load_generator
from cyclegan.precision import use_device
from cyclegan.trust import TrustOperator
from search.models import Model, find_model
from viz.console import Console
from viz.enhancement import Halves
from workbench.enhancement.inputs import entry_of, open_input
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
    back = load_generator(model.file, "B").network if request.trust else None
    further = [find_model(name, open_store).generator.network for name in request.other_models]
    networks = [network, *([back] if back else []), *further]
    precision = trusted_precision(precision, networks, device)
    G_A = Generator(network, device=device, precision=precision, compiled=request.compiled)
    if back is None:
        return G_A
    G_B = Generator(back, device=device, precision=precision, compiled=request.compiled)
    others = [Generator(other, device=device, precision=precision) for other in further]
    try:
        return TrustOperator(G_A, G_B, others=others).calibrated(volume.read, volume.shape)
    except UsageError as error:
        if others:
            raise
        console.warn(f"no trust maps: {error}")
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
        half = open_input(entry_of(request, path), model.generator, request.roi)
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
            EnhanceSettings(
                tile=request.tile, memory_gb=request.memory_gb, device=use_device(request.device)
            ),
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
