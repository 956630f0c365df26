"""Run a command that ends with the process that started it, even if that process is killed.

    python exit_with_parent.py COMMAND ...    with a pipe from the starter as standard input

The pipe closes when the starter ends, however it ends. Then the command and its children get
SIGTERM, and SIGKILL if they don't end. This file is run by its path, so it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

RETRY_SECONDS = 10.0
"""Seconds between SIGTERM and SIGKILL."""


def main(command: list[str]) -> None:
    """Run `command` in this process's group, then exit with its exit code."""
    # A signal to the group is meant for the command; this process waits for the command to end.
    # Not SIG_IGN: the command would inherit it.
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
        process.wait(RETRY_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
