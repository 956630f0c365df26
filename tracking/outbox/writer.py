"""Between the training and the store: a thread of its own writes, the training never waits.

```
TrackingCallback --put(entry)--> Sink ===thread===> Run --> MLflow
                                   |  store is away
                                   `--> Journal on the disk --later--> Run
```
Entries are handed over in a batch every few seconds. What the store does not take goes to the
journal, and all later entries of its kind behind it, so that nothing overtakes. The store is tried
again from time to time, by the next start of any training, and by `cyclegan doctor`.

A process that is killed with -9 takes with it what is in memory: a batch of a few seconds. A
training that is resumed from its checkpoint writes that again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from cyclegan.errors import CycleGANError
from tracking.downsampling import Sample
from tracking.errors import first_line
from tracking.outbox.outbox import Journal
from tracking.outbox.records import End, Entry, Samples, Text
from tracking.run import Run

log = logging.getLogger(__name__)

INTERVAL = 3.0
"""Seconds between batches."""
# After a failure the store is left alone for a while, longer after each.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
_FINAL_TRIES, _FINAL_PAUSE = 3, 1.0
_PATIENCE = 75.0
"""Seconds without any progress after which the end of a training waits for its store no longer."""


class Sink:
    """Writes entries to a run in the order they came, and outlives the store's failures.

    Args:
        run: where to.
        journal: where what the store does not take waits.
        interval: seconds between batches.
        extra: more metrics for the last iteration of each batch, asked by the thread.
        clock: seconds; only for how long failures take.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal | None = None,
        *,
        interval: float = INTERVAL,
        extra: Callable[[], Mapping[str, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.journal = journal or run.journal()
        self.journal.acquire(wait=True)
        self.journal.drop(End)  # the run goes on
        self._interval, self._extra, self._clock = interval, extra, clock
        self._pending: list[Entry] = []
        self._in_flight: list[Entry] = []
        self._changed = threading.Condition()
        self._asked = self._sending = False
        self._closing = self._abandoned = False
        self._full = False  # the journal's disk; told once
        self._rounds = self._progress = self._failures = 0
        self._not_before = -float("inf")
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Entries that are not in the store."""
        with self._changed:
            return len(self._pending) + len(self._in_flight) + len(self.journal)

    def put(self, *new: Entry) -> None:
        """Take entries; a text replaces one of the same name that is not yet on its way."""
        with self._changed:
            for entry in new:
                if isinstance(entry, Text):
                    self._pending = [w for w in self._pending if not _older(w, entry)]
                self._pending.append(entry)
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
                return not self._pending and not self.journal
            wanted = self._rounds + (2 if self._sending else 1)
            self._asked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._rounds >= wanted, timeout)
        return not len(self)

    def last_iteration(self) -> int:
        """The last iteration of metrics that wait on the disk; 0 if there is none."""
        waiting = [w.read() for w in self.journal if w.kind == Samples.__name__]
        samples = [s for entry in waiting if isinstance(entry, Samples) for s in entry.samples]
        return max((sample.iteration for sample in samples), default=0)

    def unsent(self) -> list[Sample]:
        """Metrics that are neither in the store nor on the disk."""
        with self._changed:
            waiting = [*self._in_flight, *self._pending]
        return [s for entry in waiting if isinstance(entry, Samples) for s in entry.samples]

    def close(self) -> bool:
        """Send what is left, with some patience; whether everything is in the store.

        What is not waits in the journal, and a warning says so; also of what is lost, where the
        journal's disk took it no more than the store.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            self._join()
        finally:  # Ctrl-C, too: nobody waits, and nothing is lost
            self._rescue()
        waiting, lost = len(self.journal), len(self._pending)
        if waiting:
            log.warning(
                "run %s (%s): %d entries did not reach the tracking store; they wait in %s for the "
                "next training or 'cyclegan doctor'",
                *(self.run.name, self.run.id, waiting, self.journal.folder),
            )
        if lost:
            log.error(
                "run %s (%s): %d entries are lost: neither the tracking store nor %s took them",
                *(self.run.name, self.run.id, lost, self.journal.folder),
            )
        with contextlib.suppress(OSError):
            self.journal.close()
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
        self._pending = [entry for entry in left if not self._to_journal(entry)]

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
            patient = closing or self._clock() >= self._not_before
            self._send(batch, patient)
            with self._changed:
                self._rounds, self._sending = self._rounds + 1, False
                self._changed.notify_all()
                done = not self._pending and not self.journal
            if closing:
                tries += 1
                if done or tries >= _FINAL_TRIES:
                    return
                time.sleep(_FINAL_PAUSE)

    def _wanted(self) -> bool:
        return self._asked or self._closing

    def _send(self, batch: Sequence[Entry], patient: bool) -> None:
        error = self.journal.deliver(self._write) if patient and self.journal else None
        kept: list[Entry] = []
        for entry in [*_joined(batch), *self._extra_samples(batch)]:
            if self._abandoned:
                return
            if patient and type(entry).__name__ not in self.journal.kinds():
                try:
                    self._write(entry)
                    continue
                except CycleGANError as failure:
                    error = error or failure
            if not self._to_journal(entry):
                kept.append(entry)
        with self._changed:
            if not self._abandoned:
                self._in_flight, self._pending = [], [*kept, *self._pending]
        if patient:
            self._told(error)

    def _told(self, error: CycleGANError | None) -> None:
        """Leave the store alone for a while, and say so once an outage."""
        if error is not None:
            if not self._failures:
                log.warning("%s; kept, and tried again later", error)
            pause = min(_FIRST_PAUSE * 2.0**self._failures, _LONGEST_PAUSE)
            self._failures += 1
            self._not_before = self._clock() + pause
        elif self._failures:
            self._failures = 0
            log.warning("run %s: the store takes what it is given again", self.run.name)

    def _write(self, entry: Entry) -> None:
        if self._abandoned:
            raise CycleGANError("too late")
        try:
            entry.write(self.run)
        except CycleGANError:
            raise
        except Exception as error:
            # Whatever it is, the thread must live, and the entry must not be lost.
            name = type(error).__name__
            raise CycleGANError(f"run {self.run.name}: {name}: {first_line(error)}") from error
        self._progress += 1

    def _to_journal(self, entry: Entry) -> bool:
        try:
            self.journal.append(entry)
        except CycleGANError as error:  # the disk is full, too: memory is what is left
            if not self._full:
                log.warning("run %s: %s; kept in memory", self.run.name, error)
            self._full = True
            return False
        self._progress += 1
        self._full = False
        return True

    def _extra_samples(self, batch: Sequence[Entry]) -> Sequence[Samples]:
        samples = [s for entry in batch if isinstance(entry, Samples) for s in entry.samples]
        if self._extra is None or not samples:
            return ()
        last = max(samples, key=lambda sample: sample.iteration)
        return (Samples((Sample(last.iteration, self._extra(), last.time_ms),)),)


def _joined(batch: Sequence[Entry]) -> list[Entry]:
    """Metrics in one request: the first `Samples` has those of all others, too."""
    samples = [entry for entry in batch if isinstance(entry, Samples)]
    if len(samples) < 2:
        return list(batch)
    whole = Samples(tuple(sample for entry in samples for sample in entry.samples))
    first = next(i for i, entry in enumerate(batch) if isinstance(entry, Samples))
    rest = [entry for entry in batch if not isinstance(entry, Samples)]
    return [*rest[:first], whole, *rest[first:]]


def _older(waiting: Entry, text: Text) -> bool:
    return isinstance(waiting, Text) and waiting.name == text.name
