"""Atomic file writing: a file under its final name is always complete.

A file is written under a temporary name beside the target, flushed to the disk, then renamed. A
crash, a full disk or a kill leaves the old file as it was, or none. The temporary file that a
killed process leaves is removed by the next process that writes into the folder: its name tells
which process made it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shlex
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cyclegan.errors import CycleGANError, DataError

_FULL = "{path}: the disk is full; free some space and run again"
_NO_SPACE = 1 << 20
_NO_FILE = "no such file"
_LONGEST_NAME = 255
"""Most bytes of a file's name."""
_swept: set[tuple[int, Path]] = set()
"""Processes (a fork has its parent's set) and folders that they have swept."""


def refuse_overwrite(path: Path, overwrite: bool) -> None:
    """Raise `DataError` if `path` can't be made, or exists and may not be replaced.

    A folder never may.
    """
    check_name(path)
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder; name a file")
    if path.exists() and not overwrite:
        raise DataError(f"{path} already exists; name another file or add --overwrite")


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are folders, inputs, or one another; call it before anything is computed.

    `outputs` are paths by what they will hold, e.g. `the report`. Errors: `DataError`.
    """
    given = list(inputs)
    names = list(outputs)
    for i, name in enumerate(names):
        path = outputs[name]
        check_name(path)
        if path.is_dir():
            raise DataError(f"{str(path)!r} is a folder, but {name} is a file; name a file")
        if any(same_file(path, other) for other in given):
            raise DataError(f"{path}: {name} would replace this input; name another output")
        for other in names[:i]:
            if same_file(path, outputs[other]):
                raise DataError(
                    f"{path} would be both {other} and {name}; name the output with another ending"
                )


def check_name(path: Path) -> None:
    """Raise `DataError` if no file can be at `path`.

    Its name is too long, links loop, or one of its folders is a file.
    """
    fault = why_missing(path)
    if fault and not fault.startswith(_NO_FILE):
        raise DataError(f"{printable(path)}: {fault}")
    there = next((folder for folder in path.parents if folder.exists()), None)
    if there is not None and not there.is_dir():
        raise DataError(f"{printable(path)}: {there} is a file, not a folder; name another place")


def why_missing(path: Path) -> str | None:
    """Return why nothing can be read at `path`, as a predicate; None if there is something."""
    try:
        path.stat()
    except ValueError:  # the operating system's names end at a null byte
        return "its name contains a null byte; correct it"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a symbolic link that leads back to itself; replace it"
        if error.errno == errno.ENAMETOOLONG:
            return f"its name is too long ({_LONGEST_NAME} bytes are allowed); shorten it"
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return f"can't be read: {error.strerror}"
        if path.is_symlink():
            return f"{_NO_FILE}, but a symbolic link to {path.readlink()}, which is not there"
        return _NO_FILE
    return None


def printable(path: Path) -> str:
    """Return the path for a message, without null bytes and others that no terminal shows."""
    return str(path) if str(path).isprintable() else repr(str(path))


def shell_word(path: Path | str) -> str:
    """Return a path as one word of a shell's command, also if it would look like an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def same_file(one: Path, other: Path) -> bool:
    """Return True if both paths lead to one file, by whatever spelling, link or hard link."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or one.samefile(other)
    except (OSError, ValueError):  # one of them does not exist, or could not (a null byte)
        return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`.

    Errors: `CycleGANError` in one line for a full disk or a folder without write permission.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
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


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Errors: `CycleGANError` in one line, as of `replacing`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, path) from error


def _temporary(path: Path) -> Path:
    end = f".{_machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
    start = os.fsdecode(os.fsencode(path.name)[: _LONGEST_NAME - len(end) - 1])
    return path.with_name(f".{start}{end}")


@functools.cache
def _machine() -> str:
    """Return a name for the host and, in a container, for its processes' numbers."""
    host = re.sub("[^A-Za-z0-9]", "-", socket.gethostname())[:32]
    try:
        return f"{host}-{Path('/proc/self/ns/pid').stat().st_ino:x}"
    except OSError:  # not Linux
        return host


def _sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes of this machine, once in each process."""
    if (os.getpid(), folder.absolute()) in _swept:
        return
    _swept.add((os.getpid(), folder.absolute()))
    for path in folder.glob(f".*.{_machine()}.*.part"):
        parts = path.name.rsplit(".", 4)
        if parts[1] == _machine() and parts[2].isdecimal() and not _lives(int(parts[2])):
            with contextlib.suppress(OSError):
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


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
