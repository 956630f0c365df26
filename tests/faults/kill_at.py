"""Run the command line and kill the process at its N-th durable event: `kill_at.py N ARGUMENT...`.

Durable events are what a crash can come before or after: a rename, an fsync, a hard link, a file
that is removed, and a commit of a database. Events of the process are counted from its start, in
all its threads. N = 0 counts them and prints the number to standard error.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

_lock = threading.Lock()
_count = 0


def main() -> None:
    """Patch the events, then run the command line."""
    number = int(sys.argv.pop(1))

    def happened() -> None:
        global _count
        with _lock:
            _count += 1
            if _count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            happened()
            return function(*arguments, **named)

        return call

    for name in ("rename", "replace", "fsync", "link", "unlink", "remove", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    event.listen(Engine, "commit", lambda connection: happened())
    if number == 0:
        atexit.register(lambda: sys.stderr.write(f"events {_count}\n"))

    from workbench.cli import main as command_line

    sys.argv[0] = "cyclegan"
    command_line()


if __name__ == "__main__":
    main()
