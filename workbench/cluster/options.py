"""The options of `--slurm`: the demands of each job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cyclegan.errors import UsageError

GRACE = 120
"""Seconds before its limit at which a job writes its checkpoints and leaves."""
_DEFAULT_TIME = "4h"
_LEAST_WORK = 60
"""Least seconds that a job must have between its beginning and the last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """The demands of each job of a submission."""

    jobs: int = 1
    minutes: int = 240
    gpus: int = 0
    cpus: int | None = None
    memory: str | None = None
    """As SLURM writes it, such as 16G."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: tuple[str, ...] = ()
    """Lines of the batch script before the command."""
    grace: int = GRACE
    dry_run: bool = False


_GPUS = "GPUs of each job [1]. A training on several gives each a part of every batch."
_PANEL: dict[str, Any] = {"rich_help_panel": "SLURM"}
PARAMETERS: Mapping[str, tuple[Any, Any]] = {
    "slurm": (
        Annotated[bool, typer.Option("--slurm", help="Submit it to SLURM and return.", **_PANEL)],
        False,
    ),
    "jobs": (
        Annotated[
            int | None, typer.Option(min=1, max=1000, help="Number of SLURM jobs [1].", **_PANEL)
        ],
        None,
    ),
    "time": (
        Annotated[
            str | None,
            typer.Option(
                metavar="TIME",
                help=f"Time limit of each job, e.g. 90m, 4h, 1-12:00:00 [{_DEFAULT_TIME}]. A job "
                "that is not done then is requeued and goes on.",
                **_PANEL,
            ),
        ],
        None,
    ),
    "gpus": (
        Annotated[int | None, typer.Option(min=0, help=_GPUS, **_PANEL)],
        None,
    ),
    "cpus": (
        Annotated[int | None, typer.Option(min=1, help="CPUs of each job.", **_PANEL)],
        None,
    ),
    "mem": (
        Annotated[
            str | None, typer.Option(metavar="SIZE", help="Memory of each job, e.g. 32G.", **_PANEL)
        ],
        None,
    ),
    "partition": (
        Annotated[str | None, typer.Option(help="Partition of the cluster.", **_PANEL)],
        None,
    ),
    "account": (
        Annotated[str | None, typer.Option(help="Account that pays.", **_PANEL)],
        None,
    ),
    "qos": (
        Annotated[str | None, typer.Option(help="Quality of service.", **_PANEL)],
        None,
    ),
    "setup": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="LINE",
                help="Line of the batch script before the command, e.g. 'module load cuda'; may "
                "be repeated.",
                **_PANEL,
            ),
        ],
        None,
    ),
    "grace": (
        Annotated[
            int | None,
            typer.Option(
                min=30,
                metavar="SECONDS",
                help=f"Time before the limit at which a job writes checkpoints and leaves "
                f"[{GRACE}].",
                **_PANEL,
            ),
        ],
        None,
    ),
    "dry_run": (
        Annotated[
            bool,
            typer.Option("--dry-run", help="Only print the batch script.", **_PANEL),
        ],
        False,
    ),
}
"""Type and default of each option, by the name of its parameter."""


def options_from(
    given: Mapping[str, Any], *, several: bool, here: tuple[str, ...] = ()
) -> SlurmOptions | None:
    """Return what the command line asks for, or None without `--slurm`.

    Args:
        given: value of each of `PARAMETERS`.
        several: True if several jobs can share the work.
        here: names of those that also mean something without `--slurm`.

    Errors: `UsageError` for options of SLURM without `--slurm`, and for values that make no sense.
    """
    asked = [name for name, value in given.items() if value and name not in ("slurm", *here)]
    if not given["slurm"]:
        if asked:
            raise UsageError(
                f"--{asked[0].replace('_', '-')} says what a SLURM job gets: add --slurm"
            )
        return None
    if (given["jobs"] or 1) > 1 and not several:
        raise UsageError(
            f"--jobs {given['jobs']}: a training is one job; only the trials of a study and "
            "the tiles of a volume can be shared out"
        )
    grace = given["grace"] or GRACE
    minutes = minutes_of(given["time"] or _DEFAULT_TIME)
    if 60 * minutes < grace + _LEAST_WORK:
        raise UsageError(
            f"--time {given['time']}: a job needs {grace} seconds for its last checkpoint "
            f"(--grace) and some to work; give at least {-(-(grace + _LEAST_WORK) // 60)}m"
        )
    memory = given["mem"]
    if memory is not None and not re.fullmatch(r"\d+[KMGT]?", memory):
        raise UsageError(f"--mem {memory}: not a size; write for example 32G")
    return SlurmOptions(
        jobs=given["jobs"] or 1,
        minutes=minutes,
        gpus=1 if given["gpus"] is None else given["gpus"],
        cpus=given["cpus"],
        memory=memory,
        partition=given["partition"],
        account=given["account"],
        qos=given["qos"],
        setup=tuple(given["setup"] or ()),
        grace=grace,
        dry_run=given["dry_run"],
    )


_UNITS = {"m": 1.0, "h": 60.0, "d": 1440.0}


def minutes_of(text: str) -> int:
    """Return whole minutes, rounded up: `90`, `90m`, `1.5h`, `2d`, or SLURM's `[D-]HH:MM:SS`.

    Errors: `UsageError` for anything else.
    """
    counted = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd]?)", text)
    if counted:
        minutes = float(counted[1]) * _UNITS[counted[2] or "m"]
    elif clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
        days, first, second, third = (int(part or 0) for part in clock.groups())
        # SLURM reads two numbers without days as minutes and seconds; with days, as hours.
        if clock[4] is None and clock[1] is None:
            minutes = first + second / 60
        else:
            minutes = 1440 * days + 60 * first + second + third / 60
    else:
        raise UsageError(f"--time {text}: not a time; write for example 90m, 4h or 1-12:00:00")
    whole = int(-(-minutes // 1))
    if not whole:
        raise UsageError(f"--time {text}: a job needs at least one minute")
    return whole
