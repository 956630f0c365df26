"""The command `cyclegan enhance`: find the model, enhance, measure, report, track."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cyclegan.data import Volume, open_dataset
from cyclegan.enhance import Enhanced, enhance_file
from cyclegan.enhance.grid import Grid
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.precision import choose_device
from search.models import Model, find_model
from workbench.enhance.judging import Judged, judge, look_at_series, open_reference, quality_table
from workbench.enhance.operator import (
    enhanced_halves,
    open_input,
    open_series,
    operator_of,
    output_scale,
)
from workbench.enhance.record import Facts
from workbench.enhance.request import Request, Target, check_roi, keeps, targets
from workbench.enhance.run import Tracking, tracked
from workbench.session import Session

if TYPE_CHECKING:
    pass

__all__ = ["Request", "quality_table", "run_enhancement"]


def factor_of(session: Session, name: str) -> Fraction:
    """Output voxels per input voxel of the model `name`, a file or an MLflow run."""
    return find_model(name, lambda: session.store).generator.network.geometry.factor


def run_enhancement(session: Session, request: Request) -> None:
    """Enhance as asked, print the result, and record it as an MLflow run of kind `enhance`."""
    wanted = targets(request)
    for path in filter(None, (*request.volumes, *request.halves, request.reference)):
        open_dataset(path, request.dataset).file.close()
    model = find_model(request.model, lambda: session.store)
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
    operator = operator_of(session, request, model, device, first)
    grid = Grid.of(operator, first.shape, region=request.roi)
    reference = None
    if request.reference is not None:
        factor = operator.outputs["data"]
        reference = open_reference(request.reference, request.dataset, first, grid, factor)
    facts = Facts(
        request=request,
        target=target,
        model=model,
        operator=operator,
        device=device,
        volume=first,
    )
    with tracked(session, facts) as tracking:
        done = _enhance(session, facts, volumes, tracking)
        tracking.keep_volume(done)
        judged = _judged(session, facts, grid, reference, done)
        tracking.finish(done, judged)
    return _result(facts, done, judged, tracking)


def _judged(
    session: Session, facts: Facts, grid: Grid, reference: Volume | None, done: Enhanced
) -> Judged:
    request, model = facts.request, facts.model
    shown = f"{model.label}, run {model.name}" if model.label else model.name
    about = {"model": shown, "step": model.generator.step, "tile": list(done.tile)}
    if request.series:
        if not request.report:
            return Judged()
        return look_at_series(facts.volume, grid, facts.target, say=session.say, metadata=about)
    with tempfile.TemporaryDirectory(prefix="cyclegan-") as scratch:
        halves = enhanced_halves(
            session, request, model, facts.operator, facts.volume, Path(scratch)
        )
        return judge(
            facts.volume,
            grid,
            facts.target,
            reference,
            halves=halves,
            say=session.say,
            metadata=about,
            with_report=request.report,
        )


def _result(facts: Facts, done: Enhanced, judged: Judged, tracking: Tracking) -> dict[str, Any]:
    target, model = facts.target, facts.model
    return {
        "output": str(done.path),
        "picture": None if judged.picture is None else str(target.picture),
        "viewer": None if judged.viewer is None else str(judged.viewer),
        "report": None if judged.report is None else str(target.report),
        "trust": [name for name in facts.operator.outputs if name != "data"],
        "shape": list(done.shape),
        "tile": list(done.tile),
        "tiles": done.tiles,
        "resumed": done.resumed,
        "seconds": done.seconds,
        "voxels_per_second": done.voxels_per_second,
        "model": facts.request.model,
        "model_version": model.label or None,
        "model_run": model.run_id,
        "run_id": tracking.run_id,
        "volume": tracking.volume,
        "quality": [vars(row) for row in judged.rows],
        "verdict": judged.verdict,
    }


def _volumes(request: Request, target: Target, model: Model, scratch: Path) -> Sequence[Volume]:
    path, dataset, generator = target.volume, request.dataset, model.generator
    if request.series:
        return open_series(path, dataset, generator, scratch, request.roi)
    return [open_input(path, dataset, generator, request.roi)]


def _enhance(
    session: Session, facts: Facts, volumes: Sequence[Volume], tracking: Tracking
) -> Enhanced:
    request, target, model = facts.request, facts.target, facts.model
    operator = facts.operator
    attributes = {
        "model": model.name,
        **({"model_version": model.label} if model.label else {}),
        "step": model.generator.step,
        "precision": getattr(getattr(operator, "G_A", operator), "precision", "fp32"),
        "units": request.units,
        **facts.attributes(),
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
                shown = session.console.progress("enhance", total, unit="voxels", start=done)
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
            device=facts.device,
            compression=request.compression,
            scale=output_scale(request, facts.volume, model),
            overwrite=request.overwrite,
            keep=keeps(request, target),
            attributes=attributes,
            on_progress=progress,
        )
    tracking.begin()  # of a volume that was there
    # Waiting for the store is no part of the speed.
    return replace(done, seconds=max(done.seconds - tracking.seconds, 0.0))


def _text(data: Mapping[str, Any]) -> str:
    lines = [
        f"written    {data['output']}, {' x '.join(map(str, data['shape']))} voxels, "
        f"{data['seconds']:.1f} s ({data['voxels_per_second']:.3g} voxels/s)"
    ]
    if data["trust"]:
        lines.append(f"           in it {', '.join(data['trust'])}: where not to trust it")
    if data["picture"]:
        lines.append(f"           {data['picture']}, slices side by side")
    if data["viewer"]:
        lines.append(f"           {data['viewer']}, to look into it")
    if data["report"]:
        lines.append(f"           {data['report']}, the report")
    if data["volume"].get("artifact"):
        lines.append(f"copied     to MLflow, {data['volume']['artifact']} of run {data['run_id']}")
    if data["quality"]:
        lines += ["", quality_table(data["quality"])]
    if data["verdict"]:
        lines += ["", data["verdict"]]
    return "\n".join(lines)
