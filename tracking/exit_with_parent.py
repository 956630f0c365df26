"""A command that does not outlive the process that started it, even if that one is killed.

    python leash.py COMMAND ...    with a pipe as standard input, held open by the starter

The pipe closes when the starter ends, however it ends; then the command and its children are asked
to end, and killed if they don't. This file is run by its path, so it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

PATIENCE = 10.0
"""Seconds to end in, once asked."""


def main(command: list[str]) -> None:
    """Run `command` in this process's group; ends with its exit code."""
    # A signal to the group is meant for the command, which this waits for. Not SIG_IGN: the
    # command would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def follow() -> None:
        code = process.wait()
        os._exit(code if code >= 0 else 128 - code)

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
