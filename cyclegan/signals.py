"""Signals by which somebody asks this process to end in order.

They are SIGTERM, and SIGUSR1 and SIGUSR2, which batch systems send some time before they end a job.
All three mean the same: finish the step, write a checkpoint, leave. Often one comes twice, because
the batch system sends it to every process of a job and each process also passes it on; so only the
first one counts. Somebody who is impatient presses Ctrl-C twice, or sends SIGKILL.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""The signals that ask for an orderly end, as far as this system has them."""

_came: list[int] = []
"""Those that this process has had."""


def interrupt_on_ending() -> None:
    """Let the first signal of `ENDING` raise `KeyboardInterrupt`, and ignore the others.

    Signals that came earlier are delivered now if whoever started this process had blocked them.
    """
    _came.clear()

    def interrupt(number: int, frame: FrameType | None) -> None:
        _came.append(number)
        if len(_came) == 1:
            raise KeyboardInterrupt

    for number in ENDING:
        signal.signal(number, interrupt)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back the signals of `ENDING` inside the block.

    A process that is started there is born with them held back, until it calls
    `interrupt_on_ending`: a signal can't kill it before it has a handler.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Call `handler` on Ctrl-C and on the signals of `ENDING` inside the block.

    Outside of the main thread, which alone gets signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            _came.append(number)
        handler(number, frame)

    numbers = (signal.SIGINT, *ENDING)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)
