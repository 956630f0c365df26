"""The frame of all commands: common options, results as text or JSON, errors as one line.

A command is a function whose first argument is a `Session`; `command` adds the common options.
Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import inspect
import io
import itertools
import json
import os
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.exceptions

from cyclegan.errors import CycleGANError, UsageError
from cyclegan.signals import interrupt_on_ending
from viz.console import Console
from workbench.cluster.options import PARAMETERS, options_from

if TYPE_CHECKING:
    from tracking import Store
    from workbench.cluster.options import SlurmOptions
    from workbench.output import Output

INTERRUPTED = 130
_LONGEST = 1000
"""Most characters of an error's line; what is longer loses its middle."""


@dataclass
class Session:
    """One call of the command line: where messages go, how results look, which store is used."""

    console: Console
    as_json: bool = False
    tracking_uri: str | None = None
    exit_code: int = 0
    slurm: SlurmOptions | None = None
    """Demands of the SLURM jobs in which the command is to run; None if it is to run here."""
    gpus: int = 1
    """Number of GPUs to use here, or in one job."""
    _store: Store | None = field(default=None, repr=False)
    _repaired: bool = False

    @property
    def store(self) -> Store:
        """The MLflow store, opened when it is first wanted."""
        return self.open_store()

    def open_store(self) -> Store:
        """Return the MLflow store; the first call opens it."""
        if self._store is None:
            from tracking import Store

            self._store = Store.open(self.tracking_uri)
        return self._store

    def repaired_store(self) -> Store:
        """Return the MLflow store, once what dead processes left in it has been put right.

        For commands that train or enhance: once a command, before one of those runs goes on.
        """
        if not self._repaired:
            from tracking.repair import tidy

            tidy(self.store, self.say)
            self._repaired = True
        return self.store

    def result(self, data: Any, text: str | Callable[[], str] = "") -> None:
        """Write the result to standard output: `data` as one JSON document, or `text`.

        Either may be a function that makes it; only the one that is wanted is called.
        """
        wanted = data if self.as_json else text
        made = wanted() if callable(wanted) else wanted
        print(json.dumps(made, indent=1, default=str) if self.as_json else made, flush=True)  # noqa: T201

    def show(self, output: Output) -> None:
        """Write the result of a command to standard output, and end with its exit code."""
        self.result(output.data, output.text)
        self.exit_code = output.exit_code

    def say(self, text: str) -> None:
        """Write a message to standard error."""
        self.console.say(text)


_COMMON: dict[str, Any] = {
    "tracking_uri": Annotated[
        str | None,
        typer.Option(
            help="URI of the MLflow store (default: MLFLOW_TRACKING_URI, else mlruns/ here).",
            rich_help_panel="Everywhere",
        ),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet",
            help="No progress and no messages: only results, warnings and errors.",
            rich_help_panel="Everywhere",
        ),
    ],
    "debug": Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of errors.", rich_help_panel="Everywhere"),
    ],
    "as_json": Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON document on standard output, and nothing else.",
            rich_help_panel="Everywhere",
        ),
    ],
}
_COMMON_DEFAULTS: dict[str, Any] = {
    "tracking_uri": None,
    "quiet": False,
    "debug": False,
    "as_json": False,
}


Command = Callable[..., None]


def command(
    app: typer.Typer, name: str, *, example: str, slurm: str | None = None, parallel: bool = False
) -> Callable[[Command], Command]:
    """Register a function as the command `name` of `app`, with common options and an example.

    `slurm`: `job` if it can also run as a SLURM job, `jobs` if several jobs can share the work; it
    then has the options of `workbench.cluster.options`. `parallel`: if
    `--gpus` also says how many GPUs to use here.
    """
    cluster = PARAMETERS if slurm else {}

    def register(function: Command) -> Command:
        def call(**given: Any) -> None:
            common = {key: given.pop(key) for key in _COMMON}
            of_slurm = {key: given.pop(key) for key in cluster}
            console = Console(quiet=common["quiet"])
            console.log_to_here()
            _check_address(common["tracking_uri"])
            session = Session(console, common["as_json"], common["tracking_uri"])
            if cluster:
                here = ("gpus",) if parallel else ()
                session.slurm = options_from(of_slurm, several=slurm == "jobs", here=here)
                session.gpus = max(of_slurm["gpus"] or 1, 1)
            function(session, **given)
            if session.exit_code:
                raise typer.Exit(session.exit_code)

        _, *own = inspect.signature(function).parameters.values()
        hints = typing.get_type_hints(function, include_extras=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(annotation=hints[p.name], kind=kind) for p in own]
        parameters += [
            inspect.Parameter(key, kind, default=default, annotation=annotation)
            for key, (annotation, default) in cluster.items()
        ]
        parameters += [
            inspect.Parameter(key, kind, default=_COMMON_DEFAULTS[key], annotation=annotation)
            for key, annotation in _COMMON.items()
        ]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        call.__doc__ = function.__doc__
        app.command(name, epilog=f"Example: {example}")(call)
        return function

    return register


def _check_address(tracking_uri: str | None) -> None:
    """Refuse what is no address of a store, also for a command that opens none."""
    if tracking_uri is not None:
        from tracking.database import locate

        locate(tracking_uri)


def run(app: typer.Typer) -> int:
    """Run the command line; the exit code. No traceback but with `--debug`."""
    _open_standard_streams()
    console = Console()
    interrupt_on_ending()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name in a result that it can't encode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _check_words(sys.argv[1:])
        code = typer.main.get_command(app).main(prog_name="cyclegan", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit:  # shell completion ends so
        raise
    except BaseException as error:  # noqa: BLE001  (whatever it is, the user gets one line)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
            console.say(str(error))
            return 2
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        message, code = _explained(error)
        console.error(_one_line(message))
        return code


def _open_standard_streams() -> None:
    """Open `/dev/null` as each standard stream that was closed, as by `2>&-` in a shell.

    Otherwise messages would go to standard output, among the results, and the next file to be
    opened would become standard error, to which HDF5 and others write.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free one: the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def _check_words(words: list[str]) -> None:
    """Refuse empty words, and words that are no text.

    An empty word is an unset variable of a shell; as a path it would be the working directory.
    """
    for before, word in itertools.pairwise(["cyclegan", *words]):
        option, value = before, word
        if word.startswith("--") and "=" in word:
            option, _, value = word.partition("=")
        if not value.strip():
            raise UsageError(f"the value after {option} is empty; write one, or leave both out")
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{word!r} is not text in UTF-8, in which MLflow and HDF5 keep names; rename it"
            ) from error


def _one_line(message: str) -> str:
    """Return a message on one line of at most `_LONGEST` characters that a terminal can show."""
    words = " ".join(message.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    if len(line) <= _LONGEST:
        return line
    half = _LONGEST // 2 - len("error:  ... ")
    return f"{line[:half]} ... {line[-half:]}"


def _explained(error: BaseException) -> tuple[str, int]:
    """The line for the user, and the exit code."""
    if isinstance(error, CycleGANError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, typer.exceptions.TyperException):
        return _usage(error), 2
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}", 1
    return f"{type(error).__name__}: {error}; --debug shows where", 1


def _usage(error: Exception) -> str:
    formatted = getattr(error, "format_message", None)
    message = formatted() if formatted else str(error)
    context = getattr(error, "ctx", None)
    where = f"; see {context.command_path} --help" if context else ""
    return f"{message.rstrip('.')}{_given_value(error)}{where}"


def _given_value(error: Exception) -> str:
    """Return the value of the option that is wrong; the parser's messages leave it out."""
    names = getattr(getattr(error, "param", None), "opts", ())
    for word, following in itertools.pairwise([*sys.argv, ""]):
        name, equals, value = word.partition("=")
        given = value if equals else following
        if name in names and given not in str(error):
            return f", not {given}"
    return ""
