"""Atomic file writing: a file under its final name is always complete.

A file is written under a temporary name beside the target, flushed to the disk, then renamed. A
crash, a full disk or a kill leaves the old file as it was, or none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from cyclegan.errors import CycleGANError, DataError

_FULL = "{path}: the disk is full; free some space and run again"
_NO_SPACE = 1 << 20


def refuse_overwrite(path: Path, overwrite: bool) -> None:
    """Raise `DataError` if `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise DataError(f"{path} already exists; name another file or add --overwrite")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    Errors: `CycleGANError` in one line for a full disk or a folder without write permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path) from error
    except RuntimeError as error:
        # HDF5 and PyTorch rephrase the operating system's error, or leave it out.
        if "errno = 28" in str(error) or shutil.disk_usage(path.parent).free < _NO_SPACE:
            raise CycleGANError(_FULL.format(path=path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # a folder that could not be made has nothing to remove
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> CycleGANError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "errno = 28" in str(error):
        return CycleGANError(_FULL.format(path=path))
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return CycleGANError(f"{path}: no permission to write there; choose another folder")
    return CycleGANError(f"{path}: writing failed: {error}")
