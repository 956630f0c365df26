"""The commands `cyclegan runs ...`. Heavy imports are inside them, so that help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from search.commandline import Session, command

runs_app = typer.Typer(
    no_args_is_help=True, help="What is stored of all runs, how large it is, what can go."
)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Its name, id (six characters do) or STUDY:TRIAL.")
]


@command(runs_app, "list", example="cyclegan runs list --kind trial --sort size")
def runs_list(
    session: Session,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this study or experiment.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="study, trial, seed, confirm, promoted, train or enhance."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="running, dead (its process is gone), completed, pruned, stopped, interrupted, "
            "finished, failed, killed, or deleted."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 30,
    sort: Annotated[str, typer.Option(help="start (newest first), score or size.")] = "start",
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Of runs on a server, too, which takes a while.")
    ] = False,
) -> None:
    """List the runs that are stored, and the disk space that their files take."""
    from search.runs.listing import Wanted, run_listing

    wanted = Wanted(
        experiment=experiment, kind=kind, status=status, limit=limit, sort=sort, sizes=sizes
    )
    run_listing(session, wanted)


@command(runs_app, "show", example="cyclegan runs show demo:3")
def runs_show(session: Session, run: RunArgument) -> None:
    """Show one run: where it comes from, what came of it, its values, data, versions and files."""
    from search.runs.showing import run_showing

    run_showing(session, run)
