"""Temporary files of this process, and the removal of those that killed processes left.

All of them lie in one folder in the system's folder for temporary files, `cyclegan-<process>`. It
is removed when the process ends. What a killed process left is removed by the next one that makes
such a folder or tidies up the store.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from tracking.process import is_alive, this_process

_PREFIX = "cyclegan-"


def scratch_folder() -> Path:
    """Return a new folder of this process for files that nobody needs once it has ended."""
    name = f"{_PREFIX}{quote(this_process(), safe='')}"
    root = Path(tempfile.gettempdir()) / name
    if not root.exists():
        remove_dead_scratch()
        root.mkdir(mode=0o700, exist_ok=True)
        atexit.register(_remove, root, os.getpid())
    return Path(tempfile.mkdtemp(dir=root))


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder of this process that is removed when the block ends."""
    folder = scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_dead_scratch() -> None:
    """Remove the folders of processes that ended without removing theirs."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*%2F*"):
        if is_alive(unquote(path.name.removeprefix(_PREFIX))) is False:
            shutil.rmtree(path, ignore_errors=True)


def _remove(root: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a child made by `fork`
        shutil.rmtree(root, ignore_errors=True)
