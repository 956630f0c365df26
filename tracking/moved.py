"""Adopt the embedded store of a project folder that was moved or copied.

MLflow's tables name the files of runs by absolute addresses. After a move these lead to the old
place: nothing is found, and new files would make the old folder again. So each opening of an
embedded store compares the artifact folders in its tables with its own. Where its own folder holds
the files of runs that the tables look for elsewhere, the addresses change in one transaction, after
a copy of the database (`mlflow.db.before-move`). A copied project changes its own tables only.

Nothing changes if the files are not here, or if a process may still write to the old place: a
warning says so, and `cyclegan doctor` shows it.
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

from cyclegan.errors import CycleGANError
from cyclegan.files import replacing, same_file, write_text
from cyclegan.locks import waiting_for
from tracking.artifacts import local_path
from tracking.database import Location
from tracking.process import PROCESS, is_alive
from viz.units import count

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
    """The embedded store at `location`, seen as one that may have been moved."""

    def __init__(self, location: Location) -> None:
        assert location.database is not None
        self.database = location.database
        self.own = self.database.parent / _FOLDER

    def adopt(self) -> None:
        """Change the addresses of files that lie in this store's folder by now.

        Errors: `CycleGANError` in one line if the database can't be copied or changed.
        """
        for old in self._old_places():
            reason = self._obstacle(old)
            if reason:
                log.warning("%s", reason)
            elif self._is_ours(old):
                self._adopt(old)

    def obstacles(self) -> list[str]:
        """Return a line for each old place whose files are missing and can't be adopted."""
        return [reason for old in self._old_places() if (reason := self._obstacle(old))]

    def _old_places(self) -> list[OldPlace]:
        runs: dict[str, list[str]] = {}
        with self._connection() as connection:
            query = "SELECT experiment_id, artifact_location FROM experiments"
            found = {key: _root(str(address)) for key, address in connection.execute(query)}
            own = found.pop(0, "")  # MLflow's first experiment was made with the store
            if own in found.values():
                runs[own] = []
            for run_id, address in connection.execute("SELECT run_uuid, artifact_uri FROM runs"):
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
        database = folder.parent / self.database.name
        return same_file(folder, self.own) or (
            database.exists() and database.samefile(self.database)
        )

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
        return not place.is_dir() or (place / self.database.name).exists()

    def _obstacle(self, old: OldPlace) -> str | None:
        if not old.runs:
            return None
        begin = f"{self.database}: it looks for {old}"
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

    def _writer(self, old: OldPlace) -> str | None:
        """Return what to do about a process that may still write to the old place; None if none."""
        if old.folder.is_dir():
            return None  # this store is a copy, and the process writes to the original
        query = (
            "SELECT run_uuid, name, (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid"
            " AND key = ?), (SELECT max(timestamp) FROM latest_metrics"
            " WHERE latest_metrics.run_uuid = runs.run_uuid) FROM runs WHERE status = 'RUNNING'"
        )
        with self._connection() as connection:
            running = connection.execute(query, (PROCESS,)).fetchall()
        for run_id, name, process, at_ms in running:
            alive = is_alive(process) if process else None
            # Absolute: a clock that was wrong may have left a time that is yet to come.
            recent = abs(time.time() - (at_ms or 0) / 1000) < _QUIET_SECONDS
            if run_id in old.runs and (alive or (alive is None and recent)):
                return f"run {name} ({run_id}) may still write there: stop it, then run again"
        return None

    def _adopt(self, old: OldPlace) -> None:
        lock = self.database.with_name(f".{self.database.name}.lock")
        try:
            with waiting_for(lock):
                if old not in self._old_places():
                    return  # another process was quicker
                if old.runs:
                    self._back_up()
                self._move_outboxes(old)
                self._rewrite(old)
        except (sqlite3.Error, OSError) as error:
            raise CycleGANError(
                f"{self.database}: the project was moved from {old.folder.parent.parent}, and its "
                f"tables can't be changed: {error}; free some space and run again"
            ) from error
        log.warning(
            "%s: the project was moved; %s are found in %s now", self.database, old, self.own
        )

    def _back_up(self) -> None:
        with (
            replacing(self.database.with_name(f"{self.database.name}.before-move")) as copy,
            self._connection() as connection,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            connection.backup(target)

    def _move_outboxes(self, old: OldPlace) -> None:
        """Tell the waiting outboxes the store's new name; the tables change after them."""
        before, now = str(old.folder.parent / self.database.name), str(self.database)
        for path in (self.database.parent / "journal").glob("*/about.json"):
            about = json.loads(path.read_bytes())
            if about.get("store") == before:
                write_text(path, json.dumps(about | {"store": now}, indent=1))

    def _rewrite(self, old: OldPlace) -> None:
        length, new = len(old.address), self.own.as_uri()
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, column in _COLUMNS:
                if column not in _columns(connection, table):
                    continue  # made by an older MLflow
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, length + 1, old.address, length + 1, f"{old.address}/"),
                )
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(
            sqlite3.connect(self.database, timeout=_WAIT, isolation_level=None)
        ) as connection:
            yield connection


def _root(address: str) -> str:
    """Return the artifact folder of the store, without the folder of an experiment in it."""
    return re.sub(rf"(/{_FOLDER})/\d+$", r"\1", address)


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
