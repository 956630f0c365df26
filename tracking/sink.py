"""Between the training and the store: entries wait here until the store has taken them.

```
TrackingCallback --put(entry)--> Sink --flush()--> Run --> MLflow
```
A training must not die, or wait, because its store does: what can't be written is kept and tried
again at a later flush. Entries are plain data and writing one twice leaves one, so that they could
as well wait in another thread or on the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import CycleGANError
from tracking.points import Sample
from tracking.run import Run, Status

log = logging.getLogger(__name__)

# After a failure the store is left alone for this many times as long as the failure took: a server
# that hangs costs a training a tenth of its time at most.
_BACK_OFF = 10.0
_FINAL_TRIES = 3
_FINAL_PAUSE = 1.0


class Entry(Protocol):
    """Something to be written."""

    def write(self, run: Run) -> None:
        """Write it; `CycleGANError` if the store fails."""


@dataclass(frozen=True)
class Samples:
    """Metrics of some iterations."""

    samples: tuple[Sample, ...]

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_rows(self.samples)


@dataclass(frozen=True)
class Params:
    """Parameters; nested mappings become dotted names."""

    values: Mapping[str, Any]

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_params(self.values)


@dataclass(frozen=True)
class Tags:
    """Tags, set or replaced."""

    values: Mapping[str, str]

    def write(self, run: Run) -> None:  # noqa: D102
        run.set_tags(self.values)


@dataclass(frozen=True)
class Picture:
    """A picture of a series, uint8 (Y, X) or (Y, X, 3)."""

    image: NDArray[np.uint8]
    key: str
    step: int

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_image(self.image, self.key, self.step)


@dataclass(frozen=True)
class Text:
    """A text artifact, written anew."""

    text: str
    name: str

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_text(self.text, self.name)


@dataclass(frozen=True)
class Attachment:
    """A file to be copied among the artifacts; it must stay until it is written."""

    path: Path
    folder: str

    def write(self, run: Run) -> None:  # noqa: D102
        run.log_file(self.path, self.folder)


@dataclass(frozen=True)
class End:
    """The run's last status."""

    status: Status
    reason: str

    def write(self, run: Run) -> None:  # noqa: D102
        run.finish(self.status, self.reason)


class Sink:
    """Writes entries to a run in the order they came, and outlives the store's failures.

    `clock` gives seconds; it only measures how long failures take.
    """

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self.run = run
        self._clock = clock
        self._waiting: list[Entry] = []
        self._not_before = -float("inf")

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    def put(self, *new: Entry) -> None:
        """Take entries; nothing is written before `flush`.

        A text replaces one of the same name that still waits.
        """
        for entry in new:
            if isinstance(entry, Text):
                self._waiting = [w for w in self._waiting if not _older(w, entry)]
            self._waiting.append(entry)

    def flush(self) -> bool:
        """Try to write what waits; whether nothing is left. Failures are warned of, not raised.

        After a failure entries of the same kind are not tried again in this flush: they would
        overtake the failed one, and a full disk for pictures must not hold up metrics.
        """
        if not self._waiting or self._clock() < self._not_before:
            return not self._waiting
        begin, failed, left = self._clock(), dict[type, CycleGANError](), list[Entry]()
        for entry in self._waiting:
            if type(entry) not in failed:
                try:
                    entry.write(self.run)
                    continue
                except CycleGANError as error:
                    failed[type(entry)] = error
            left.append(entry)
        self._waiting = left
        if failed:
            end = self._clock()
            self._not_before = end + _BACK_OFF * (end - begin)
            log.warning("%s; kept, and tried again later", next(iter(failed.values())))
        return not left

    def close(self) -> bool:
        """Flush for the last time, with some patience; whether everything is in the store."""
        for attempt in range(_FINAL_TRIES):
            self._not_before = -float("inf")
            if self.flush():
                return True
            if attempt < _FINAL_TRIES - 1:
                time.sleep(_FINAL_PAUSE)
        log.warning(
            "run %s (%s): %d entries did not reach the tracking store; resuming the training from "
            "its checkpoint writes the metrics that are missing",
            self.run.name,
            self.run.id,
            len(self._waiting),
        )
        return False


def _older(waiting: Entry, text: Text) -> bool:
    return isinstance(waiting, Text) and waiting.name == text.name
