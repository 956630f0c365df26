"""What is applied to a volume, a generator alone or with trust maps; grey values of the result."""

from __future__ import annotations

from pathlib import Path

import torch

from cyclegan.data import Statistics, Volume, VolumeEntry
from cyclegan.enhance import enhance_file
from cyclegan.enhance.network import Generator, choose_precision
from cyclegan.enhance.tiling import TileOperator
from cyclegan.errors import DataError, UsageError
from cyclegan.generator import load_generator
from cyclegan.precision import choose_device
from cyclegan.trust import TrustOperator
from search.models import Model, find_model
from viz.enhancement import Halves
from workbench.enhance.input import open_input
from workbench.enhance.request import Request
from workbench.session import Session

_AS_IT_IS = Statistics(1, 0, 0.0, 1.0)


def operator_of(
    session: Session, request: Request, model: Model, device: torch.device, volume: Volume
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
            find_model(name, lambda: session.store).generator.network,
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
        session.say(f"no trust maps: {error}")
        return G_A


def enhanced_halves(
    session: Session,
    request: Request,
    model: Model,
    operator: TileOperator,
    volume: Volume,
    scratch: Path,
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
        session.say(f"enhance: half {number} of 2, {path}")
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


def output_scale(request: Request, volume: Volume, model: Model) -> tuple[float, float]:
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
