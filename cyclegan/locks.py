"""Lock files, and the only place that locks any: no killed process leaves a lock behind.

Every lock is one `flock` of an open file. The operating system drops it when the last handle of
that opening is closed, so also when its process is killed; a child made by `fork` holds it, too.
Two openings of one file are strangers to each other, even within one process. The files stay on
the disk unless their holder removes them.

This is built on `fcntl` and not on the package `filelock`, which PyTorch brings along, because:

- `filelock` waits by asking every 50 ms. Four workers that append to one journal get half as much
  done, and wait up to 250 ms rather than 15 ms for their turn. `flock` queues them in the kernel.
- `FileLock` refuses folders, symbolic links and files that it may only read, and makes the file.
  The runs of a store are guarded by the lock of its folder, and whoever only asks whether a lock is
  held (`is_free`) must neither make nor need to write anything.
- `FileLock` opens its file by itself, so that no holder can write its process number into it.
- Where the file system knows no `flock`, `FileLock` makes do with a file that a killed process
  leaves behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cyclegan.errors import BusyError, CycleGANError


class FileLock:
    """The lock file `path`, taken and given back by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Tell whether this object holds the lock."""
        return self._file is not None

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock, after whoever holds it now; without `wait` return False if anybody does.

        The file is made if it does not exist. If its holder removes it, it is made anew, with its
        folder.

        Errors: `OSError` if the file can't be opened or locked, `CycleGANError` if its file system
        has no locks.
        """
        while True:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(self.path.open("a"))
                if not _lock(file, self.path, wait=wait):
                    return False
                if _is_at(file, self.path):
                    stack.pop_all()
                    self._file = file
                    return True
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def release(self) -> None:
        """Give the lock back; do nothing if it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextlib.contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after whoever holds it now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def at_once(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`; its folder must exist.

    Errors: `BusyError` with the message `busy` if anybody else holds it.
    """
    lock = FileLock(path)
    if not lock.acquire(wait=False):
        raise BusyError(busy)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for this process; `what` names the thing in the error.

    Errors: `BusyError` at once if another process holds it, with the number of that process, which
    stands in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        if not _lock(handle, path, wait=False):
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise BusyError(f"{what} is in use by process {owner}; wait for it or stop it first")
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes of this host out of the block if they name the same folder.

    If the folder does not exist or can't be locked, hold nothing.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, CycleGANError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            _lock(descriptor, folder, wait=True)
        yield


def is_free(path: Path) -> bool:
    """Return True if no process holds the lock file `path`, or if it does not exist."""
    try:
        with path.open() as handle:
            return _lock(handle, path, wait=False)
    except FileNotFoundError:
        return True


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Answers of file systems without locks: Lustre without the option `flock`, some FUSE and NFS."""


def _lock(file: int | IO[str], path: Path, *, wait: bool) -> bool:
    """Lock an open file until it is closed; without `wait` return False if it is locked already.

    Errors: `CycleGANError` if its file system has no locks. A file that only stands for a lock
    would be no way out: a killed process would leave it, and SQLite needs locks as well.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise CycleGANError(
            f"{path.parent}: its file system has no file locks ({error.strerror}), and without "
            "them two processes could destroy each other's data; have it mounted with locks "
            "(Lustre: option flock), or move the project to another disk"
        ) from error
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
