"""HDF5 writing in which a full disk is an error and not a crash.

Once a write has failed, the HDF5 library fails again while it closes the file and can take the
whole process down (seen on a full tmpfs: segmentation fault at exit). Here it writes through a
Python file that remembers the first error, reports success to HDF5 until the file is closed, and
then raises that error.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py


@contextlib.contextmanager
def writing_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield a new HDF5 file at `path`, and a function that raises the first error so far.

    Errors: the first `OSError` of a write, from that function or at the end.
    """
    with path.open("w+b") as raw:
        file = _CheckedFile(raw)
        try:
            with h5py.File(file, "w") as handle:
                yield handle, file.check
        finally:
            file.check()


class _CheckedFile:
    """A binary file for h5py whose writes never fail; `check` raises the first failure."""

    def __init__(self, raw: io.BufferedRandom) -> None:
        self._raw = raw
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        """Write `data`, unless a write has failed before."""
        if self._error is None:
            try:
                self._raw.write(data)
                self._raw.flush()  # otherwise a full disk only shows when the buffer is written
            except OSError as error:
                self._error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; after a failed write they are zeros."""
        return self._raw.read(size) if self._error is None else bytes(max(size, 0))

    def readinto(self, buffer: memoryview) -> int:
        """Read into `buffer`; after a failed write it gets zeros."""
        if self._error is not None:
            buffer[:] = bytes(len(buffer))
            return len(buffer)
        return self._raw.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset`."""
        return self._raw.seek(offset, whence) if self._error is None else offset

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file to `size` bytes."""
        if self._error is None:
            try:
                return self._raw.truncate(size)
            except OSError as error:
                self._error = error
        return size or 0

    def flush(self) -> None:
        """Do nothing: every write is flushed at once."""
