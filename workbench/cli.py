"""The command line `cyclegan`. Each command says what it takes and hands over to its module.

Heavy imports (PyTorch, MLflow, Optuna) are inside the commands, so that help is quick.
"""

from __future__ import annotations

import sys
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
    "champion, STUDY@champion or STUDY@3 (a version); an MLflow run (name or id); a generator or "
    "checkpoint file."
)


@command(app, "simulate", example="cyclegan simulate data/demo --seed 1")
def simulate(
    session: Session,
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder to write into.")],
    phantom: Annotated[
        bool,
        typer.Option("--phantom", help="A simulated fibre composite with its noise-free truth."),
    ] = False,
    scale: Annotated[
        int, typer.Option(min=1, max=4, help="Resolution of B over A: 1, 2 or 4.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same files.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Scan a volume numerically, fast (A) and slow (B): HDF5 files and dataset JSONs.

    The volume is a real microCT scan of a fibre composite, or with --phantom a simulated one.
    """
    from workbench.simulate import output_of, simulate_scans

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
            help="HDF5, NeXus, TIFF or NPY file, Zarr folder, folder or list of TIFF slices.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="HDF5 file to write; of several volumes the folder.")
    ],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which dataset of an HDF5 or Zarr input.")
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(metavar="z0:z1,y0:y1,x0:x1", help="Crop to this region, in voxels."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    validate: Annotated[
        list[str] | None,
        typer.Option(metavar="Z0:Z1", help="Planes kept for validation (default: the last 15 %)."),
    ] = None,
    validate_file: Annotated[
        Path | None, typer.Option(metavar="INPUT", help="A separate volume for validation.")
    ] = None,
    voxel_size: Annotated[
        str | None,
        typer.Option(metavar="UM", help="Voxel size in micrometres: one number, or z,y,x."),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Which channel of an array (C, Z, Y, X).")
    ] = None,
    compression: Annotated[
        str, typer.Option(help="none (quickest to train from), gzip or lz4.")
    ] = "none",
    no_standardise: Annotated[
        bool, typer.Option("--no-standardise", help="Keep the values as they are.")
    ] = False,
    each: Annotated[
        bool, typer.Option("--each", help="Every INPUT is a volume by itself, TIFF slices too.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Crop, standardise and convert volumes into HDF5 and a dataset JSON to train from.

    The same command after an interruption goes on where it was.
    """
    from workbench.prepare import PrepareRequest, prepare_volumes

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
        overwrite=overwrite,
    )
    session.show(prepare_volumes(request, console=session.console))


@command(app, "train", example="cyclegan train studies/train_demo.yaml --set lambdas.C_A=10")
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
    """Train one CycleGAN, tracked in MLflow."""
    from cyclegan.config import load_config
    from workbench.training import output_of
    from workbench.training import train as run_training

    if hp_optimizer and replay:
        raise UsageError("--hp-optimizer looks for faults, --replay does not; give one of them")
    overrides = [*(set_ or []), *(["hp_optimizer.enabled=true"] if hp_optimizer else [])]
    if replay:
        following = {"enabled": "true", "policy": "replay", "schedule": str(replay)}
        overrides += [f"hp_optimizer.{key}={value}" for key, value in following.items()]
    resolved = load_config(config, overrides)
    finished = run_training(
        resolved, store=session.repaired_store(), console=session.console, resume=resume
    )
    session.show(output_of(resolved, finished))


@command(app, "promote", example="cyclegan promote demo --steps 2000 --hp-optimizer")
def promote(
    session: Session,
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(help="This trial, instead of the best.")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="The best so many trials, one after another.")
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            metavar="TRIALSxSEEDS",
            help="Train the best trials with several seeds each first, e.g. 3x3; the highest mean "
            "is promoted.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the training.")] = None,
    start: Annotated[
        bool | None,
        typer.Option(
            "--continue/--from-scratch", help="Go on from the trial's checkpoint, or start afresh."
        ),
    ] = None,
    hp_optimizer: Annotated[
        bool | None,
        typer.Option("--hp-optimizer/--no-hp-optimizer", help="Dynamic rollback optimizer."),
    ] = None,
) -> None:
    """Turn a study's best trial into the real training; the study's file gives the defaults.

    The generator is registered under the study's name, as champion if no score before was higher.
    """
    from workbench.promotion import PromoteRequest, promote_trials

    request = PromoteRequest(
        trial=trial,
        top=top,
        confirm=confirm,
        steps=steps,
        start=None if start is None else ("continue" if start else "scratch"),
        hp_optimizer=hp_optimizer,
    )
    store = session.repaired_store()
    session.show(promote_trials(study, request, store=store, console=session.console))


@command(
    app,
    "enhance",
    example="cyclegan enhance data/demo/fast_validate.h5 --model demo@champion "
    "--output enhanced.h5 --reference data/demo/slow_validate.h5",
)
def enhance(
    session: Session,
    volumes: Annotated[
        list[Path], typer.Argument(metavar="VOLUME...", help="HDF5 files.", show_default=False)
    ],
    model: Annotated[
        str,
        typer.Option(help=_MODEL),
    ],
    output: Annotated[Path, typer.Option(help="HDF5 file to write; for several volumes a folder.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset in VOLUME.")] = "data",
    roi: Annotated[
        str | None,
        typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this region, in input voxels."),
    ] = None,
    series: Annotated[
        bool, typer.Option("--series", help="The dataset is a time series (T, Z, Y, X).")
    ] = False,
    reference: Annotated[
        Path | None, typer.Option(help="HDF5 file of the same object, to measure against.")
    ] = None,
    halves: Annotated[
        list[Path] | None,
        typer.Option(
            "--half", help="Twice: half scans with independent noise, for the shell correlation."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust/--no-trust", help="With maps of where not to trust it.")
    ] = True,
    other_models: Annotated[
        list[str] | None,
        typer.Option("--other-model", help="Another model that joins the disagreement map."),
    ] = None,
    units: Annotated[
        str,
        typer.Option(help="Grey values: standardised, input's, or target's (training domain B)."),
    ] = "standardised",
    compression: Annotated[str, typer.Option(help="gzip, lz4 or none.")] = "gzip",
    tile: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Core of a tile in voxels, instead of the fastest."),
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(help="Memory to keep to, instead of half of what is free.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 (faster, not exact), or auto.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile: a slow start, then faster.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report and viewer beside it.")
    ] = True,
    log_volume: Annotated[
        str,
        typer.Option(
            metavar="link|copy",
            help="What the MLflow run gets of the volume: its path, or a copy of all of it.",
        ),
    ] = "link",
    overwrite: Overwrite = False,
) -> None:
    """Apply a trained generator to whole volumes; with --reference say how good it is.

    Killed or interrupted, the same command goes on with the tiles that are missing.
    """
    from workbench.enhancement.command import enhance_volumes, output_of
    from workbench.enhancement.request import EnhanceRequest, parse_roi, parse_tile

    request = EnhanceRequest(
        volumes=tuple(volumes),
        dataset=dataset,
        model=model,
        output=output,
        tile=parse_tile(tile),
        roi=parse_roi(roi),
        memory_gb=memory_gb,
        series=series,
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
        log_volume=log_volume,  # type: ignore[arg-type]
        overwrite=overwrite,
    )
    results = enhance_volumes(request, open_store=session.repaired_store, console=session.console)
    session.show(output_of(request, results))


@command(app, "viewer", example="cyclegan viewer results/demo/enhanced.h5")
def viewer(
    session: Session,
    enhanced: Annotated[
        Path, typer.Argument(metavar="ENHANCED", help="HDF5 file that `cyclegan enhance` wrote.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Page to write, instead of ENHANCED.viewer.html beside it.")
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            metavar="crop|bin", help="Of what is too large the centre, or all of it binned."
        ),
    ] = "crop",
    overwrite: Overwrite = False,
) -> None:
    """Write a page to look into an enhanced volume in a browser, with its input if that is there.

    One HTML file below 20 MB that needs no server: slices, curtain, difference, doubt.
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
        str, typer.Option(help="A: the generator from domain A to B. B: the one back.")
    ] = "A",
    overwrite: Overwrite = False,
) -> None:
    """Export a trained generator as one file that PyTorch alone can load and run.

    Inside are its halo, grey scales and configuration, and a script that applies it to a volume.
    """
    from workbench.export import export_model, output_of

    if direction not in ("A", "B"):
        raise UsageError(f"--direction {direction}: A (from domain A to B) or B (back)")
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
            help="Two to eight: names, ids (six characters do) or STUDY:TRIAL.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page with curves, slices, spectra and volumes side by side.",
        ),
    ] = None,
    at: Annotated[
        str, typer.Option(help="Which kept images of a training: best (score) or last.")
    ] = "best",
    overwrite: Overwrite = False,
) -> None:
    """Compare runs: parameters that differ, metrics, and how far their images agree.

    Trainings are compared by what they made of the same validation patches, enhancements by their
    volumes.
    """
    from workbench.compare.command import CompareRequest, compare_runs

    request = CompareRequest(runs=tuple(runs), html=html, at=at, overwrite=overwrite)  # type: ignore[arg-type]
    found = compare_runs(request, store=session.store, console=session.console)
    session.show(found)


@command(app, "ui", example="cyclegan ui --port 5001")
def ui(
    session: Session,
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="With --optuna: the study to show.")
    ] = None,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Serve optuna-dashboard instead, to look at a study.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port [5000, with --optuna 8080].")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the MLflow user interface until Ctrl-C, or optuna-dashboard on one study."""
    if optuna:
        from workbench.dashboard import PORT, serve_dashboard, study_to_show

        opened = study_to_show(study)
        serve_dashboard(opened, port=port or PORT, host=host, say=typer.echo)
        return
    if study is not None:
        raise UsageError(f"{study}: a study is named with --optuna only; MLflow shows all of them")
    from tracking.ui import serve

    serve(session.store, port=port or 5000, host=host)


@command(app, "doctor", example="cyclegan doctor --dry-run")
def doctor(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell; change nothing.")] = False,
) -> None:
    """Find and repair what disagrees between studies, MLflow and the disk after a crash."""
    from workbench.doctor import examine_and_repair

    session.show(examine_and_repair(session.store, dry_run=dry_run))


def main() -> Any:
    """Entry point of the command `cyclegan`."""
    sys.exit(run_app(app))


if __name__ == "__main__":
    main()
