"""Work that grows with a study, in so far as its workers have time for it.

After every trial a worker renews the table of trials in the study's run, removes checkpoints that
nobody needs, and sums up sizes of files. With thousands of trials each of these takes seconds, and
with hundreds of workers somebody does it all the time: more than the store and the disk can bear.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
SHARE = 20.0
"""All workers together spend at most one part in this many of their time on a piece of work."""
_AT_ONCE = 1.0
"""Seconds of all workers together for a piece of work that is never put off."""


class Paced(Generic[T]):
    """A piece of work that is put off while it would take too much of the workers' time.

    Args:
        work: does it, and returns what it found.
        clock: returns seconds since some moment; nobody must be able to set it.
    """

    def __init__(self, work: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._ended = self._took = 0.0
        self._found: list[T] = []
        self.is_put_off = False
        """True if it was put off since it was last done."""

    def result(self, workers: int = 1) -> T:
        """Return what the work finds, or found when it was last done if it is put off.

        `workers`: how many processes do the same.
        """
        together = self._took * max(workers, 1)
        early = self._clock() - self._ended < SHARE * together
        self.is_put_off = bool(self._found) and together > _AT_ONCE and early
        return self._found[0] if self.is_put_off else self.done()

    def catch_up(self) -> None:
        """Do the work now if it was put off when it was last asked for."""
        if self.is_put_off:
            self.done()

    def done(self) -> T:
        """Do the work now, and return what it finds."""
        began = self._clock()
        self._found = [self._work()]
        self._ended = self._clock()
        self._took = self._ended - began
        self.is_put_off = False
        return self._found[0]
