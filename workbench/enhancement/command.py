"""Enhance volumes: find the model, apply it tile by tile, measure, report, track."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from cyclegan.data import Statistics, Volume, VolumeEntry, open_dataset
from cyclegan.data.hdf5_source import explained
from cyclegan.data.region import Region, check_holes, limits_text
from cyclegan.data.scan import find_scan
from cyclegan.enhance import EnhanceResult, enhance_file, enhance_shard
from cyclegan.enhance.device_errors import explaining
from cyclegan.enhance.grid import Grid, TileOperator
from cyclegan.enhance.grid import Region as Box
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.enhance.network import Generator, choose_precision, trusted_precision
from cyclegan.enhance.tiling import open_frames
from cyclegan.errors import BusyError, DataError, UsageError
from cyclegan.generator import TrainedGenerator, load_generator
from cyclegan.precision import use_device
from cyclegan.trust import TrustOperator
from search.models import Model, find_model
from tracking.provenance import hash_cache
from tracking.scratch import temporary_folder
from viz.console import Console
from viz.enhancement import Halves
from workbench.enhancement.enhancement import Enhancement
from workbench.enhancement.judging import (
    JudgeResult,
    judge,
    look_at_series,
    open_reference,
    quality_table,
)
from workbench.enhancement.request import EnhanceRequest, Target, check_roi, keeps, targets
from workbench.enhancement.run import EnhancementRun, tracked
from workbench.output import OpenStore, Output

_FILL_MISSING = (
    'or read the fill value there by --fill-missing ("fill_missing": true in a dataset JSON); a '
    "region does not leave the gap out, because the grey scale is that of the whole volume"
)
"""Way out for a volume with holes."""
_TRIES = 5
_AS_IT_IS = Statistics(1, 0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class EnhancementResult:
    """A finished enhancement of one volume, without its voxels: there may be many."""

    path: Path
    """The enhanced volume."""
    values: Mapping[str, Any]
    """Everything about it as plain values, under the names of `cyclegan enhance --json`."""

    @property
    def run_id(self) -> str | None:
        """Id of its MLflow run; None if the store was away all the time."""
        run_id: str | None = self.values["run_id"]
        return run_id

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return dict(self.values)


def factor_of(name: str, open_store: OpenStore) -> Fraction:
    """Return the output voxels per input voxel of the model `name`, a file or an MLflow run."""
    return find_model(name, open_store).generator.network.geometry.factor


def enhance_volumes(
    request: EnhanceRequest, *, open_store: OpenStore, console: Console
) -> list[EnhancementResult]:
    """Enhance as asked, and record each volume as an MLflow run of kind `enhance`.

    A shard of which others are still missing returns nothing for its volume.
    """
    wanted, model = check_enhancement(request, open_store=open_store)
    device = use_device(request.device)
    if request.memory_gb is None:  # half of what is free leaves room for it
        keep_freed_memory()
    results = []
    for target in wanted:
        with temporary_folder() as scratch:
            volumes = _volumes(request, target, model, scratch)
            try:
                parts = (request, target, model, device, volumes, open_store, console)
                if request.shard is None:
                    results.append(_enhance_one(*parts))
                elif _finish_shard(*parts):
                    results += _put_together(*parts)
            finally:
                for volume in volumes:
                    volume.close()
    return results


def _put_together(request: EnhanceRequest, target: Target, *parts: Any) -> list[EnhancementResult]:
    """Return the result of all shards; empty if another process puts them together.

    Shards that end at the same moment may find each other busy, so one try is not enough.
    """
    for _ in range(_TRIES):
        try:
            return [_enhance_one(request, target, *parts)]
        except BusyError:
            if target.output.exists():
                break
            time.sleep(1.0)
    return []


def check_enhancement(
    request: EnhanceRequest, *, open_store: OpenStore
) -> tuple[Sequence[Target], Model]:
    """Return what is to be written and the model; nothing is written.

    Errors: `UsageError` and `DataError` for volumes that can't be read, outputs that are there
    already, and a model that can't be found.
    """
    wanted = targets(request)
    for path in filter(None, (*request.volumes, *request.halves, request.reference)):
        _check_input(_entry(request, path))
    return wanted, find_model(request.model, open_store)


def _finish_shard(
    request: EnhanceRequest,
    target: Target,
    model: Model,
    device: torch.device,
    volumes: Sequence[Volume],
    open_store: OpenStore,
    console: Console,
) -> bool:
    """Compute the tiles of a shard; return True if no tile of the volume is missing now."""
    assert request.shard is not None
    first = volumes[0]
    check_roi(request.roi, first.shape, first.name)
    with explaining():
        operator = operator_of(
            request, model, device, first, open_store=open_store, console=console
        )
    with contextlib.ExitStack() as stack:
        update: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal update
            if update is None:
                label = f"shard {request.shard}"
                shown = console.progress(label, max(total, 1), unit="voxels", start=done)
                update = stack.enter_context(shown)
            else:
                update(done)

        whole = enhance_shard(
            operator,
            volumes if request.series else first,
            target.output,
            request.shard,
            tile=request.tile,
            region=request.roi,
            memory_gb=request.memory_gb,
            device=device,
            compression=request.compression,
            scale=output_scale(request, first, model),
            overwrite=request.overwrite,
            on_progress=progress,
        )
    if not whole:
        console.say(
            f"{target.output}: shard {request.shard} is done; the last one to end puts all together"
        )
    return whole


def output_of(request: EnhanceRequest, results: Sequence[EnhancementResult]) -> Output:
    """Return the results of a request for the command line."""
    parts = [result.to_dict() for result in results]
    if request.shard is not None and not parts:
        number, count = request.shard.number, request.shard.count
        data = {"output": str(request.output), "shard": [number, count], "volumes": []}
        return Output(data=data, text=f"shard {request.shard} of {request.output} is done")
    result: Any = {"output": str(request.output), "volumes": parts}
    if not request.several:
        (result,) = parts
    return Output(data=result, text="\n\n".join(_text(part) for part in parts))


def _enhance_one(
    request: EnhanceRequest,
    target: Target,
    model: Model,
    device: torch.device,
    volumes: Sequence[Volume],
    open_store: OpenStore,
    console: Console,
) -> EnhancementResult:
    first = volumes[0]
    check_roi(request.roi, first.shape, first.name)
    with explaining():
        operator = operator_of(
            request, model, device, first, open_store=open_store, console=console
        )
    grid = Grid.of(operator, first.shape, region=request.roi)
    reference = None
    if request.reference is not None:
        factor = operator.outputs["data"]
        entry = replace(_entry(request, request.reference), no_data=None)
        reference = open_reference(entry, first, grid, factor)
    enhancement = Enhancement(
        request=request,
        target=target,
        model=model,
        operator=operator,
        device=device,
        volume=first,
    )
    with tracked(enhancement, open_store, console) as tracking:
        done = _enhance(enhancement, volumes, tracking, console)
        tracking.keep_volume(done)
        judged = JudgeResult()
        if not _is_complete(request, target, done):
            judged = _judged(enhancement, grid, reference, done, console)
        tracking.finish(done, judged)
    return EnhancementResult(path=done.path, values=_values(enhancement, done, judged, tracking))


def _is_complete(request: EnhanceRequest, target: Target, done: EnhanceResult) -> bool:
    """Return True if an earlier call left nothing to compute, and this one asks for no more."""
    asks = request.reference is not None or request.halves
    # The report comes last; if it is missing, that call was killed after the volume.
    written = target.report.exists() if request.report else target.picture.exists()
    return done.resumed == done.tiles and written and not asks and not request.series


def _values(
    enhancement: Enhancement, done: EnhanceResult, judged: JudgeResult, tracking: EnhancementRun
) -> dict[str, Any]:
    target, model = enhancement.target, enhancement.model
    return {
        "output": str(done.path),
        "picture": _there(target.picture),
        "viewer": _there(target.viewer) if enhancement.request.report else None,
        "report": _there(target.report) if enhancement.request.report else None,
        "trust": [name for name in enhancement.operator.outputs if name != "data"],
        "shape": list(done.shape),
        "tile": list(done.tile),
        "tiles": done.tiles,
        "resumed": done.resumed,
        "seconds": done.seconds,
        "voxels_per_second": done.voxels_per_second,
        "model": enhancement.request.model,
        "model_version": model.label or None,
        "model_run": model.run_id,
        "run_id": tracking.run_id,
        "volume": tracking.volume,
        "quality": [vars(row) for row in judged.rows],
        "verdict": judged.verdict,
    }


def _there(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _judged(
    enhancement: Enhancement,
    grid: Grid,
    reference: Volume | None,
    done: EnhanceResult,
    console: Console,
) -> JudgeResult:
    request, model = enhancement.request, enhancement.model
    shown = f"{model.label}, run {model.name}" if model.label else model.name
    about = {"model": shown, "step": model.generator.step, "tile": list(done.tile)}
    if request.series:
        if not request.report:
            return JudgeResult()
        return look_at_series(
            enhancement.volume, grid, enhancement.target, warn=console.warn, metadata=about
        )
    with temporary_folder() as scratch:
        halves = enhanced_halves(
            request,
            model,
            enhancement.operator,
            enhancement.volume,
            scratch,
            console=console,
        )
        return judge(
            enhancement.volume,
            grid,
            enhancement.target,
            reference,
            halves=halves,
            warn=console.warn,
            metadata=about,
            with_report=request.report,
        )


def _volumes(
    request: EnhanceRequest, target: Target, model: Model, scratch: Path
) -> Sequence[Volume]:
    path, generator = target.volume, model.generator
    entry = _entry(request, path)
    if request.series:
        return open_series(entry, generator, scratch, request.roi)
    return [open_input(entry, generator, request.roi)]


def _check_input(entry: VolumeEntry) -> None:
    """Refuse a dataset that can't be read or has holes, before anything is computed."""
    dataset, name = open_dataset(entry.path, entry.dset), f"{entry.path}:{entry.dset}"
    with dataset.file, explained(name):
        box = [(0, n) for n in dataset.shape[-3:]]
        check_holes(dataset, name, box, fill_missing=entry.fill_missing, way_out=_FILL_MISSING)


def _entry(request: EnhanceRequest, path: Path) -> VolumeEntry:
    return VolumeEntry(
        path=path,
        dset=request.dataset,
        no_data=request.no_data,
        fill_missing=request.fill_missing,
    )


def _enhance(
    enhancement: Enhancement, volumes: Sequence[Volume], tracking: EnhancementRun, console: Console
) -> EnhanceResult:
    request, target, model = enhancement.request, enhancement.target, enhancement.model
    operator = enhancement.operator
    attributes = {
        "model": model.name,
        **({"model_version": model.label} if model.label else {}),
        "step": model.generator.step,
        "precision": getattr(getattr(operator, "G_A", operator), "precision", "fp32"),
        "units": request.units,
        **enhancement.attributes(),
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
                tracking.begin()  # by now nothing is refused any more
                shown = console.progress("enhance", total, unit="voxels", start=done)
                update = stack.enter_context(shown)
            elif total:
                update(done)

        done = enhance_file(
            operator,
            volumes if request.series else volumes[0],
            target.output,
            tile=request.tile,
            region=request.roi,
            memory_gb=request.memory_gb,
            device=enhancement.device,
            compression=request.compression,
            scale=output_scale(request, enhancement.volume, model),
            overwrite=request.overwrite,
            keep=keeps(request, target),
            attributes=attributes,
            on_progress=progress,
        )
    tracking.begin()  # of a volume that was there
    # The speed does not include waiting for the store.
    return replace(done, seconds=max(done.seconds - tracking.seconds, 0.0))


def _text(data: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, data["shape"]))
    lines = [f"written    {data['output']}, {shape} voxels, {_took(data)}"]
    if data["trust"]:
        lines.append(f"           with the trust maps {', '.join(data['trust'])}")
    if data["picture"]:
        lines.append(f"           {data['picture']}, slices side by side")
    if data["viewer"]:
        lines.append(f"           {data['viewer']}, the viewer")
    if data["report"]:
        lines.append(f"           {data['report']}, the report")
    if data["volume"].get("artifact"):
        lines.append(f"copied     to MLflow, {data['volume']['artifact']} of run {data['run_id']}")
    if data["quality"]:
        lines += ["", quality_table(data["quality"])]
    if data["verdict"]:
        lines += ["", data["verdict"]]
    return "\n".join(lines)


def _took(data: Mapping[str, Any]) -> str:
    if data["resumed"] == data["tiles"]:
        return "by an earlier call of this command"
    return f"{data['seconds']:.1f} s ({data['voxels_per_second']:.3g} voxels/s)"


# -- The operator that is applied, and the volumes that it is applied to -------------------------


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
        half = open_input(_entry(request, path), model.generator, request.roi)
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
            device=use_device(request.device),
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
