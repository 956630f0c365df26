"""The commands `cyclegan prepare` and `cyclegan simulate`: make the data of a training."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cyclegan.data.dataset import DatasetSpec
from cyclegan.data.fingerprint import check_unchanged, file_hashes
from cyclegan.data.volume import oddities
from cyclegan.errors import DataError, UsageError, nearest
from cyclegan.files import check_outputs, refuse_overwrite, same_file, write_text
from cyclegan.prepare import (
    COMPRESSIONS,
    WHOLE,
    Open,
    PrepareResult,
    Settings,
    Source,
    VoxelSize,
    check_output,
    complement,
    dataset_text,
    entries,
    forget,
    group_inputs,
    is_done,
    open_source,
    output_paths,
    parse_range,
    parse_roi,
    parse_voxel_size,
    prepare_volume,
    size_of,
    validation_ranges,
    voxel_size_text,
)
from cyclegan.simulate import SimulatedDomains, simulate
from viz.check_picture import write_check_picture
from viz.console import Console
from viz.text import table
from workbench.output import Output

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """The options of the command line, as typed."""

    inputs: Sequence[Path]
    output: Path
    dataset: str | None = None
    channel: int | None = None
    roi: str | None = None
    dtype: str = "float16"
    compression: str = "none"
    standardise: bool = True
    voxel_size: str | None = None
    validate: Sequence[str] = ()
    validate_file: Path | None = None
    each: bool = False
    no_data: float | None = None
    fill_missing: bool = False
    overwrite: bool = False

    def settings(self) -> Settings:
        """Return the checked settings. Errors: `UsageError` for an invalid value."""
        if self.dtype not in ("float16", "float32"):
            raise UsageError(f"--dtype {self.dtype}: must be float16 or float32")
        compression = next((c for c in COMPRESSIONS if c == self.compression), None)
        if compression is None:
            hint = nearest(self.compression, COMPRESSIONS)
            raise UsageError(f"--compression {self.compression}: {hint}")
        size: VoxelSize | None = parse_voxel_size(self.voxel_size) if self.voxel_size else None
        return Settings(
            roi=WHOLE if self.roi is None else parse_roi(self.roi),
            dtype="float16" if self.dtype == "float16" else "float32",
            compression=compression,
            standardise=self.standardise,
            voxel_size_um=size,
            no_data=self.no_data,
        )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One volume: its source, its output, and its planes for training and validation."""

    source: Source
    output: Path
    train: Sequence[Span | None]
    validate: Sequence[Span | None]


def prepare_volumes(request: PrepareRequest, *, console: Console) -> Output:
    """Prepare all volumes, write the dataset JSON, and return what came out.

    All checks that need no voxels run before the first volume is written.
    """
    settings = request.settings()
    ranges = [parse_range(text, "--validate") for text in request.validate]
    if ranges and request.validate_file:
        raise UsageError("--validate and --validate-file exclude each other; give one of them")
    groups = group_inputs(request.inputs, each=request.each)
    if ranges and len(groups) > 1:
        raise UsageError(
            f"--validate is for one volume, but {len(groups)} are given; leave it out or prepare "
            "them one by one"
        )
    outputs, validation, json_file = output_paths(groups, request.output, request.validate_file)
    _check_files(request, groups, [*outputs, *([validation] if validation else [])], json_file)
    with contextlib.ExitStack() as stack:
        jobs = [
            _job(stack, request, settings, group, output, ranges)
            for group, output in zip(groups, outputs, strict=True)
        ]
        if validation is not None and request.validate_file is not None:
            jobs.append(_validation_job(stack, request, settings, validation))
        if not request.overwrite and all(is_done(j.source, j.output, settings) for j in jobs):
            hashes = file_hashes([job.output for job in jobs])
            if not json_file.exists():
                write_text(json_file, _dataset(json_file, jobs, hashes))
            if _leads_to(json_file, jobs, hashes):
                return _nothing_left(jobs, json_file)
        finished = [
            check_output(job.source, job.output, settings, overwrite=request.overwrite)
            for job in jobs
        ]
        refuse_overwrite(json_file, request.overwrite or all(finished))
        _announce(console, request, jobs, ranges)
        done = [_prepare(console, request, settings, job) for job in jobs]
        hashes = file_hashes([job.output for job in jobs])
        write_text(json_file, _dataset(json_file, jobs, hashes))
        for job in jobs:
            forget(job.output, job.source, settings)
    return Output(data=_data(done, jobs, json_file, settings), text=_text(done, json_file))


def _check_files(
    request: PrepareRequest, groups: Sequence[Sequence[Path]], volumes: Sequence[Path], spec: Path
) -> None:
    inputs = [path for group in groups for path in group]
    held_out = request.validate_file
    if held_out is not None and any(same_file(path, held_out) for path in inputs):
        raise UsageError(
            f"--validate-file {held_out} is trained on, too, and the score could not show "
            "overfitting; name another volume, or give planes of this one with --validate"
        )
    files = {"the dataset JSON": spec}
    for path in volumes:
        files |= {f"the volume of {path}": path, f"the picture of {path}": path.with_suffix(".png")}
    check_outputs(files, [*inputs, *([held_out] if held_out is not None else [])])


def _job(
    stack: contextlib.ExitStack,
    request: PrepareRequest,
    settings: Settings,
    group: Sequence[Path],
    output: Path,
    ranges: Sequence[Open],
) -> _Job:
    source = _open(stack, request, group)
    region = source.region(settings.roi)
    source.check_holes(region, fill_missing=request.fill_missing)
    if request.validate_file is not None:
        return _Job(source=source, output=output, train=[None], validate=[])
    length = size_of(region)[0]
    kept = validation_ranges(ranges, length, source.name)
    return _Job(source=source, output=output, train=complement(kept, length), validate=kept)


def _validation_job(
    stack: contextlib.ExitStack, request: PrepareRequest, settings: Settings, output: Path
) -> _Job:
    assert request.validate_file is not None
    (group,) = group_inputs([request.validate_file])
    source = _open(stack, request, group)
    source.check_holes(source.region(settings.roi), fill_missing=request.fill_missing)
    return _Job(source=source, output=output, train=[], validate=[None])


def _open(stack: contextlib.ExitStack, request: PrepareRequest, group: Sequence[Path]) -> Source:
    source = open_source(group, dataset=request.dataset, channel=request.channel)
    stack.callback(source.close)
    return source


def _announce(
    console: Console, request: PrepareRequest, jobs: Sequence[_Job], ranges: Sequence[Open]
) -> None:
    for job in jobs:
        for note in job.source.notes:
            console.warn(note)
        if job.source.voxel_size_um is None and request.voxel_size is None:
            console.say(f"{job.source.name}: voxel size unknown; give it with --voxel-size")
        if job.train and job.validate and not ranges:
            start, end = job.validate[0] or (0, 0)
            console.say(
                f"{job.output}: planes {start}:{end} of {end} are held out for validation; "
                "change that with --validate or --validate-file"
            )


def _prepare(
    console: Console, request: PrepareRequest, settings: Settings, job: _Job
) -> PrepareResult:
    @contextlib.contextmanager
    def report(label: str, total: int, start: int) -> Iterator[Callable[[int], None]]:
        title = f"{job.output.name}: {label}"
        with console.progress(title, total, unit="slabs", start=start) as update:
            yield update

    done = prepare_volume(
        job.source,
        job.output,
        settings,
        overwrite=request.overwrite,
        report=report,
        draw=write_check_picture,
    )
    for text in _warnings(done, settings):
        console.warn(text)
    return done


def _warnings(done: PrepareResult, settings: Settings) -> list[str]:
    """Return what is odd about the voxels that were read, and about those that were stored."""
    found = done.statistics
    if not settings.standardise:  # then a training judges what is extreme, on reading
        found = replace(found, extreme=0, without_data=0, outliers=None)
    texts = [f"{done.source}: {text}" for text in oddities(found)]
    if done.clipped:
        texts.append(
            f"{done.source}: {done.clipped} voxels exceed the range of {done.dtype} and were "
            "clipped; use --dtype float32"
        )
    if done.lost_levels:
        texts.append(f"{done.output}: {done.lost_levels.text}; {_level_advice(done, settings)}")
    return texts


def _level_advice(done: PrepareResult, settings: Settings) -> str:
    if settings.dtype == "float16":
        return (
            "its grey levels are lost in float16; use --dtype float32, or name a value without "
            "data by --no-data, which may have ruined the contrast"
        )
    return (
        "its grey levels are lost in float32; subtract an offset from the input, or name a value "
        "without data by --no-data, which may have ruined the contrast"
    )


def _dataset(json_file: Path, jobs: Sequence[_Job], hashes: Mapping[str, str]) -> str:
    def of(job: _Job, ranges: Sequence[Span | None]) -> list[dict[str, Any]]:
        return entries(job.output, json_file, ranges, hashes.get(os.path.normpath(job.output), ""))

    return dataset_text(
        [entry for job in jobs for entry in of(job, job.train)],
        [entry for job in jobs for entry in of(job, job.validate)],
    )


def _leads_to(json_file: Path, jobs: Sequence[_Job], hashes: Mapping[str, str]) -> bool:
    """Return True if the file is the dataset JSON of these volumes.

    Errors: `DataError` if a volume has changed since that file was written.
    """
    written = json_file.read_bytes()
    by_earlier_version = _dataset(json_file, jobs, {})
    if written in (_dataset(json_file, jobs, hashes).encode(), by_earlier_version.encode()):
        return True
    try:
        spec = DatasetSpec.load(json_file, warn=False)
    except DataError:
        return False
    check_unchanged((*spec.train, *spec.validate), json_file)
    return False


def _nothing_left(jobs: Sequence[_Job], json_file: Path) -> Output:
    volumes = [{"source": job.source.name, "output": job.output} for job in jobs]
    files = ", ".join(str(path) for path in (*(job.output for job in jobs), json_file))
    return Output(
        data={"dataset": str(json_file), "volumes": volumes, "reused": True},
        text=f"nothing left to do: these inputs and settings already gave {files}",
    )


def _data(
    done: Sequence[PrepareResult], jobs: Sequence[_Job], json_file: Path, settings: Settings
) -> dict[str, Any]:
    volumes = [
        _plain(one)
        | {"train": list(job.train), "validate": list(job.validate)}
        | {"warnings": [*job.source.notes, *_warnings(one, settings)]}
        for one, job in zip(done, jobs, strict=True)
    ]
    return {"dataset": str(json_file), "volumes": volumes, "reused": False}


def _plain(done: PrepareResult) -> dict[str, Any]:
    found = done.statistics
    counts = {"non_finite": found.non_finite, "extreme": found.extreme}
    counts["without_data"] = found.without_data
    counts["outliers"] = found.outliers.count if found.outliers else 0
    rest = {k: v for k, v in vars(done).items() if k not in ("statistics", "lost_levels")}
    return {**rest, "mean": found.mean, "std": found.std, **counts, "no_data": found.valid.no_data}


def _text(done: Sequence[PrepareResult], json_file: Path) -> str:
    percents = list(done[0].percentiles)
    header = ["volume", "voxels", "dtype", "mean", "std", "min"]
    header += [*(f"{p} %" for p in percents), "max", "not finite", "voxel size"]
    rows = [
        [
            one.output.name,
            " x ".join(map(str, one.shape)),
            one.dtype,
            *(f"{v:.5g}" for v in (one.statistics.mean, one.statistics.std, one.minimum)),
            *(f"{one.percentiles[p]:.5g}" for p in percents),
            f"{one.maximum:.5g}",
            str(one.statistics.non_finite),
            voxel_size_text(one.voxel_size_um),
        ]
        for one in done
    ]
    files = [str(path) for one in done for path in (one.output, one.picture) if path]
    lines = [table(header, rows), "", "mean to max: before standardisation", ""]
    return "\n".join([*lines, *(f"written  {path}" for path in [*files, str(json_file)])])


def simulate_scans(
    out_dir: Path,
    *,
    console: Console,
    phantom: bool = False,
    scale: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> SimulatedDomains:
    """Simulate scans of both domains into `out_dir`, and say how far it is."""
    if scale not in (1, 2, 4):
        raise UsageError(f"--scale {scale}: must be 1, 2 or 4")

    def on_progress(label: str, done: int, total: int) -> None:
        console.say(f"simulate: {done}/{total} {label}")

    made = simulate(
        out_dir,
        phantom=phantom,
        scale=scale,
        seed=seed,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    if made.reused:
        console.say(f"simulate: {out_dir} already holds this simulation, nothing to do")
    return made


def output_of(out_dir: Path, made: SimulatedDomains) -> Output:
    """Return the files of a simulation."""
    files = [str(path) for path in made.files]
    data = {"folder": str(out_dir), "reused": made.reused, "files": files}
    return Output(data=data, text="\n".join(files))
