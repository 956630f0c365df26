"""Adopt the files of a project folder that was moved or copied.

MLflow's tables name the files of runs by absolute addresses. After a move these lead to the old
place: nothing is found, and new files would make the old folder again. So each opening of an
embedded store compares the artifact folders in its tables with its own. Where its own folder holds
the files of runs that the tables look for elsewhere, the addresses change in one transaction, after
a copy of the database (`mlflow.db.before-move`). A copied project changes its own tables only.

Nothing changes if the files are not here, or if a process may still write to the old place: a
warning says so, and `cyclegan doctor` shows it.

A database on a server may serve other machines, on which the old folder is in its place. There the
addresses change only by `cyclegan doctor --adopt`; until then a warning says so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.files import replacing, same_file, write_text
from cyclegan.locks import waiting_for
from tracking.artifacts import local_path
from tracking.database import Location
from tracking.errors import translated
from tracking.process import PROCESS, is_alive
from viz.units import count

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_FOLDER = "artifacts"
_QUIET_SECONDS = 600
"""Seconds without a metric after which a run on another host counts as ended."""
_WAIT = 30.0
"""Seconds to wait for a locked database."""


@dataclass(frozen=True, kw_only=True)
class OldPlace:
    """An artifact folder that the tables name, but that is not this store's own."""

    address: str
    """The folder as the tables write it: a `file:` URI or a path."""
    folder: Path
    runs: tuple[str, ...]
    """Ids of the runs whose files should lie there."""

    def __str__(self) -> str:
        return f"the files of {count(len(self.runs), 'run')} in {self.folder}"


class MovedStore:
    """The database at `location`, seen as one whose project may have been moved.

    MLflow's server keeps its own addresses, so its location is not allowed here.
    """

    def __init__(self, location: Location) -> None:
        own = local_path(location.artifacts or "")
        assert own is not None
        self.location = location
        self.database = location.database
        """The file of an embedded store; None for a database on a server."""
        self.own = own

    def adopt(self, *, asked: bool = False) -> None:
        """Change the addresses of files that lie in this project's folder by now.

        Those of a database on a server change only if `asked`.

        Errors: `CycleGANError` in one line if the database can't be copied, read or changed.
        """
        for old in self._old_places():
            reason = self._obstacle(old, asked=asked)
            if reason:
                log.warning("%s", reason)
            elif self._is_ours(old):
                self._adopt(old)

    def obstacles(self, *, asked: bool = False) -> list[str]:
        """Return a line for each old place that `adopt` leaves as it is, and why."""
        found = (self._obstacle(old, asked=asked) for old in self._old_places())
        return [reason for reason in found if reason]

    def _old_places(self) -> list[OldPlace]:
        runs: dict[str, list[str]] = {}
        experiments = self._rows("SELECT experiment_id, artifact_location FROM experiments")
        found = {int(key): _root(str(address)) for key, address in experiments}
        own = found.pop(0, "")  # MLflow's first experiment was made with the store
        if own in found.values() and self.database:
            runs[own] = []
        for run_id, address in self._rows("SELECT run_uuid, artifact_uri FROM runs"):
            root = _root(str(address).removesuffix(f"/{run_id}/{_FOLDER}"))
            runs.setdefault(root, []).append(str(run_id))
        places = [(address, local_path(address), ids) for address, ids in runs.items()]
        return [
            OldPlace(address=address, folder=folder, runs=tuple(ids))
            for address, folder, ids in places
            if folder is not None and folder.name == _FOLDER and not self._is_own(folder)
        ]

    def _is_own(self, folder: Path) -> bool:
        """Return True if `folder` is this store's, also by way of a link or a mount."""
        if same_file(folder, self.own) or self.database is None:
            return same_file(folder, self.own)
        database = folder.parent / self.database.name
        return database.exists() and database.samefile(self.database)

    def _is_ours(self, old: OldPlace) -> bool:
        """Return True if the files of `old` lie in this store's folder, or if there are none.

        Without any file, only experiments name the place: new runs would make it again.
        """
        if old.runs:
            return self._holds(old)
        return self._is_lost(old)

    def _holds(self, old: OldPlace) -> bool:
        known = {path.name for path in (*self.own.glob("*"), *self.own.glob("[0-9]*/*"))}
        return not known.isdisjoint(old.runs)

    def _is_lost(self, old: OldPlace) -> bool:
        """Return True if the old place is gone, or is the folder of another store by now."""
        place = old.folder.parent
        return not place.is_dir() or bool(self.database and (place / self.database.name).exists())

    def _obstacle(self, old: OldPlace, *, asked: bool) -> str | None:
        if not old.runs:
            return None
        begin = f"{self.location}: it looks for {old}"
        if self.database is None:
            return self._obstacle_on_server(old, begin, asked=asked)
        if not self._holds(old):
            if old.folder.is_dir() and not self._is_lost(old):
                return None  # somebody chose that place for them
            why = "belongs to another store" if old.folder.is_dir() else "is gone"
            return f"{begin}, which {why}; copy that folder to {self.own}, or mount it again"
        writer = self._writer(old)
        if writer:
            return f"{begin}, but they lie in {self.own}; {writer}"
        if not os.access(self.database, os.W_OK) or not os.access(self.database.parent, os.W_OK):
            return f"{begin}, but they lie in {self.own}; make the database writable once"
        return None

    def _obstacle_on_server(self, old: OldPlace, begin: str, *, asked: bool) -> str | None:
        if old.folder.is_dir() or not self._holds(old):
            return None  # they are there, or on another machine
        writer = self._writer(old)
        if writer:
            return f"{begin}, but they lie in {self.own}; {writer}"
        if not asked:
            return (
                f"{begin}, but they lie in {self.own}; if the project was moved here, and no other "
                "machine uses the old folder, run cyclegan doctor --adopt"
            )
        return None

    def _writer(self, old: OldPlace) -> str | None:
        """Return what to do about a process that may still write to the old place; None if none."""
        if old.folder.is_dir():
            return None  # this store is a copy, and the process writes to the original
        running = self._rows(
            "SELECT run_uuid, name, (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid"
            " AND tags.key = :key), (SELECT max(timestamp) FROM latest_metrics"
            " WHERE latest_metrics.run_uuid = runs.run_uuid) FROM runs WHERE status = 'RUNNING'",
            key=PROCESS,
        )
        for run_id, name, process, at_ms in running:
            alive = is_alive(process) if process else None
            # Absolute: a clock that was wrong may have left a time that is yet to come.
            recent = abs(time.time() - (at_ms or 0) / 1000) < _QUIET_SECONDS
            if run_id in old.runs and (alive or (alive is None and recent)):
                return f"run {name} ({run_id}) may still write there: stop it, then run again"
        return None

    def _adopt(self, old: OldPlace) -> None:
        failed = (
            f"{self.location}: the project was moved from {old.folder.parent.parent}, and its "
            "tables can't be changed; free some space, or correct the permissions, and run again"
        )
        with translated(failed), self._locked():
            if old not in self._old_places():
                return  # another process was quicker
            if self.database and old.runs:
                self._back_up(self.database)
            if self.database:
                self._move_outboxes(old, self.database)
            self._rewrite(old)
        log.warning(
            "%s: the project was moved; %s are found in %s now", self.location, old, self.own
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of an embedded store; a server's transactions need none."""
        with contextlib.ExitStack() as stack:
            if self.database:
                lock = self.database.with_name(f".{self.database.name}.lock")
                stack.enter_context(waiting_for(lock))
            yield

    def _back_up(self, database: Path) -> None:
        with (
            replacing(database.with_name(f"{database.name}.before-move")) as copy,
            contextlib.closing(sqlite3.connect(database, timeout=_WAIT)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)

    def _move_outboxes(self, old: OldPlace, database: Path) -> None:
        """Tell the waiting outboxes the store's new name; the tables change after them."""
        before, now = str(old.folder.parent / database.name), str(database)
        for path in (database.parent / "journal").glob("*/about.json"):
            about = json.loads(path.read_bytes())
            if about.get("store") == before:
                write_text(path, json.dumps(about | {"store": now}, indent=1))

    def _rewrite(self, old: OldPlace) -> None:
        from sqlalchemy import String, column, func, inspect, literal, or_, table, update

        length, new = len(old.address), literal(self.own.as_uri(), String)
        with self._connection() as connection:
            tables = inspect(connection)
            for name, field in _COLUMNS:
                if field not in {known["name"] for known in tables.get_columns(name)}:
                    continue  # made by an older MLflow
                address = column(field, String)
                begin = func.substr(address, 1, length + 1, type_=String)
                rest = func.substr(address, length + 1, type_=String)
                inside = or_(address == old.address, begin == f"{old.address}/")
                # SQLAlchemy knows how each database joins texts: in MySQL || means "or".
                connection.execute(
                    update(table(name, address)).where(inside).values({field: new + rest})
                )

    def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        from sqlalchemy import text

        with translated(f"{self.location}: it can't be read"), self._connection() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Yield a connection with a transaction of its own."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        options = {"timeout": _WAIT} if self.database else {}
        engine = create_engine(self.location.uri, poolclass=NullPool, connect_args=options)
        with engine.begin() as connection:
            yield connection


def _root(address: str) -> str:
    """Return the artifact folder of the store, without the folder of an experiment in it."""
    return re.sub(rf"(/{_FOLDER})/\d+$", r"\1", address)
