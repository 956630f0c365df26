"""The commands `cyclegan study ...`, with heavy imports inside, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.session import INTERRUPTED, Session, command

study_app = typer.Typer(no_args_is_help=True, help="Search hyperparameters with Optuna.")

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Study: its YAML file, or its name if it was run here."),
]


@command(study_app, "run", example="cyclegan study run studies/demo.yaml", slurm="jobs")
def study_run(
    session: Session,
    study: StudyArgument,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials (default: that in the file).")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, max=256, help="Processes on this host, each with its own GPU or CPU threads."
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database for workers on several hosts, e.g. postgresql://host/name.",
        ),
    ] = None,
) -> None:
    """Run a study, resume an interrupted one, or join one that is running.

    With --slurm this command only begins the study and submits jobs, which pull trials until the
    study is done, and are requeued when their time is up. --workers is then the number of processes
    of each job (default: one per GPU).
    """
    from search.study import definition_of, run_study
    from workbench.study_tables import study_data, study_table

    definition = definition_of(study)
    if trials:
        definition = definition.with_trials(trials)
    if session.slurm:
        from workbench.cluster.command import submit_study

        submitted = submit_study(
            definition,
            session.slurm,
            open_store=session.open_store,
            console=session.console,
            workers=workers,
            storage=storage,
            tracking_uri=session.tracking_uri,
        )
        session.show(submitted)
        return
    handle, interrupted = run_study(
        definition,
        store=session.repaired_store,
        console=session.console,
        workers=workers,
        storage=storage,
    )
    session.result(lambda: study_data(handle), lambda: study_table(handle))
    session.exit_code = INTERRUPTED if interrupted else 0


@command(study_app, "validate", example="cyclegan study validate studies/prune_1000.yaml")
def study_validate(
    session: Session,
    study: StudyArgument,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Time a few steps on the study's data.")
    ] = True,
) -> None:
    """Check a study's file; show its space, its rungs and its expected cost."""
    from search.study import definition_of
    from search.study.forecast import probe as timed
    from workbench.study_preview import first_config, preview_data, preview_text

    definition = definition_of(study)
    found = timed(first_config(definition)) if probe else None
    session.result(preview_data(definition, found), preview_text(definition, found))


@command(study_app, "list", example="cyclegan study list")
def study_list(session: Session) -> None:
    """List the studies that were run here."""
    from search.study import known_studies, open_study
    from workbench.study_tables import one_line, study_data

    studies = [open_study(name) for name in known_studies()]
    text = "\n".join(one_line(handle) for handle in studies) or "no study has been run here yet"
    session.result(lambda: [study_data(handle) for handle in studies], text)


@command(study_app, "show", example="cyclegan study show demo")
def study_show(session: Session, study: StudyArgument) -> None:
    """Show a study's trials, best first: state, score, curve, values and reasons for pruning.

    Its SLURM jobs follow, with state, host, GPU and time left.
    """
    from search.study import open_study
    from workbench.cluster.jobs import interruptions_text, jobs_data, jobs_of, jobs_text
    from workbench.study_tables import study_data, study_table

    handle = open_study(study)
    records = handle.trials_and_chances()
    jobs = jobs_of(handle)
    screening = None
    if any(handle.results.glob("*-promoted-*")):
        from search.promotion import AT_LEAST, summary

        screening = summary(handle, session.store)

    def data() -> dict[str, Any]:
        whole = study_data(handle, records) | {"jobs": jobs_data(jobs)}
        return whole if screening is None else whole | {"screening": screening.data()}

    def text() -> str:
        parts = [study_table(handle, records), jobs_text(jobs), interruptions_text(records)]
        if screening is not None and len(screening.pairs) >= AT_LEAST:
            parts.append(screening.text())
        return "\n\n".join(part for part in parts if part)

    session.result(data, text)


@command(study_app, "best", example="cyclegan study best demo --config best.yaml")
def study_best(
    session: Session,
    study: StudyArgument,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Also write its configuration, for cyclegan train."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show the best trial and its values."""
    from cyclegan.files import check_outputs
    from search.study import open_study
    from workbench.study_tables import best_data, best_text, write_best_config

    handle = open_study(study)
    if config:
        check_outputs({"the configuration": config}, [Path(study)])
        write_best_config(handle, config, overwrite=overwrite)
        session.say(f"configuration written to {config}")
    session.result(best_data(handle), best_text(handle))


@command(study_app, "export", example="cyclegan study export demo --output demo.csv")
def study_export(
    session: Session,
    study: StudyArgument,
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="File to write: .csv, or .json with the curves.")
    ],
    overwrite: Overwrite = False,
) -> None:
    """Write all trials of a study to a file, one row per trial."""
    from search.study import open_study
    from workbench.study_tables import export_study

    count = export_study(open_study(study), output, overwrite=overwrite)
    session.result({"output": str(output), "trials": count}, f"{count} trials written to {output}")


@command(study_app, "importance", example="cyclegan study importance demo")
def study_importance(session: Session, study: StudyArgument) -> None:
    """Show how much each searched key mattered for the score, by PED-ANOVA."""
    from search.study import open_study
    from search.study.importance import importance, importance_data, importance_text

    handle = open_study(study)
    found = importance(handle)
    session.result(importance_data(handle, found), importance_text(found))


@command(study_app, "figures", example="cyclegan study figures demo")
def study_figures(
    session: Session,
    study: StudyArgument,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write into [results/STUDY/figures]."),
    ] = None,
) -> None:
    """Draw a study as PNG: history, importance, slices, parallel coordinates, rungs, timeline."""
    from search.study import open_study
    from search.study.figures import figures_folder, write_figures

    handle = open_study(study)
    written = [str(p) for p in write_figures(handle, output or figures_folder(handle))]
    session.result(written, "\n".join(written) or "nothing can be drawn yet: no trial has begun")


@command(study_app, "report", example="cyclegan study report demo --output demo.html")
def study_report(
    session: Session,
    study: StudyArgument,
    output: Annotated[Path, typer.Option(metavar="FILE.html", help="File to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a study's page, as in its MLflow run: trials, slices, curves, importance."""
    from search.study import open_study
    from search.study.report import write_report

    handle = open_study(study)
    write_report(handle, session.store, output, overwrite=overwrite)
    session.result({"output": str(output)}, f"report written to {output}")


@command(study_app, "unprune", example="cyclegan study unprune demo 4")
def study_unprune(
    session: Session,
    study: StudyArgument,
    trial: Annotated[
        int, typer.Argument(metavar="TRIAL", help="Number of a pruned or paused trial.")
    ],
) -> None:
    """Let the next `study run` continue a pruned or paused trial to the last step."""
    from search.study import open_study
    from search.study.revive import revive

    handle = open_study(study)
    number = revive(handle, trial)
    name = handle.definition.name
    how = "to its end" if number == trial else f"as trial {number}"
    text = f"trial {trial} will continue {how}: cyclegan study run {name}"
    session.result({"study": name, "revives": trial, "trial": number}, text)


@command(
    study_app, "serve", example="cyclegan study serve --storage postgresql://me@dbhost/studies"
)
def study_serve(
    session: Session,
    storage: Annotated[str, typer.Option(metavar="URL", help="Database with the studies.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 13_000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a database of studies to many workers over few connections, until Ctrl-C.

    The workers' --storage is then grpc://HOST:PORT. There are no passwords: whoever reaches the
    port can change the studies.
    """
    from workbench.serving import serve

    serve(storage, port=port, host=host, say=session.say)


@command(study_app, "cancel", example="cyclegan study cancel demo")
def study_cancel(session: Session, study: StudyArgument) -> None:
    """End a study's SLURM jobs in order: they write checkpoints and leave, and none is requeued."""
    from search.study import open_study
    from workbench.cluster.jobs import cancel

    handle = open_study(study)
    ended, name = cancel(handle), handle.definition.name
    said = f"asked to end: {', '.join(ended)}" if ended else "no job of it waits or runs"
    text = f"study {name}: {said}; go on later with cyclegan study run {name} --slurm"
    session.result({"study": name, "cancelled": ended}, text)
