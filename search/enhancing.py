"""The command `cyclegan enhance`: find the model, enhance, measure, report, track."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cyclegan.data import Statistics, Volume, VolumeEntry, open_dataset
from cyclegan.enhance import Enhanced, enhance_file
from cyclegan.enhance.grid import Grid
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.enhance.network import Generator, choose_precision
from cyclegan.enhance.source import open_frames
from cyclegan.enhance.tiling import TileOperator
from cyclegan.errors import DataError, UsageError
from cyclegan.generator import load_generator
from cyclegan.precision import choose_device
from cyclegan.report import Halves
from cyclegan.trust import TrustOperator
from search.commandline import Session
from search.enhance_judging import Judged, judge, open_reference, quality_table
from search.enhance_request import Request, Target, check_roi, keeps, targets
from search.models import Model, find_model

if TYPE_CHECKING:
    from tracking import Run

_AS_IT_IS = Statistics(1, 0, 0.0, 1.0)
__all__ = ["Request", "quality_table", "run_enhancement"]


def factor_of(session: Session, name: str) -> Fraction:
    """Output voxels per input voxel of the model `name`, a file or an MLflow run."""
    return find_model(session, name).generator.network.geometry.factor


def run_enhancement(session: Session, request: Request) -> None:
    """Enhance as asked, print the result, and record it as an MLflow run of kind `enhance`."""
    wanted = targets(request)
    for path in filter(None, (*request.volumes, *request.halves, request.reference)):
        open_dataset(path, request.dataset).file.close()
    model = find_model(session, request.model)
    device = choose_device(request.device)
    if request.memory_gb is None:  # half of what is free leaves room for it
        keep_freed_memory()
    results = []
    for target in wanted:
        with tempfile.TemporaryDirectory(prefix="cyclegan-") as scratch:
            results.append(_enhance_one(session, request, target, model, device, Path(scratch)))
    if request.several:
        data: Any = {"output": str(request.output), "volumes": results}
    else:
        (data,) = results
    session.result(data, "\n\n".join(_text(result) for result in results))


def _enhance_one(
    session: Session,
    request: Request,
    target: Target,
    model: Model,
    device: torch.device,
    scratch: Path,
) -> dict[str, Any]:
    volumes = _volumes(request, target, model, scratch)
    try:
        return _enhance_volumes(session, request, target, model, device, volumes)
    finally:
        for volume in volumes:
            volume.close()


def _enhance_volumes(
    session: Session,
    request: Request,
    target: Target,
    model: Model,
    device: torch.device,
    volumes: Sequence[Volume],
) -> dict[str, Any]:
    first = volumes[0]
    check_roi(request.roi, first.shape, first.name)
    operator = _operator(session, request, model, device, first)
    grid = Grid.of(operator, first.shape, region=request.roi)
    reference = None
    if request.reference is not None:
        factor = operator.outputs["data"]
        reference = open_reference(request.reference, request.dataset, first, grid, factor)
    done = _enhance(session, request, target, model, operator, device, volumes)
    judged = Judged()
    if not request.series:
        shown = f"{model.label}, run {model.name}" if model.label else model.name
        about = {"model": shown, "step": model.generator.step, "tile": list(done.tile)}
        with tempfile.TemporaryDirectory(prefix="cyclegan-") as scratch:
            halves = _halves(session, request, model, operator, first, Path(scratch))
            judged = judge(
                first, grid, target, reference, halves=halves, say=session.say, metadata=about
            )
    run = _track(session, request, target, model, done, judged)
    return {
        "output": str(done.path),
        "picture": None if judged.picture is None else str(target.picture),
        "report": None if judged.report is None else str(target.report),
        "trust": [name for name in operator.outputs if name != "data"],
        "shape": list(done.shape),
        "tile": list(done.tile),
        "tiles": done.tiles,
        "resumed": done.resumed,
        "seconds": done.seconds,
        "voxels_per_second": done.voxels_per_second,
        "model": request.model,
        "model_version": model.label or None,
        "model_run": model.run_id,
        "run_id": run.id,
        "quality": [vars(row) for row in judged.rows],
    }


def _volumes(request: Request, target: Target, model: Model, scratch: Path) -> Sequence[Volume]:
    config = model.generator.config
    if request.series:
        return open_frames(target.volume, request.dataset, scratch, standardise=config.standardise)
    entry = VolumeEntry(path=target.volume, dset=request.dataset)
    return [Volume(entry, channels=config.channels_A, standardise=config.standardise)]


def _halves(
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
    config = model.generator.config
    generator = operator.G_A if isinstance(operator, TrustOperator) else operator
    raw, enhanced = [], []
    for number, path in enumerate(request.halves, start=1):
        entry = VolumeEntry(path=path, dset=request.dataset, roi=request.roi or (None,) * 3)
        half = Volume(entry, channels=config.channels_A, standardise=config.standardise)
        if request.roi is None and half.shape != volume.shape:
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


def _operator(
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
        Generator(find_model(session, name).generator.network, device=device, precision=precision)
        for name in request.other_models
    ]
    try:
        return TrustOperator(G_A, G_B, others=others).calibrated(volume.read, volume.shape)
    except UsageError as error:
        if others:
            raise
        session.say(f"no trust maps: {error}")
        return G_A


def _enhance(
    session: Session,
    request: Request,
    target: Target,
    model: Model,
    operator: TileOperator,
    device: torch.device,
    volumes: Sequence[Volume],
) -> Enhanced:
    attributes = {
        "model": model.name,
        **({"model_version": model.label} if model.label else {}),
        "step": model.generator.step,
        "precision": getattr(getattr(operator, "G_A", operator), "precision", "fp32"),
        "units": request.units,
        **{
            f"{name}_{key}": value
            for domain, name in (("A", "source_domain"), ("B", "target_domain"))
            for key, value in model.generator.grey_scales.get(domain, {}).items()
        },
    }
    with contextlib.ExitStack() as stack:
        update: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal update
            if update is None:
                shown = session.console.progress("enhance", total, unit="voxels", start=done)
                update = stack.enter_context(shown)
            elif total:
                update(done)

        return enhance_file(
            operator,
            volumes if request.series else volumes[0],
            target.output,
            tile=request.tile,
            region=request.roi,
            memory_gb=request.memory_gb,
            device=device,
            compression=request.compression,
            scale=_scale(request, volumes[0], model),
            overwrite=request.overwrite,
            keep=keeps(request, target),
            attributes=attributes,
            on_progress=progress,
        )


def _scale(request: Request, volume: Volume, model: Model) -> tuple[float, float]:
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


def _track(
    session: Session,
    request: Request,
    target: Target,
    model: Model,
    done: Enhanced,
    judged: Judged,
) -> Run:
    run = session.store.create_run(
        model.experiment or "enhance",
        f"enhance-{target.volume.stem}",
        kind="enhance",
        params={
            "volume": str(target.volume),
            "reference": str(request.reference or ""),
            "halves": [str(path) for path in request.halves],
            "other_models": list(request.other_models),
            "output": str(target.output),
            "model": request.model,
            "tile": list(done.tile),
            "roi": list(request.roi or ()),
            "precision": request.precision,
            "units": request.units,
        },
        tags={
            "model_run": model.run_id or "",
            "model_version": model.label,
            "model_file": str(model.file),
        },
        parent=model.run_id,
    )
    run.log_metrics(judged.metrics() | {"speed/voxels_per_s": done.voxels_per_second}, step=0)
    if judged.picture is not None:
        run.log_image(judged.picture, key="comparison", step=0)
        run.log_file(target.picture)
    if judged.report is not None:
        run.log_file(target.report)
        run.log_file(target.report_picture)
    run.finish("FINISHED", "")
    return run


def _text(data: Mapping[str, Any]) -> str:
    lines = [
        f"written    {data['output']}, {' x '.join(map(str, data['shape']))} voxels, "
        f"{data['seconds']:.1f} s ({data['voxels_per_second']:.3g} voxels/s)"
    ]
    if data["trust"]:
        lines.append(f"           in it {', '.join(data['trust'])}: where not to trust it")
    if data["picture"]:
        lines.append(f"           {data['picture']}, slices side by side")
    if data["report"]:
        lines.append(f"           {data['report']}, the report")
    if data["quality"]:
        lines += ["", quality_table(data["quality"])]
    return "\n".join(lines)
