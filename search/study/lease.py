"""Leases: which worker trains a trial now; and the time for which a study has been run.

A trial that Optuna calls RUNNING may be training right now, or may be left over from a process that
died. Its lease, which is stored with the study and renewed during the work, tells which. On this
host a lock file decides, which the operating system releases with the process. For other hosts it
is whether the time stamp of the last renewal moves, watched with this host's own clock: clocks of
hosts may differ by an hour. A worker that finds its lease in other hands (because it slept longer
than a lease lasts) stops its training.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from cyclegan import slurm
from cyclegan.locks import exclusive, is_free
from tracking.process import boot_id

LEASE = "lease"
REQUEUES = "CYCLEGAN_REQUEUES"
"""Environment variable of a job that SLURM starts again when its time is up or its node dies."""
RENEW_SECONDS = 20.0
LEASE_SECONDS = 120.0
"""Seconds without a renewal after which a lease on another host ends."""
_ASK_SECONDS = 10.0
"""Seconds between two questions for the same SLURM job."""
MOST_SKEW = 7_200.0
"""Most seconds by which clocks of two hosts are expected to differ. A stamp that is farther from
this host's time when it is first seen belongs to a worker that is gone."""


def host() -> str:
    """Return a name of this machine that changes when it is rebooted."""
    return f"{socket.gethostname()} {boot_id()}".strip()


class Owner:
    """One worker process, as leases name it. Its context holds the worker's lock file."""

    def __init__(self, folder: Path, command: str | None = None) -> None:
        self.id = uuid.uuid4().hex
        self.command = command or self.id
        """The command to which it belongs; several workers may belong to one."""
        self.folder = folder / "workers"
        self.begun = round(time.time(), 3)
        """Seconds since 1970."""
        self._started = time.monotonic()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Owner:
        self._stack.enter_context(exclusive(_lock_file(self.folder, self.id), "worker"))
        return self

    def __exit__(self, *exception: object) -> None:
        _lock_file(self.folder, self.id).unlink(missing_ok=True)
        self._stack.close()

    def seconds(self) -> float:
        """Return how long this worker has run, whatever happened to the system's clock."""
        return time.monotonic() - self._started

    def claim(self, storage: BaseStorage, trial_id: int) -> None:
        """Take the lease, or renew it."""
        storage.set_trial_user_attr(
            trial_id,
            LEASE,
            {
                "owner": self.id,
                "command": self.command,
                "host": host(),
                "pid": os.getpid(),
                "at": round(time.time(), 3),
                **_own_job(),
            },
        )

    def release(self, storage: BaseStorage, trial_id: int) -> None:
        """Give the lease back, so that any worker can continue the trial at once."""
        storage.set_trial_user_attr(trial_id, LEASE, {})

    def holds(self, storage: BaseStorage, trial_id: int) -> bool:
        """Return True if the lease is still this worker's."""
        lease = storage.get_trial(trial_id).user_attrs.get(LEASE, {})
        return bool(lease.get("owner") == self.id)


def is_held(trial: FrozenTrial, folder: Path) -> bool:
    """Return True if a worker trains the RUNNING `trial` of the study in `folder` now."""
    lease = trial.user_attrs.get(LEASE, {})
    seen = _sighted(lease) if lease else _Sighting(0.0)
    if lease and lease["host"] != host() and _job_is_gone(lease):
        return False
    return lease_holds(
        lease,
        folder / "workers",
        time.time(),
        host(),
        unmoved=time.monotonic() - seen.since,
        moved=seen.moved,
    )


def _own_job() -> dict[str, Any]:
    """Return this process's SLURM job, as leases name it; empty outside of one.

    `start` counts how often SLURM has started the job: it keeps its number when it is requeued.
    `requeues` tells that SLURM starts it again, so that nobody has to wait for what it may leave.
    """
    job = slurm.job_id()
    if job is None:
        return {}
    again = {"requeues": True} if os.environ.get(REQUEUES) else {}
    return {"job": job, "start": int(os.environ.get("SLURM_RESTART_COUNT", "0")), **again}


def _job_is_gone(lease: Mapping[str, Any]) -> bool:
    """Return True if the SLURM job of a lease has ended, or was started again since.

    SLURM knows that before the lease runs out.
    """
    job = lease.get("job")
    if job is None:
        return False
    owner, starts, own = str(lease["owner"]), int(lease.get("start", 0)), _own_job()
    if own.get("job") == job and own["start"] > starts:
        return True
    now, (asked, gone) = time.monotonic(), _asked.get(owner, (-math.inf, False))
    if gone or now - asked < _ASK_SECONDS:
        return gone
    _asked[owner] = now, bool(slurm.is_gone(str(job), starts))
    return _asked[owner][1]


_asked: dict[str, tuple[float, bool]] = {}
"""The last answer of SLURM about the job of each worker: the time of the answer by the monotonic
clock, and whether the job was gone."""


def will_be_restarted(trial: FrozenTrial) -> bool:
    """Return True if the worker that holds the trial is in a job that SLURM starts again."""
    return bool(trial.user_attrs.get(LEASE, {}).get("requeues"))


def is_doubtful(trial: FrozenTrial) -> bool:
    """Return True if another host's lease on the trial has not been seen to move here yet."""
    lease = trial.user_attrs.get(LEASE, {})
    return bool(lease) and lease["host"] != host() and not _sighted(lease).moved


@dataclass
class _Sighting:
    """A stamp of a lease, and when it was first seen here, by the monotonic clock."""

    since: float
    at: float = 0.0
    moved: bool = False
    """True if the same worker had another stamp before."""


_sightings: dict[str, _Sighting] = {}
"""Sightings by this process of the leases of each worker."""


def _sighted(lease: Mapping[str, Any]) -> _Sighting:
    """Return the sighting of a lease's stamp, noted if it is new."""
    owner, at = str(lease["owner"]), float(lease["at"])
    before = _sightings.get(owner)
    if before is None or before.at != at:
        _sightings[owner] = _Sighting(time.monotonic(), at, moved=before is not None)
    return _sightings[owner]


def ended_in_order(trial: FrozenTrial, folder: Path) -> bool:
    """Return True if the last worker of a trial that nobody trains now was not killed.

    It gave the lease back, as after Ctrl-C; or the storage did not take that, but the worker
    removed its lock file.
    """
    lease = trial.user_attrs.get(LEASE)
    if not lease:
        return lease is not None
    there = _lock_file(folder / "workers", str(lease["owner"]))
    return bool(lease["host"] == host() and not there.exists())


def lease_holds(
    lease: Mapping[str, Any],
    workers: Path,
    now: float,
    here: str,
    *,
    unmoved: float = 0.0,
    moved: bool = False,
) -> bool:
    """Return True if a lease holds.

    Args:
        workers: the folder of lock files.
        now: seconds since 1970.
        here: this host.
        unmoved: seconds for which the lease's stamp has not changed, as seen from here.
        moved: True if it had changed before that, so that its worker lived then.
    """
    if not lease:
        return False
    if lease["host"] == here:
        return not is_free(_lock_file(workers, str(lease["owner"])))
    plausible = moved or abs(now - float(lease["at"])) < MOST_SKEW
    return plausible and unmoved < LEASE_SECONDS


@contextlib.contextmanager
def renewing(
    owner: Owner, study: optuna.Study, trial_id: int, lost: Callable[[], None]
) -> Iterator[None]:
    """Renew the lease until the context ends; call `lost` once if another worker has taken it.

    The study's running time is noted along with it.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # a storage that is away now may be back soon
                if not owner.holds(study._storage, trial_id):
                    lost()
                    return
                owner.claim(study._storage, trial_id)
                touch(study, owner)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lock_file(folder: Path, owner: str) -> Path:
    return folder / f"{owner}.lock"


# -- Running time of a study: the time covered by all its calls together -----------------------
#
# Every worker records when it began and when it was last seen, under its own key in the study's
# attributes. Time in which several workers ran counts once.

_PREFIX = "session:"


def touch(study: optuna.Study, owner: Owner) -> None:
    """Record that the worker is still running.

    Its time is that which passed since it began, so a clock that is set right adds nothing.
    """
    last = round(owner.begun + owner.seconds(), 3)
    study.set_user_attr(_PREFIX + owner.id, [owner.begun, last])


def hours(attributes: Mapping[str, Any]) -> float:
    """Return the hours of running, from a study's user attributes.

    Of a worker at work they may lack the last `RENEW_SECONDS`.
    """
    noted = [value for key, value in attributes.items() if key.startswith(_PREFIX)]
    spans = [(float(begun), float(last)) for begun, last in noted]
    return _covered(spans) / 3600


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begun, last in sorted(intervals):
        total += max(0.0, last - max(begun, reached))
        reached = max(reached, last)
    return total
