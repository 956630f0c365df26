"""The command `cyclegan enhance`: find the model, enhance, measure, track."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.data import Size, Volume, VolumeEntry, open_dataset
from cyclegan.enhance import Enhanced, choose_tile, enhance_file, tiles
from cyclegan.errors import DataError
from cyclegan.files import refuse_overwrite
from cyclegan.generator import TrainedGenerator, load_generator
from cyclegan.pictures import comparison, write_png
from cyclegan.precision import choose_device
from cyclegan.quality import QualityRow, best_gaussian, compare_with_reference
from search.commandline import Session
from search.tables import table

if TYPE_CHECKING:
    from tracking import Run

Image = NDArray[np.float32]
_PICTURE_VOXELS = 200_000_000
"""Volumes larger than this are not read whole for a picture or a measurement."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for."""

    volume: Path
    dataset: str
    model: str
    output: Path
    tile: Size | None
    reference: Path | None
    device: str
    overwrite: bool

    @property
    def picture(self) -> Path:
        """Where slices of input and output are shown side by side."""
        return self.output.with_suffix(".png")


@dataclass(frozen=True, kw_only=True)
class _Model:
    generator: TrainedGenerator
    file: Path
    run_id: str | None
    run_name: str | None
    experiment: str | None


def run_enhancement(session: Session, request: Request) -> None:
    """Enhance as asked, print the result, and record it as an MLflow run of kind `enhance`."""
    for path in (request.output, request.picture):
        refuse_overwrite(path, request.overwrite)
    _check_inputs(request)
    model = _find_model(session, request.model)
    done = _enhance(session, request, model)
    rows, picture = _judge(request)
    if picture is not None:
        write_png(picture, request.picture)
    run = _track(session, request, model, done, rows, picture)
    data = {
        "output": str(done.path),
        "picture": None if picture is None else str(request.picture),
        "shape": list(done.shape),
        "tile": list(done.tile),
        "seconds": done.seconds,
        "voxels_per_second": done.voxels_per_second,
        "model": request.model,
        "run_id": run.id,
        "quality": [vars(row) for row in rows],
    }
    session.result(data, _text(data, rows))


def _check_inputs(request: Request) -> None:
    for path in filter(None, (request.volume, request.reference)):
        Volume(VolumeEntry(path=path, dset=request.dataset), standardise="never")
    if request.output.resolve() in {
        p.resolve() for p in (request.volume, request.reference) if p is not None
    }:
        raise DataError(f"{request.output} is an input too; name another output")


def _find_model(session: Session, name: str) -> _Model:
    if Path(name).is_file():
        return _Model(
            generator=load_generator(Path(name)),
            file=Path(name),
            run_id=None,
            run_name=None,
            experiment=None,
        )
    info = session.store.find_run(name)
    file = session.store.run(info.id).artifact_path("checkpoints/generator.pt")
    return _Model(
        generator=load_generator(file),
        file=file,
        run_id=info.id,
        run_name=info.name,
        experiment=info.experiment,
    )


def _enhance(session: Session, request: Request, model: _Model) -> Enhanced:
    network = model.generator.network
    entry = VolumeEntry(path=request.volume, dset=request.dataset)
    dataset = open_dataset(entry.path, entry.dset)
    shape: Size = dataset.shape
    dataset.file.close()
    core = choose_tile(shape, network.geometry, request.tile)
    total = sum(1 for _ in tiles(shape, core, network.geometry))
    attributes = {"model": model.run_id or str(model.file), "source": str(request.volume)}
    with session.console.progress("enhance", total, unit="tiles") as update:
        return enhance_file(
            network,
            entry,
            request.output,
            tile=core,
            device=choose_device(request.device),
            overwrite=request.overwrite,
            attributes=attributes,
            on_progress=lambda done, _: update(done),
        )


def _judge(request: Request) -> tuple[list[QualityRow], NDArray[np.uint8] | None]:
    """Quality rows if there is a reference, and a picture; neither for volumes beyond memory."""
    enhanced = _read(request.output, "data")
    source = _read(request.volume, request.dataset)
    if enhanced is None or source is None:
        return [], None
    if request.reference is None:
        return [], comparison({"input": source, "enhanced": enhanced})
    reference = _read(request.reference, request.dataset)
    if reference is None:
        return [], None
    if reference.shape != enhanced.shape:
        raise DataError(
            f"{request.reference}: the reference has {list(reference.shape)} voxels, the enhanced "
            f"volume {list(enhanced.shape)}; give one of the same region and resolution"
        )
    rows = compare_with_reference(enhanced, source, reference)
    filtered, _ = best_gaussian(source, reference)
    columns = {
        "input": source,
        "best Gaussian": filtered,
        "enhanced": enhanced,
        "reference": reference,
    }
    return rows, comparison(columns)


def _read(path: Path, name: str) -> Image | None:
    dataset = open_dataset(path, name)
    with dataset.file:
        if dataset.size > _PICTURE_VOXELS:
            return None
        volume: Image = np.asarray(dataset, dtype=np.float32)
        return volume


def _track(
    session: Session,
    request: Request,
    model: _Model,
    done: Enhanced,
    rows: list[QualityRow],
    picture: NDArray[np.uint8] | None,
) -> Run:
    store = session.store
    run = store.create_run(
        model.experiment or "enhance",
        f"enhance-{request.volume.stem}",
        kind="enhance",
        params={
            "volume": str(request.volume),
            "reference": str(request.reference or ""),
            "output": str(request.output),
            "model": request.model,
            "tile": list(done.tile),
        },
        tags={"model_run": model.run_id or "", "model_file": str(model.file)},
        parent=model.run_id,
    )
    metrics = {"speed/voxels_per_s": done.voxels_per_second}
    for row in rows:
        key = row.name.replace(" ", "_")
        metrics |= {f"psnr/{key}": row.psnr, f"ssim/{key}": row.ssim}
    run.log_metrics(metrics, step=0)
    if picture is not None:
        run.log_image(picture, key="comparison", step=0)
        run.log_file(request.picture)
    run.finish("FINISHED", "")
    return run


def _text(data: dict[str, Any], rows: list[QualityRow]) -> str:
    lines = [
        f"written    {data['output']}, {' x '.join(map(str, data['shape']))} voxels, "
        f"{data['seconds']:.1f} s ({data['voxels_per_second']:.3g} voxels/s)"
    ]
    if data["picture"]:
        lines.append(f"           {data['picture']}, slices side by side")
    if rows:
        lines += ["", quality_table(rows)]
    return "\n".join(lines)


def quality_table(rows: list[QualityRow]) -> str:
    """PSNR and SSIM of the input, of the best plain filter, and of the enhanced volume."""
    header = ["against the reference", "PSNR / dB", "SSIM", "sign of the fit"]
    cells = [
        [row.name, f"{row.psnr:.2f}", f"{row.ssim:.3f}", "+" if row.slope > 0 else "- (inverted)"]
        for row in rows
    ]
    return table(header, cells)
