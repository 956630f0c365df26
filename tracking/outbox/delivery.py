"""What processes that are gone left behind: journals, and runs that seem to go on for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cyclegan.errors import CycleGANError
from tracking.outbox.outbox import Journal, journal_of, journals_in
from tracking.outbox.records import Entry

if TYPE_CHECKING:
    from tracking.store import Store


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What became of a journal."""

    run: str
    """Its run's name and id."""
    folder: Path
    delivered: int
    left: int
    error: str = ""

    def __str__(self) -> str:
        done = f"{self.delivered} entries of run {self.run} were delivered"
        return done + (f", {self.left} wait: {self.error}" if self.left else "")


def waiting(store: Store) -> Iterator[Journal]:
    """The journals of `store` that nobody writes to now, not empty; each is held meanwhile."""
    for folder in journals_in(store.location.journals):
        try:
            journal = Journal.open(folder)
        except CycleGANError:
            continue  # half made, or not ours
        if journal.about["store"] == str(store.location) and journal.acquire():
            try:
                yield journal
            finally:
                journal.close()


def deliver(store: Store, journal: Journal) -> Delivery:
    """Write what waits there to its run."""
    about, before = journal.about, len(journal)
    try:
        run = store.run(about["run_id"])
        error = journal.deliver(lambda entry: entry.write(run))
    except CycleGANError as failure:
        error = failure
    return Delivery(
        run=f"{about['name']} ({about['run_id']})",
        folder=journal.folder,
        delivered=before - len(journal),
        left=len(journal),
        error=str(error or ""),
    )


def deliver_from(store: Store, folder: Path) -> None:
    """Write what waits in the journal `folder` to its run.

    Errors: `CycleGANError` if something is left, or another process is at it.
    """
    journal = Journal.open(folder)
    if not journal.acquire():
        raise CycleGANError(f"{folder}: another process writes to it; wait for it")
    try:
        done = deliver(store, journal)
    finally:
        journal.close()
    if done.left:
        raise CycleGANError(str(done))


def deliver_waiting(store: Store) -> list[Delivery]:
    """Write what waits for any run of `store`; after the first failure the rest goes on waiting."""
    done = []
    for journal in waiting(store):
        if not len(journal):
            continue
        done.append(deliver(store, journal))
        if done[-1].error:
            break
    return done


def write_or_keep(store: Store, run_id: str, *entries: Entry) -> bool:
    """Write `entries` to a run; what the store does not take waits in its journal.

    Whether all are in the store. For what is said after a training, where a store that is away
    should stop nothing.
    """
    journal = journal_of(store.location, run_id)
    try:
        journal.acquire(wait=True)
        error: CycleGANError | None = None
        try:
            run = store.run(run_id)
            error = journal.deliver(lambda entry: entry.write(run))
        except CycleGANError as failure:
            error = failure
        for entry in entries:
            if error is None:
                try:
                    entry.write(run)
                    continue
                except CycleGANError as failure:
                    error = failure
            journal.append(entry)
        if error is not None:
            log.warning("%s; it waits in %s", error, journal.folder)
        return error is None
    finally:
        journal.close()


# -- Waiting for a store that is away: a server that is restarted must not end a night's study

T = TypeVar("T")


PATIENCE = 600.0
"""Seconds for which a store may be away where nothing can go on without it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0


def patiently(
    action: Callable[[], T],
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `action`, tried again while the store fails; `say` tells of it once.

    What is wrong by itself (a run that is unknown, bad input) is raised at once.

    Errors: the last `CycleGANError` when `PATIENCE` is over.
    """
    begin, pause = clock(), _FIRST_PAUSE
    while True:
        try:
            return action()
        except CycleGANError as error:
            if type(error) is not CycleGANError or clock() - begin + pause > PATIENCE:
                raise
            if pause == _FIRST_PAUSE:
                say(f"{error}; trying again for {PATIENCE / 60:.0f} minutes")
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
