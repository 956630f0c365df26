"""Deliver what dead processes left behind, and end the runs that they left RUNNING."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cyclegan.errors import CycleGANError
from tracking.outbox.delivery import deliver_waiting, log
from tracking.process import PROCESS, is_alive

if TYPE_CHECKING:
    from tracking.run_lookup import RunInfo
    from tracking.store import Store


def tidy(store: Store, say: Callable[[str], None]) -> None:
    """Deliver waiting outboxes and end the runs of dead processes; `say` each thing done.

    A store that fails here is no reason not to start: a warning says so.
    """
    try:
        for delivery in deliver_waiting(store):
            say(str(delivery))
        for run in close_dead_runs(store):
            say(f"run {run.name} ({run.id}) is KILLED now: {DIED}")
    except CycleGANError as error:
        log.warning("%s", error)


def close_dead_runs(store: Store) -> list[RunInfo]:
    """Make the runs KILLED whose process is gone; a training that goes on is RUNNING again.

    Not those of studies: other processes than the one that began a study may still work for it.
    """
    gone = [r for r, alive in dead_runs(store) if alive is False and r.tags.get("kind") != "study"]
    for run in gone:
        store.run(run.id).finish("KILLED", DIED)
    return gone


def dead_runs(store: Store) -> list[tuple[RunInfo, bool | None]]:
    """RUNNING runs whose process is gone (False), or on a host that can't be asked (None)."""
    found: list[tuple[RunInfo, bool | None]] = []
    for run in store.search(None, "attributes.status = 'RUNNING'"):
        process = run.tags.get(PROCESS)
        alive = is_alive(process) if process else None
        if not alive:
            found.append((run, alive))
    return found


DIED = "its process died"
"""The reason of a run that was closed by another process."""
