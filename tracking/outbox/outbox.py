"""The outbox of a run: records that the store could not take, on the disk until it can.

```
mlruns/journal/<run id>/
  about.json              the run's name and the store it belongs to
  lock                    held by the process that writes to the run
  00000012-Samples.json   an record that waits; they are numbered in the order they came
  00000013-Picture.json   another one, with its bulk beside it
  00000013-Picture.bulk
```
An record is there as soon as its JSON file is, which is renamed into its place last.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.errors import CycleGANError
from cyclegan.files import replacing, write_text
from cyclegan.locks import FileLock
from tracking.database import Location
from tracking.outbox.records import KINDS, Record

if TYPE_CHECKING:
    from tracking.run import Run

log = logging.getLogger(__name__)

_ABOUT, _LOCK, _BULK, _DAMAGED = "about.json", "lock", ".bulk", ".damaged"


@dataclass(frozen=True, order=True)
class OutboxEntry:
    """An record on the disk."""

    number: int
    kind: str
    path: Path

    @property
    def bulk(self) -> Path:
        """The file of its bulky part, if it has one."""
        return self.path.with_suffix(_BULK)

    def read(self) -> Record:
        """The record. Errors: `ValueError`, `KeyError`, `TypeError`, `OSError` if damaged."""
        return KINDS[self.kind].unpack(json.loads(self.path.read_bytes()), self.bulk)


class Outbox:
    """The records of one run that wait on the disk. The folder is made with the first one."""

    def __init__(self, folder: Path, *, run_id: str, name: str, store: str) -> None:
        self.folder = folder
        self.about = {"run_id": run_id, "name": name, "store": store}
        self._lock = FileLock(folder / _LOCK)
        self._waiting = _listed(folder)
        self._number = max((w.number for w in self._waiting), default=0)

    @classmethod
    def at(cls, location: Location, run_id: str, name: str = "") -> Outbox:
        """The outbox of a run in the store at `location`."""
        folder = location.outboxes / run_id
        return cls(folder, run_id=run_id, name=name or run_id, store=str(location))

    @classmethod
    def of(cls, run: Run) -> Outbox:
        """The outbox of `run`."""
        return cls.at(run.location, run.id, run.name)

    @classmethod
    def open(cls, folder: Path) -> Outbox:
        """One that is there. Errors: `CycleGANError` if it can't be read."""
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
            return cls(folder, **{key: str(about[key]) for key in ("run_id", "name", "store")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CycleGANError(f"{folder / _ABOUT} can't be read: {error}") from error

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[OutboxEntry]:
        """Those that wait, in the order they came."""
        return iter(list(self._waiting))

    def kinds(self) -> set[str]:
        """Kinds of which something waits: a new record of them must wait behind it."""
        return {waiting.kind for waiting in self._waiting}

    def acquire(self, *, wait: bool = False) -> bool:
        """Become the one process that adds and removes; False if another one is.

        `wait` for the other one. Nothing is made on the disk if nothing is there.
        """
        if self._lock.held or not self.folder.is_dir():
            return True
        return self._acquire(wait=wait)

    def _acquire(self, *, wait: bool) -> bool:
        if not self._lock.acquire(wait=wait):
            return False
        # Another process may have changed it until now.
        self._waiting = _listed(self.folder)
        self._number = max([self._number, *(waiting.number for waiting in self._waiting)])
        return True

    def append(self, record: Record) -> None:
        """Put an record behind the others. Errors: `CycleGANError` if the disk does not take it."""
        number, kind = self._number + 1, type(record).__name__
        waiting = OutboxEntry(number, kind, self.folder / f"{number:08d}-{kind}.json")
        with _disk(waiting.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.held:
                self._acquire(wait=True)
            # Only with the lock held: without it, another process would think the folder free.
            if not (self.folder / _ABOUT).is_file():
                write_text(self.folder / _ABOUT, json.dumps(self.about, indent=1))
            with _bulk_of(waiting) as bulk:
                values = record.pack(bulk)
            write_text(waiting.path, json.dumps(values))
        self._waiting.append(waiting)
        self._number = number

    def remove(self, waiting: OutboxEntry) -> None:
        """The store has it."""
        waiting.path.unlink(missing_ok=True)
        waiting.bulk.unlink(missing_ok=True)
        self._waiting.remove(waiting)

    def drop(self, kind: type[Record]) -> None:
        """Remove what waits of a kind: what it says does not hold any more."""
        for waiting in self:
            if waiting.kind == kind.__name__:
                self.remove(waiting)

    def deliver(self, write: Callable[[Record], None]) -> CycleGANError | None:
        """Write what waits, in order; the first failure, of which the rest goes on waiting.

        After a failure records of the same kind are left alone, as they would overtake it. What
        can't be read is set aside.
        """
        failed: dict[str, CycleGANError] = {}
        for waiting in self:
            if waiting.kind in failed:
                continue
            try:
                record = waiting.read()
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged and set aside: %s", waiting.path, error)
                waiting.path.rename(waiting.path.with_suffix(_DAMAGED))
                self._waiting.remove(waiting)
                continue
            try:
                write(record)
            except CycleGANError as error:
                failed[waiting.kind] = error
                continue
            self.remove(waiting)
        return next(iter(failed.values()), None)

    def close(self) -> None:
        """Release it; an empty one is removed from the disk."""
        if not self._lock.held:
            return
        if not self._waiting and not list(self.folder.glob(f"*{_DAMAGED}")):
            for name in (_ABOUT, _LOCK):
                (self.folder / name).unlink(missing_ok=True)
            for litter in (*self.folder.glob(f"*{_BULK}"), *self.folder.glob(".*.part")):
                litter.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        self._lock.release()


def outboxes_in(folder: Path) -> list[Path]:
    """The folders of outboxes in `folder`."""
    return sorted(path.parent for path in folder.glob(f"*/{_ABOUT}"))


def _listed(folder: Path) -> list[OutboxEntry]:
    found = []
    for path in folder.glob("*-*.json"):
        number, _, kind = path.stem.partition("-")
        if number.isdigit() and kind in KINDS:
            found.append(OutboxEntry(int(number), kind, path))
    return sorted(found)


@contextlib.contextmanager
def _bulk_of(waiting: OutboxEntry) -> Iterator[Path]:
    """A path for the bulk, whole under its name when the block ends; nothing if none was made."""
    temporary = waiting.bulk.with_name(f".{waiting.bulk.name}.part")
    try:
        yield temporary
        if temporary.exists():
            with replacing(waiting.bulk) as target:
                temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CycleGANError(f"{path} can't be written: {error}") from error
