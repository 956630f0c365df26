"""The command line `cyclegan`. Each command declares its options and calls its own module.

Commands import PyTorch, MLflow and Optuna inside their functions, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cyclegan.errors import UsageError
from workbench.cli_runs import runs_app
from workbench.cli_study import Overwrite, StudyArgument, study_app
from workbench.session import Session, command
from workbench.session import run as run_app

app = typer.Typer(
    name="cyclegan",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the hyperparameters of a 3D CycleGAN that enhances microCT volumes, track every run "
    "in MLflow, and turn the best trial into a training and an enhanced volume.",
    epilog="Example: cyclegan study run studies/demo.yaml",
)
app.add_typer(study_app, name="study", epilog="Example: cyclegan study run studies/demo.yaml")
app.add_typer(runs_app, name="runs", epilog="Example: cyclegan runs list --sort size")

_MODEL = (
    "Registered model (champion, STUDY@champion, or STUDY@3 for a version), MLflow run (name, id "
    "or STUDY:TRIAL), generator file or checkpoint file."
)


@command(app, "simulate", example="cyclegan simulate data/demo --seed 1")
def simulate(
    session: Session,
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder to write into.")],
    phantom: Annotated[
        bool,
        typer.Option(
            "--phantom", help="Scan simulated fibre composites; also write the noise-free truth."
        ),
    ] = False,
    scale: Annotated[
        int, typer.Option(min=1, max=4, help="Resolution of B relative to A: 1, 2 or 4.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed; the same seed gives the same files.")
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a fast (A) and a slow (B) scan; write them as HDF5 files with dataset JSONs.

    The sample is a real microCT scan of a fibre composite, or with --phantom a simulated one.
    """
    from workbench.data import output_of, simulate_scans

    made = simulate_scans(
        out_dir,
        console=session.console,
        phantom=phantom,
        scale=scale,
        seed=seed,
        overwrite=overwrite,
    )
    session.show(output_of(out_dir, made))


@command(
    app,
    "prepare",
    example="cyclegan prepare scans/fast_tiffs --output data/fast.h5 --roi :,100:900,100:900 "
    "--voxel-size 0.8",
)
def prepare(
    session: Session,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="HDF5, NeXus, TIFF or NPY file, Zarr folder, or folder or list of TIFF slices.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="HDF5 file to write; for several volumes a folder.")],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Dataset to read from an HDF5 or Zarr input.")
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(metavar="z0:z1,y0:y1,x0:x1", help="Crop to this region, in voxels."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    validate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="Z0:Z1", help="Planes to hold out for validation (default: the last 15 %)."
        ),
    ] = None,
    validate_file: Annotated[
        Path | None, typer.Option(metavar="INPUT", help="A separate volume for validation.")
    ] = None,
    voxel_size: Annotated[
        str | None,
        typer.Option(metavar="UM", help="Voxel size in micrometres: one number, or z,y,x."),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Channel to read from an array (C, Z, Y, X).")
    ] = None,
    no_data: Annotated[
        float | None,
        typer.Option(metavar="VALUE", help="Value of voxels without data, e.g. -9999."),
    ] = None,
    fill_missing: Annotated[
        bool,
        typer.Option("--fill-missing", help="Read chunks never written as the fill value."),
    ] = False,
    compression: Annotated[
        str, typer.Option(help="none (quickest to train from), gzip or lz4.")
    ] = "none",
    no_standardise: Annotated[
        bool, typer.Option("--no-standardise", help="Keep the values as they are.")
    ] = False,
    each: Annotated[
        bool,
        typer.Option("--each", help="Treat every INPUT as a volume of its own, even a TIFF slice."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Crop, standardise and convert volumes into HDF5 and a dataset JSON to train from.

    After an interruption, run the same command again: it continues where it stopped.
    """
    from workbench.data import PrepareRequest, prepare_volumes

    request = PrepareRequest(
        inputs=inputs,
        output=output,
        dataset=dataset,
        channel=channel,
        roi=roi,
        dtype=dtype,
        compression=compression,
        standardise=not no_standardise,
        voxel_size=voxel_size,
        validate=validate or (),
        validate_file=validate_file,
        each=each,
        no_data=no_data,
        fill_missing=fill_missing,
        overwrite=overwrite,
    )
    session.show(prepare_volumes(request, console=session.console))


@command(
    app,
    "train",
    example="cyclegan train studies/train_demo.yaml --set lambdas.C_A=10",
    slurm="job",
    parallel=True,
)
def train(
    session: Session,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration (YAML).")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. lambdas.C_A=100."),
    ] = None,
    hp_optimizer: Annotated[
        bool, typer.Option("--hp-optimizer", help="Switch the dynamic rollback optimizer on.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="SCHEDULE.yaml",
            help="Follow the lambdas and learning rates that another training ended with.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training of this run_name.")
    ] = False,
) -> None:
    """Train one CycleGAN and track it in MLflow."""
    from cyclegan import slurm
    from cyclegan.config import load_config
    from cyclegan.ranks import Ranks
    from workbench.training import output_of
    from workbench.training import train as run_training

    if hp_optimizer and replay:
        raise UsageError("--hp-optimizer looks for faults, --replay does not; give one of them")
    overrides = [*(set_ or []), *(["hp_optimizer.enabled=true"] if hp_optimizer else [])]
    if replay:
        # As JSON, hence as YAML: otherwise a file called 1_000 would be a number.
        schedule = json.dumps(str(replay))
        following = {"enabled": "true", "policy": "replay", "schedule": schedule}
        overrides += [f"hp_optimizer.{key}={value}" for key, value in following.items()]
    resolved = load_config(config, overrides)
    os.environ.update(slurm.ranks())
    if session.slurm:
        from workbench.cluster.command import shared_out, submit_command
        from workbench.training import check_beginning

        check_beginning(resolved, resume=resume, processes=session.gpus)
        # Requeued, the job goes on from its checkpoint.
        further = [*shared_out(session.gpus), *([] if resume else ["--resume"])]
        session.show(submit_command(f"train-{resolved.run_name}", session.slurm, further=further))
        return
    finished = run_training(
        resolved,
        store=session.repaired_store,
        console=session.console,
        resume=resume,
        processes=session.gpus,
    )
    if not Ranks.of_environment().is_first:
        return
    session.show(output_of(resolved, finished))


@command(
    app,
    "promote",
    example="cyclegan promote demo --steps 2000 --hp-optimizer",
    slurm="job",
    parallel=True,
)
def promote(
    session: Session,
    study: StudyArgument,
    trial: Annotated[
        int | None, typer.Option(help="Number of the trial to promote (default: the best).")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Promote this many of the best trials, in turn.")
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            metavar="TRIALSxSEEDS",
            help="First let the best trials race with up to this many seeds each, e.g. 3x3; "
            "promote the winner.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of training steps.")] = None,
    start: Annotated[
        bool | None,
        typer.Option(
            "--continue/--from-scratch",
            help="Continue from the trial's checkpoint, or start from scratch.",
        ),
    ] = None,
    hp_optimizer: Annotated[
        bool | None,
        typer.Option(
            "--hp-optimizer/--no-hp-optimizer",
            help="Switch the dynamic rollback optimizer on or off.",
        ),
    ] = None,
) -> None:
    """Train a study's best trial in full; the study's file gives the defaults.

    The command registers the generator under the study's name, and makes it champion if no earlier
    generator has a higher score.
    """
    from workbench.promotion import PromoteRequest, check_promotion, promote_trials

    request = PromoteRequest(
        trial=trial,
        top=top,
        confirm=confirm,
        steps=steps,
        start=None if start is None else ("continue" if start else "scratch"),
        hp_optimizer=hp_optimizer,
        gpus=session.gpus,
    )
    if session.slurm:
        from workbench.cluster.command import shared_out, submit_command

        handle, _ = check_promotion(study, request, store=session.store, console=session.console)
        name, further = handle.definition.name, shared_out(session.gpus)
        session.show(submit_command(f"promote-{name}", session.slurm, further=further))
        return
    store = session.repaired_store()
    session.show(promote_trials(study, request, store=store, console=session.console))


@command(
    app,
    "enhance",
    example="cyclegan enhance data/demo/fast_validate.h5 --model demo@champion "
    "--output enhanced.h5 --reference data/demo/slow_validate.h5",
    slurm="jobs",
    parallel=True,
)
def enhance(
    session: Session,
    volumes: Annotated[
        list[Path],
        typer.Argument(metavar="VOLUME...", help="HDF5 files to enhance.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(help=_MODEL),
    ],
    output: Annotated[Path, typer.Option(help="HDF5 file to write; for several volumes a folder.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset in VOLUME.")] = "data",
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="Z0:Z1,Y0:Y1,X0:X1", help="Enhance only this region, in input voxels."
        ),
    ] = None,
    series: Annotated[
        bool, typer.Option("--series", help="The dataset is a time series (T, Z, Y, X).")
    ] = False,
    no_data: Annotated[
        float | None,
        typer.Option(metavar="VALUE", help="Value of voxels without data, e.g. -9999."),
    ] = None,
    fill_missing: Annotated[
        bool,
        typer.Option("--fill-missing", help="Read chunks never written as the fill value."),
    ] = False,
    reference: Annotated[
        Path | None, typer.Option(help="HDF5 file of the same object, to compare with.")
    ] = None,
    halves: Annotated[
        list[Path] | None,
        typer.Option(
            "--half", help="Half scan with independent noise, for the shell correlation; give two."
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust/--no-trust", help="Write trust maps: where not to trust the result."),
    ] = True,
    other_models: Annotated[
        list[str] | None,
        typer.Option("--other-model", help="Another model to include in the disagreement map."),
    ] = None,
    units: Annotated[
        str,
        typer.Option(
            help="Grey values to write: standardised, input (those of VOLUME) or target (those of "
            "training domain B)."
        ),
    ] = "standardised",
    compression: Annotated[str, typer.Option(help="gzip, lz4 or none.")] = "gzip",
    tile: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Core of a tile in voxels (default: the fastest)."),
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(help="Memory limit in GB (default: half of the free memory).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 (faster, not exact), or auto.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile: starts slowly, then runs faster.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write a report and a viewer beside the output."),
    ] = True,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Compute part K of N of the tiles; the last of the N processes puts all "
            "together. In a SLURM array: array.",
        ),
    ] = None,
    log_volume: Annotated[
        str,
        typer.Option(
            metavar="link|copy",
            help="Record the volume's path in the MLflow run, or copy the whole volume there.",
        ),
    ] = "link",
    overwrite: Overwrite = False,
) -> None:
    """Apply a trained generator to whole volumes; with --reference, measure how good it is.

    After a crash or an interruption, run the same command again: it computes only missing tiles.
    """
    from workbench.enhancement.command import check_enhancement, enhance_volumes, output_of
    from workbench.enhancement.request import EnhanceRequest, parse_roi, parse_shard, parse_tile

    request = EnhanceRequest(
        volumes=tuple(volumes),
        dataset=dataset,
        model=model,
        output=output,
        tile=parse_tile(tile),
        roi=parse_roi(roi),
        memory_gb=memory_gb,
        series=series,
        no_data=no_data,
        fill_missing=fill_missing,
        reference=reference,
        halves=tuple(halves or ()),
        trust=trust,
        other_models=tuple(other_models or ()),
        device=device,
        precision=precision,  # type: ignore[arg-type]
        compiled=compiled,
        compression=compression,  # type: ignore[arg-type]
        units=units,  # type: ignore[arg-type]
        report=report,
        shard=parse_shard(shard),
        log_volume=log_volume,  # type: ignore[arg-type]
        overwrite=overwrite,
    )
    if session.slurm:
        from workbench.cluster.command import shared_out, submit_command

        if shard or (session.gpus > 1 and session.slurm.jobs > 1):
            raise UsageError("--jobs shares out the tiles: give each job one GPU, and no --shard")
        check_enhancement(request, open_store=session.open_store)
        several = session.slurm.jobs > 1
        further = ["--shard", "array"] if several else shared_out(session.gpus)
        session.show(submit_command(f"enhance-{output.stem}", session.slurm, further=further))
        return
    if session.gpus > 1:
        from workbench.cluster.command import without_slurm
        from workbench.enhancement.shards import share_out

        if shard or len(volumes) > 1:
            raise UsageError("--gpus shares out the tiles of one volume: give one, and no --shard")
        check_enhancement(request, open_store=session.open_store)
        share_out(without_slurm(sys.argv[1:]), session.gpus, device)
        request = replace(request, overwrite=False)  # it was made just now
    results = enhance_volumes(request, open_store=session.repaired_store, console=session.console)
    session.show(output_of(request, results))


@command(app, "viewer", example="cyclegan viewer results/demo/enhanced.h5")
def viewer(
    session: Session,
    enhanced: Annotated[
        Path, typer.Argument(metavar="ENHANCED", help="HDF5 file that `cyclegan enhance` wrote.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Page to write (default: ENHANCED.viewer.html, beside ENHANCED)."),
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            metavar="crop|bin", help="If the volume is too large: crop it to its centre, or bin it."
        ),
    ] = "crop",
    overwrite: Overwrite = False,
) -> None:
    """Write a web page that shows an enhanced volume, beside its input if that file is there.

    The page is one HTML file below 20 MB that needs no server. It shows slices, a curtain, the
    difference and the doubt.
    """
    from workbench.enhancement.judging import write_viewer_of

    session.show(
        write_viewer_of(
            enhanced, console=session.console, output=output, fit=fit, overwrite=overwrite
        )
    )


@command(app, "export", example="cyclegan export demo@champion --output generator.pt2")
def export(
    session: Session,
    model: Annotated[
        str,
        typer.Argument(help=_MODEL),
    ],
    output: Annotated[Path, typer.Option(help="File to write, FILE.pt2.")],
    direction: Annotated[
        str, typer.Option(help="A: the generator from domain A to B. B: the one from B to A.")
    ] = "A",
    overwrite: Overwrite = False,
) -> None:
    """Export a trained generator as one file that PyTorch alone can load and run.

    The file also holds the halo, the grey scales, the configuration and a script that applies the
    generator to a volume.
    """
    from workbench.export import export_model, output_of

    if direction not in ("A", "B"):
        raise UsageError(f"--direction {direction}: must be A (from domain A to B) or B (back)")
    made = export_model(
        model,
        output,
        open_store=session.open_store,
        direction=direction,  # type: ignore[arg-type]
        overwrite=overwrite,
    )
    session.show(output_of(made))


@command(app, "compare", example="cyclegan compare demo:3 demo:7 --html compared.html")
def compare(
    session: Session,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Two to eight runs: names, ids (six characters are enough) or STUDY:TRIAL.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Also write a page with curves, slices, spectra and volumes side by side.",
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(help="Images of a training to compare: best (by score) or last."),
    ] = "best",
    overwrite: Overwrite = False,
) -> None:
    """Compare runs: parameters that differ, metrics, and agreement of their images.

    The command compares trainings by their images of the same validation patches, and enhancements
    by their volumes.
    """
    from workbench.compare.command import CompareRequest, compare_runs

    request = CompareRequest(runs=tuple(runs), html=html, at=at, overwrite=overwrite)  # type: ignore[arg-type]
    found = compare_runs(request, store=session.store, console=session.console)
    session.show(found)


@command(app, "ui", example="cyclegan ui --port 5001")
def ui(
    session: Session,
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Study to show; only with --optuna.")
    ] = None,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Serve a read-only optuna-dashboard instead.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port [5000, with --optuna 8080].")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the MLflow user interface, or optuna-dashboard for one study, until Ctrl-C."""
    if optuna:
        from workbench.dashboard import PORT, serve_dashboard, study_to_show

        handle = study_to_show(study)
        serve_dashboard(handle, port=port or PORT, host=host, say=typer.echo)
        return
    if study is not None:
        raise UsageError(f"{study}: name a study only with --optuna; MLflow shows all of them")
    from tracking.ui import serve

    serve(session.store, port=port or 5000, host=host)


@command(app, "doctor", example="cyclegan doctor --dry-run")
def doctor(
    session: Session,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report; change nothing.")
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="After a move of this folder: take its files over in a database on a server, too, "
            "if no other machine uses the old folder.",
        ),
    ] = False,
) -> None:
    """Find and repair disagreements between studies, MLflow and the disk after a crash."""
    from workbench.doctor import examine_and_repair

    session.show(examine_and_repair(session.store, dry_run=dry_run, adopt=adopt))


def main() -> Any:
    """Run the command `cyclegan`."""
    sys.exit(run_app(app))


if __name__ == "__main__":
    main()
