"""Writing HDF5 so that a full disk is an error and not a crash.

The HDF5 library, once a write has failed, fails again while it closes the file and can take the
whole process down with it (seen on a full tmpfs: segmentation fault at exit). Here it writes
through a Python file that remembers the first error, lets HDF5 believe that all is well until it
has closed the file, and raises then.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py


@contextlib.contextmanager
def writing_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file at `path`, and a function that raises what went wrong with it so far.

    Errors: the first `OSError` of a write, when asked for or at the end.
    """
    with path.open("w+b") as raw:
        file = _Remembering(raw)
        try:
            with h5py.File(file, "w") as handle:
                yield handle, file.check
        finally:
            file.check()


class _Remembering:
    """A binary file for h5py whose writes never fail; the first failure waits in `check`."""

    def __init__(self, raw: io.BufferedRandom) -> None:
        self._raw = raw
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        """Write, unless something went wrong before."""
        if self._error is None:
            try:
                self._raw.write(data)
                self._raw.flush()  # else a full disk shows only when the buffer is written
            except OSError as error:
                self._error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read back; what could not be written reads as zeros."""
        return self._raw.read(size) if self._error is None else bytes(max(size, 0))

    def readinto(self, buffer: memoryview) -> int:
        """Read back; what could not be written reads as zeros."""
        if self._error is not None:
            buffer[:] = bytes(len(buffer))
            return len(buffer)
        return self._raw.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset`."""
        return self._raw.seek(offset, whence) if self._error is None else offset

    def tell(self) -> int:
        """The position."""
        return self._raw.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        if self._error is None:
            try:
                return self._raw.truncate(size)
            except OSError as error:
                self._error = error
        return size or 0

    def flush(self) -> None:
        """Nothing waits: every write is flushed."""
