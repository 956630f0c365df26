"""Deliver what dead processes left behind, and end the runs that they left RUNNING."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cyclegan.errors import CycleGANError
from tracking.artifacts import half_written
from tracking.outbox.delivery import deliver_waiting, log
from tracking.process import PROCESS, is_alive
from tracking.scratch import remove_dead_scratch

if TYPE_CHECKING:
    from tracking.run_lookup import RunInfo
    from tracking.store import Store


def tidy(store: Store, say: Callable[[str], None]) -> None:
    """Deliver waiting outboxes and end the runs of dead processes; `say` each thing done.

    The temporary files of dead processes go without a word.

    A store that fails here is no reason not to start: a warning says so.
    """
    remove_dead_scratch()
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
        close_dead_run(store, run)
    return gone


def close_dead_run(store: Store, run: RunInfo) -> None:
    """Make a run KILLED whose process is gone, and remove the files that it left half written."""
    store.run(run.id).finish("KILLED", DIED)
    folder = store.artifacts(run).folder
    for path in half_written(folder) if folder else ():
        path.unlink(missing_ok=True)


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
