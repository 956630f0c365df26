"""The frame of all commands: common options, results as text or JSON, errors as one line.

A command is a function whose first argument is a `Session`; `command` adds the common options.
Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import inspect
import itertools
import json
import signal
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.exceptions

from cyclegan.errors import CycleGANError
from viz.console import Console

if TYPE_CHECKING:
    from types import FrameType

    from tracking import Store
    from workbench.output import Output

INTERRUPTED = 130


@dataclass
class Session:
    """One call of the command line: where messages go, how results look, which store is used."""

    console: Console
    as_json: bool = False
    tracking_uri: str | None = None
    exit_code: int = 0
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

    def result(self, data: Any, text: str = "") -> None:
        """Write the result to standard output: `data` as one JSON document, or `text`."""
        print(json.dumps(data, indent=1, default=str) if self.as_json else text, flush=True)  # noqa: T201

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


def command(app: typer.Typer, name: str, *, example: str) -> Callable[[Command], Command]:
    """Register a function as the command `name` of `app`, with common options and an example."""

    def register(function: Command) -> Command:
        def call(**given: Any) -> None:
            common = {key: given.pop(key) for key in _COMMON}
            console = Console(quiet=common["quiet"])
            console.log_to_here()
            session = Session(console, common["as_json"], common["tracking_uri"])
            function(session, **given)
            if session.exit_code:
                raise typer.Exit(session.exit_code)

        _, *own = inspect.signature(function).parameters.values()
        hints = typing.get_type_hints(function, include_extras=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(annotation=hints[p.name], kind=kind) for p in own]
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


def run(app: typer.Typer) -> int:
    """Run the command line; the exit code. No traceback but with `--debug`."""
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
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
        console.error(" ".join(message.split()))
        return code


def _explained(error: BaseException) -> tuple[str, int]:
    """The line for the user, and the exit code."""
    if isinstance(error, CycleGANError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, typer.exceptions.TyperException):
        return _usage(error), 2
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
    for name, value in itertools.pairwise(sys.argv):
        if name in names and value not in str(error):
            return f", not {value}"
    return ""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
