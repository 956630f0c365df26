"""Enhance volumes: find the model, apply it tile by tile, measure, report, track."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from cyclegan.data import Volume
from cyclegan.enhance import EnhanceResult, EnhanceSettings, enhance_file, enhance_shard
from cyclegan.enhance.device_errors import explaining
from cyclegan.enhance.grid import Grid
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.errors import BusyError
from cyclegan.precision import use_device
from search.models import Model, find_model
from tracking.scratch import temporary_folder
from viz.console import Console
from workbench.enhancement.enhancement import Enhancement
from workbench.enhancement.inputs import check_input, entry_of, volumes_of
from workbench.enhancement.judging import (
    JudgeResult,
    judge,
    look_at_series,
    open_reference,
    quality_table,
)
from workbench.enhancement.operator import enhanced_halves, operator_of, output_scale
from workbench.enhancement.request import EnhanceRequest, Target, check_roi, keeps, targets
from workbench.enhancement.run import EnhancementRun, tracked
from workbench.output import OpenStore, Output

_TRIES = 5


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
            volumes = volumes_of(request, target, model, scratch)
            try:
                enhancement = _enhancement(
                    request, target, model, device, volumes[0], open_store, console
                )
                if request.shard is None:
                    results.append(_enhance_one(enhancement, volumes, open_store, console))
                elif _finish_shard(enhancement, volumes, console):
                    results += _put_together(enhancement, volumes, open_store, console)
            finally:
                for volume in volumes:
                    volume.close()
    return results


def _enhancement(
    request: EnhanceRequest,
    target: Target,
    model: Model,
    device: torch.device,
    volume: Volume,
    open_store: OpenStore,
    console: Console,
) -> Enhancement:
    check_roi(request.roi, volume.shape, volume.name)
    with explaining():
        operator = operator_of(
            request, model, device, volume, open_store=open_store, console=console
        )
    return Enhancement(
        request=request,
        target=target,
        model=model,
        operator=operator,
        device=device,
        volume=volume,
    )


def _put_together(
    enhancement: Enhancement, volumes: Sequence[Volume], open_store: OpenStore, console: Console
) -> list[EnhancementResult]:
    """Return the result of all shards; empty if another process puts them together.

    Shards that end at the same moment may find each other busy, so one try is not enough.
    """
    for _ in range(_TRIES):
        try:
            return [_enhance_one(enhancement, volumes, open_store, console)]
        except BusyError:
            if enhancement.target.output.exists():
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
        check_input(entry_of(request, path))
    return wanted, find_model(request.model, open_store)


def _finish_shard(enhancement: Enhancement, volumes: Sequence[Volume], console: Console) -> bool:
    """Compute the tiles of a shard; return True if no tile of the volume is missing now."""
    request, output = enhancement.request, enhancement.target.output
    assert request.shard is not None
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
            enhancement.operator,
            volumes if request.series else volumes[0],
            output,
            request.shard,
            _settings(enhancement),
            on_progress=progress,
        )
    if not whole:
        console.say(
            f"{output}: shard {request.shard} is done; the last one to end puts all together"
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


def _settings(enhancement: Enhancement) -> EnhanceSettings:
    request = enhancement.request
    return EnhanceSettings(
        tile=request.tile,
        region=request.roi,
        memory_gb=request.memory_gb,
        device=enhancement.device,
        compression=request.compression,
        scale=output_scale(request, enhancement.volume, enhancement.model),
        overwrite=request.overwrite,
    )


def _enhance_one(
    enhancement: Enhancement, volumes: Sequence[Volume], open_store: OpenStore, console: Console
) -> EnhancementResult:
    request, operator, first = enhancement.request, enhancement.operator, enhancement.volume
    grid = Grid.of(operator, first.shape, region=request.roi)
    reference = None
    if request.reference is not None:
        factor = operator.outputs["data"]
        entry = replace(entry_of(request, request.reference), no_data=None)
        reference = open_reference(entry, first, grid, factor)
    with tracked(enhancement, open_store, console) as tracking:
        done = _enhance(enhancement, volumes, tracking, console)
        tracking.keep_volume(done)
        judged = JudgeResult()
        if not _is_complete(request, enhancement.target, done):
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


def _enhance(
    enhancement: Enhancement, volumes: Sequence[Volume], tracking: EnhancementRun, console: Console
) -> EnhanceResult:
    request, model, operator = enhancement.request, enhancement.model, enhancement.operator
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
            enhancement.target.output,
            _settings(enhancement),
            keep=keeps(request, enhancement.target),
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
