"""Name the process that writes a run, so that one left RUNNING by a dead process can be told.

A process is named by host, boot, number and start time; a number alone is given out again. The
names are stored with the runs, so their form stays.

This does not use psutil. It knows no name for a boot. It gives start times on the wall clock: a
correction of the clock moves them, and a living process would be taken for a dead one. Where there
is no /proc, its `pid_exists` asks for no more than `_answers` does, or on Linux needs /proc itself.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

PROCESS = "process"
"""Tag of a run that names the process writing it."""
_PROC = Path("/proc")


def this_process() -> str:
    """Return the name of this process, which no other process has."""
    return _name(os.getpid())


def is_alive(process: str) -> bool | None:
    """Return True if the process of that name lives; None if this host can't tell."""
    parts = process.split("/")
    if len(parts) != 4 or parts[:2] != [socket.gethostname(), boot_id()]:
        return None
    if not parts[3]:  # no /proc on this system: only the process id is known
        return _answers(int(parts[2]))
    return _name(int(parts[2])) == process


def boot_id() -> str:
    """Return a name for the time since this machine was started; empty if it is not Linux."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _name(pid: int) -> str:
    return f"{socket.gethostname()}/{boot_id()}/{pid}/{_start(pid)}"


def _start(pid: int) -> str:
    """Return the clock ticks from boot to the start of `pid`; empty if it is gone or a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
