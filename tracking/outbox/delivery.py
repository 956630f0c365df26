"""Deliver what waits in outboxes, and wait for a store that is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cyclegan.addresses import without_secrets
from cyclegan.errors import CycleGANError
from tracking.outbox.outbox import Outbox, outboxes_in
from viz.units import count

if TYPE_CHECKING:
    from tracking.store import Store


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The result of delivering an outbox."""

    run: str
    """Its run's name and id."""
    folder: Path
    delivered: int
    left: int
    error: str = ""

    def __str__(self) -> str:
        done = f"{count(self.delivered, 'record')} of run {self.run} delivered"
        return done + (f", {self.left} still waiting: {self.error}" if self.left else "")


def waiting(store: Store) -> Iterator[Outbox]:
    """The outboxes of `store` that nobody writes to now, not empty; each is held meanwhile."""
    for folder in outboxes_in(store.location.outboxes):
        try:
            outbox = Outbox.open(folder)
        except CycleGANError:
            continue  # half made, or not ours
        ours = without_secrets(outbox.about["store"]) == str(store.location)
        if ours and outbox.acquire():
            try:
                yield outbox
            finally:
                outbox.close()


def deliver(store: Store, outbox: Outbox) -> Delivery:
    """Write what waits there to its run."""
    about, before = outbox.about, len(outbox)
    try:
        run = store.run(about["run_id"])
        error = outbox.deliver(lambda record: record.write(run))
    except CycleGANError as failure:
        error = failure
    return Delivery(
        run=f"{about['name']} ({about['run_id']})",
        folder=outbox.folder,
        delivered=before - len(outbox),
        left=len(outbox),
        error=str(error or ""),
    )


def deliver_from(store: Store, folder: Path) -> None:
    """Write what waits in the outbox `folder` to its run.

    Errors: `CycleGANError` if something is left, or another process is at it.
    """
    outbox = Outbox.open(folder)
    if not outbox.acquire():
        raise CycleGANError(f"{folder}: another process writes to it; wait for it")
    try:
        done = deliver(store, outbox)
    finally:
        outbox.close()
    if done.left:
        raise CycleGANError(str(done))


def deliver_waiting(store: Store) -> list[Delivery]:
    """Write what waits for any run of `store`; after the first failure the rest goes on waiting."""
    done = []
    for outbox in waiting(store):
        if not len(outbox):
            continue
        done.append(deliver(store, outbox))
        if done[-1].error:
            break
    return done


# -- Waiting for a store that is away: a server that is restarted must not end a night's study

T = TypeVar("T")


RETRY_SECONDS = 600.0
"""Seconds for which a store may be away where nothing can go on without it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0


def retrying(
    action: Callable[[], T],
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `action`, tried again while the store fails; `say` tells of it once.

    What is wrong by itself (a run that is unknown, bad input) is raised at once.

    Errors: the last `CycleGANError` when `RETRY_SECONDS` is over.
    """
    begin, pause = clock(), _FIRST_PAUSE
    while True:
        try:
            return action()
        except CycleGANError as error:
            if type(error) is not CycleGANError or clock() - begin + pause > RETRY_SECONDS:
                raise
            if pause == _FIRST_PAUSE:
                say(f"{error}; trying again for {RETRY_SECONDS / 60:.0f} minutes")
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
