"""Versions of MLflow's tables: find those of another MLflow and say what to do.

MLflow changes older tables by itself if it misses one of its own, and refuses others with the form
of a command. We refuse both, with the command, so that there is a copy before anything changes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.addresses import without_secrets
from cyclegan.errors import CycleGANError

if TYPE_CHECKING:
    from tracking.database import Location


def check_version(location: Location, version: str) -> None:
    """Raise `CycleGANError` if `version` is not that of the tables of the installed MLflow."""
    known, newest = _versions()
    if newest and version != newest:
        raise CycleGANError(_remedy(location, known=version in known))


def explained(location: Location, error: CycleGANError) -> CycleGANError:
    """Return an error that says what to do if `error` is due to tables of another MLflow."""
    found = re.search(r"found version (\w+)|revision identified by '(\w+)'", str(error))
    if not found:
        return error
    return CycleGANError(_remedy(location, known=found[1] in _versions()[0]))


def _remedy(location: Location, *, known: bool) -> str:
    installed = f"MLflow than the installed {importlib.metadata.version('mlflow')}"
    if not known:
        return (
            f"{location}: its tables were made by a newer {installed}; install that one: "
            "pip install --upgrade mlflow"
        )
    return (
        f"{location}: its tables were made by an older {installed}; make a copy of the database, "
        f"then run: mlflow db upgrade {shlex.quote(without_secrets(location.uri))}"
    )


@functools.cache
def _versions() -> tuple[frozenset[str], str]:
    """Return the versions that the installed MLflow knows, and the newest; empty if unknown."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return frozenset(), ""
    made: set[str] = set()
    replaced: set[str] = set()
    for path in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        made |= set(re.findall(r"""^revision = ["'](\w+)["']""", text, re.MULTILINE))
        replaced |= set(re.findall(r"""^down_revision = ["'](\w+)["']""", text, re.MULTILINE))
    newest = made - replaced
    return frozenset(made), newest.pop() if len(newest) == 1 else ""
