"""Waiting for a store that is away: a server that is restarted must not end a night's study."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cyclegan.errors import CycleGANError

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
