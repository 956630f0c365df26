"""Write the records of a run to MLflow, at once or in the background.

```
TrackingCallback --put(record)--> BackgroundWriter ===thread===> Run --> MLflow
                                        |  store is away
                                        `--> Outbox on the disk --later--> Run
```
A training never waits: it hands its records to a `BackgroundWriter`, whose thread writes a batch
every few seconds. What the store does not take goes to the outbox, and all later records of its
kind behind it, so that nothing overtakes. The store is tried again from time to time, by the next
command that trains or enhances, and by `cyclegan doctor`. Everything else that a study, a promotion
or an enhancement tells its run goes through a `RunWriter`.

A process that is killed with -9 takes with it what is in memory: a batch of a few seconds. A
training that is resumed from its checkpoint writes that again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cyclegan.errors import CycleGANError
from tracking.downsampling import Sample
from tracking.errors import first_line
from tracking.outbox.delivery import retrying
from tracking.outbox.outbox import Outbox
from tracking.outbox.records import End, Record, Samples, Text
from tracking.run import Run

if TYPE_CHECKING:
    from tracking.store import Store

log = logging.getLogger(__name__)

INTERVAL = 3.0
"""Least seconds between batches."""
_LONGEST_INTERVAL = 60.0
_SHARE = 20.0
"""Between two batches at least this many times the time that the last one took. A batch takes long
where hundreds of workers write to the same store, and so they write in larger batches."""
_EASING = 0.8
"""Share of the last interval that the next one has at least: one fast batch is no proof."""
# After a failure the store is left alone for a while, longer after each.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
_FINAL_TRIES, _FINAL_PAUSE = 3, 1.0
_PATIENCE = 75.0
"""Seconds without any progress after which the end of a training waits for its store no longer."""


class RunWriter:
    """Writes records to a run of `store` at once.

    For what is told after a training, where a store that is away should stop nothing: records that
    the store does not take wait in the run's outbox, behind those that wait there already.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    def put(self, *new: Record) -> bool:
        """Write records; return True if all of them are in the store."""
        outbox = Outbox.at(self.store.location, self.run_id)
        try:
            outbox.acquire(wait=True)
            error: CycleGANError | None = None
            try:
                run = self.store.run(self.run_id)
                error = outbox.deliver(lambda record: record.write(run))
            except CycleGANError as failure:
                error = failure
            for record in new:
                if error is None:
                    try:
                        record.write(run)
                        continue
                    except CycleGANError as failure:
                        error = failure
                outbox.append(record)
            if error is not None:
                log.warning("%s; it waits in %s", error, outbox.folder)
            return error is None
        finally:
            outbox.close()


class BackgroundWriter:
    """Writes records to a run in the order they came, and outlives the store's failures.

    It is the `Tracker` for MLflow.

    Args:
        run: where to.
        outbox: where what the store does not take waits.
        interval: least seconds between batches; a slow store gets fewer and larger ones.
        extra: more metrics for the last iteration of each batch, asked by the thread.
        clock: seconds; only for how long batches and failures take.
    """

    def __init__(
        self,
        run: Run,
        outbox: Outbox | None = None,
        *,
        interval: float = INTERVAL,
        extra: Callable[[], Mapping[str, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.outbox = outbox or Outbox.of(run)
        self.outbox.acquire(wait=True)
        self.outbox.drop(End)  # the run goes on
        self._least = self._interval = interval
        self._extra, self._clock = extra, clock
        self._pending: list[Record] = []
        self._in_flight: list[Record] = []
        self._changed = threading.Condition()
        self._asked = self._sending = False
        self._closing = self._abandoned = False
        self._full = False  # the journal's disk is full, and the user was told
        self._rounds = self._progress = self._failures = 0
        self._not_before = -float("inf")
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Entries that are not in the store."""
        with self._changed:
            return len(self._pending) + len(self._in_flight) + len(self.outbox)

    def put(self, *new: Record) -> None:
        """Take records; a text replaces one of the same name that is not yet on its way."""
        with self._changed:
            for record in new:
                if isinstance(record, Text):
                    self._pending = [w for w in self._pending if not _older(w, record)]
                self._pending.append(record)
        if new and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Have the batch sent now rather than later; does not wait for it."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def drain(self, timeout: float = 30.0) -> bool:
        """Wait until everything put so far was tried; whether nothing is left to be written."""
        with self._changed:
            if self._thread is None:
                return not self._pending and not self.outbox
            wanted = self._rounds + (2 if self._sending else 1)
            self._asked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._rounds >= wanted, timeout)
        return not len(self)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.name

    def last_iteration(self) -> int:
        """Return the last iteration whose metrics are stored or wait on the disk; 0 if none."""
        waiting = [w.read() for w in self.outbox if w.kind == Samples.__name__]
        samples = [s for record in waiting if isinstance(record, Samples) for s in record.samples]
        stored = retrying(self.run.last_iteration, log.warning)
        return max(stored, *(sample.iteration for sample in samples), 0)

    def image_steps(self, key: str) -> set[int]:
        """Return the steps at which the series `key` has a picture already."""
        return retrying(lambda: self.run.image_steps(key), log.warning)

    def artifact_names(self, folder: str) -> list[str]:
        """Return the paths of the files that lie in `folder` of the run."""
        return retrying(lambda: self.run.artifact_names(folder), log.warning)

    def unsent(self) -> list[Sample]:
        """Metrics that are neither in the store nor on the disk."""
        with self._changed:
            waiting = [*self._in_flight, *self._pending]
        return [s for record in waiting if isinstance(record, Samples) for s in record.samples]

    def close(self) -> bool:
        """Send what is left, with some patience; whether everything is in the store.

        What is not waits in the outbox, and a warning says so; also of what is lost, where the
        journal's disk took it no more than the store.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            self._join()
        finally:  # on Ctrl-C, too: it stops the waiting, and nothing is lost
            self._rescue()
        waiting, lost = len(self.outbox), len(self._pending)
        if waiting:
            log.warning(
                "run %s (%s): %d records did not reach the tracking store; they wait in %s for the "
                "next training or 'cyclegan doctor'",
                *(self.run.name, self.run.id, waiting, self.outbox.folder),
            )
        if lost:
            log.error(
                "run %s (%s): %d records are lost: neither the tracking store nor %s took them",
                *(self.run.name, self.run.id, lost, self.outbox.folder),
            )
        with contextlib.suppress(OSError):
            self.outbox.close()
        return not waiting and not lost

    def _join(self) -> None:
        seen, since = -1, time.monotonic()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)
            if self._progress != seen:
                seen, since = self._progress, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                return

    def _rescue(self) -> None:
        """To the disk with what a thread that hangs has left, or one that never began."""
        with self._changed:
            self._abandoned = True
            left, self._in_flight, self._pending = [*self._in_flight, *self._pending], [], []
        self._pending = [record for record in left if not self._to_outbox(record)]

    # -- in the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        tries = 0
        while not self._abandoned:
            with self._changed:
                if not self._closing:
                    self._changed.wait_for(self._wanted, self._interval)
                self._asked, closing = False, self._closing
                batch, self._pending = self._pending, []
                self._in_flight, self._sending = batch, True
            began = self._clock()
            patient = closing or began >= self._not_before
            self._send(batch, patient)
            self._interval = self._next_interval(self._clock() - began)
            with self._changed:
                self._rounds, self._sending = self._rounds + 1, False
                self._changed.notify_all()
                done = not self._pending and not self.outbox
            if closing:
                tries += 1
                if done or tries >= _FINAL_TRIES:
                    return
                time.sleep(_FINAL_PAUSE)

    def _wanted(self) -> bool:
        return self._asked or self._closing

    def _send(self, batch: Sequence[Record], patient: bool) -> None:
        error = self.outbox.deliver(self._write) if patient and self.outbox else None
        kept: list[Record] = []
        for record in [*_joined(batch), *self._extra_samples(batch)]:
            if self._abandoned:
                return
            if patient and type(record).__name__ not in self.outbox.kinds():
                try:
                    self._write(record)
                    continue
                except CycleGANError as failure:
                    error = error or failure
            if not self._to_outbox(record):
                kept.append(record)
        with self._changed:
            if not self._abandoned:
                self._in_flight, self._pending = [], [*kept, *self._pending]
        if patient:
            self._told(error)

    def _next_interval(self, took: float) -> float:
        wanted = max(self._least, _SHARE * took, _EASING * self._interval)
        return min(wanted, max(_LONGEST_INTERVAL, self._least))

    def _told(self, error: CycleGANError | None) -> None:
        """Leave the store alone for a while, and say so once an outage."""
        if error is not None:
            if not self._failures:
                log.warning("%s; the records are kept and sent again later", error)
            pause = min(_FIRST_PAUSE * 2.0**self._failures, _LONGEST_PAUSE)
            self._failures += 1
            self._not_before = self._clock() + pause
        elif self._failures:
            self._failures = 0
            log.warning("run %s: the store accepts records again", self.run.name)

    def _write(self, record: Record) -> None:
        if self._abandoned:
            raise CycleGANError("too late")
        try:
            record.write(self.run)
        except CycleGANError:
            raise
        except Exception as error:
            # Whatever the error is, the thread must live on and the record must not be lost.
            name = type(error).__name__
            raise CycleGANError(f"run {self.run.name}: {name}: {first_line(error)}") from error
        self._progress += 1

    def _to_outbox(self, record: Record) -> bool:
        try:
            self.outbox.append(record)
        except CycleGANError as error:  # the disk does not take it either, so memory keeps it
            if not self._full:
                log.warning("run %s: %s; kept in memory", self.run.name, error)
            self._full = True
            return False
        self._progress += 1
        self._full = False
        return True

    def _extra_samples(self, batch: Sequence[Record]) -> Sequence[Samples]:
        samples = [s for record in batch if isinstance(record, Samples) for s in record.samples]
        if self._extra is None or not samples:
            return ()
        last = max(samples, key=lambda sample: sample.iteration)
        return (Samples((Sample(last.iteration, self._extra(), last.time_ms),)),)


def _joined(batch: Sequence[Record]) -> list[Record]:
    """Metrics in one request: the first `Samples` has those of all others, too."""
    samples = [record for record in batch if isinstance(record, Samples)]
    if len(samples) < 2:
        return list(batch)
    whole = Samples(tuple(sample for record in samples for sample in record.samples))
    first = next(i for i, record in enumerate(batch) if isinstance(record, Samples))
    rest = [record for record in batch if not isinstance(record, Samples)]
    return [*rest[:first], whole, *rest[first:]]


def _older(waiting: Record, text: Text) -> bool:
    return isinstance(waiting, Text) and waiting.name == text.name
