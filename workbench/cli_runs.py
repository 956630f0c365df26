"""The commands `cyclegan runs ...`, with heavy imports inside, so that `--help` is quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cyclegan.errors import UsageError
from workbench.session import Session, command

runs_app = typer.Typer(no_args_is_help=True, help="List, show and delete the runs in the store.")

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Name, id (six characters are enough) or STUDY:TRIAL."),
]


@command(runs_app, "list", example="cyclegan runs list --kind trial --sort size")
def runs_list(
    session: Session,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this study or experiment.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Only runs of this kind: study, trial, seed, confirm, promoted, train or enhance."
        ),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="Only runs in this state: running, dead (its process is gone), completed, pruned, "
            "stopped, interrupted, finished, failed, killed, or deleted."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Show at most this many; 0: all.")] = 30,
    sort: Annotated[
        str, typer.Option(help="Sort by start (newest first), score or size.")
    ] = "start",
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Also measure runs on a server; this takes a while.")
    ] = False,
) -> None:
    """List the stored runs and the disk space of their files."""
    from workbench.runs.listing import RunQuery, list_runs

    wanted = RunQuery(
        experiment=experiment, kind=kind, status=status, limit=limit, sort=sort, sizes=sizes
    )
    session.show(list_runs(session.store, wanted))


@command(runs_app, "gc", example="cyclegan runs gc --pruned --artifacts-only --dry-run")
def runs_gc(
    session: Session,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="Runs to delete: names, ids or STUDY:TRIAL."),
    ] = None,
    deleted: Annotated[
        bool,
        typer.Option("--deleted", help="Delete for good the runs deleted in MLflow's interface."),
    ] = False,
    failed_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Delete runs that failed or were killed or interrupted over N days ago.",
        ),
    ] = None,
    pruned: Annotated[bool, typer.Option("--pruned", help="Delete pruned trials.")] = False,
    keep_best: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Delete all but the K best trials of each study."),
    ] = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Delete folders that no run of this store owns.")
    ] = False,
    artifacts_only: Annotated[
        bool,
        typer.Option(
            "--artifacts-only",
            help="Delete only volumes, pictures and models; keep metrics, parameters and texts.",
        ),
    ] = False,
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Look only in this experiment, and include other programs' runs."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show; delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Show which runs could be deleted and the space that frees, ask, and delete them for good.

    The default choice is --deleted --failed-days 30. Promoted runs, the trials they came from,
    registered models and runs in progress are always kept.
    """
    from workbench.runs.gc import Offer, collect, plan_text
    from workbench.runs.request import Request

    request = Request(
        runs=tuple(runs or ()),
        deleted=deleted,
        failed_days=failed_days,
        pruned=pruned,
        keep_best=keep_best,
        orphans=orphans,
        artifacts_only=artifacts_only,
        experiments=tuple(experiment or ()),
        dry_run=dry_run,
        yes=yes,
    )

    def agree(offer: Offer) -> bool:
        if not sys.stdin.isatty():
            raise UsageError(
                f"gc would delete {offer.summary}, but there is no terminal to ask on; add --yes, "
                "or --dry-run to see the list"
            )
        session.console.write(plan_text(offer))
        return typer.confirm(f"\nPermanently delete {offer.summary}?", err=True)

    output, failure = collect(session.store, request, console=session.console, agree=agree)
    session.show(output)
    if failure is not None:
        raise failure


@command(runs_app, "show", example="cyclegan runs show demo:3")
def runs_show(session: Session, run: RunArgument) -> None:
    """Show one run: its origin, result, metrics, parameters, data, versions and files."""
    from workbench.runs.show import show_run

    session.show(show_run(session.store, run))
