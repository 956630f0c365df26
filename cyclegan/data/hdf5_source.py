"""Find, open and read datasets in HDF5 and NeXus files, with errors that help."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that beamlines write with)
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.nexus import child, default_volumes
from cyclegan.errors import DataError
from cyclegan.files import printable, shell_word, why_missing

logger = logging.getLogger(__name__)

_LISTED = 12


def open_dataset(path: Path, dset: str) -> h5py.Dataset:
    """Open a real-valued dataset, (Z, Y, X) or (C, Z, Y, X); the caller closes its file.

    `dset` may lead through soft and external links. A group, or the name `data` if the root has
    none, stands for its default image as NeXus defines it.

    Errors: `DataError` for a missing or damaged file, a wrong name (with the names found), a link
    that leads nowhere, a compression filter that is not installed, or missing sources of a virtual
    dataset.
    """
    handle = open_file(path)
    try:
        dataset = find_dataset(handle, path, dset)
        check_sources(dataset, path, tuple((0, n) for n in dataset.shape))
    except DataError:
        handle.close()
        raise
    return dataset


def open_file(path: Path) -> h5py.File:
    """Open a file for reading. Errors: `DataError` if it is missing or not an HDF5 file."""
    fault = why_missing(path)
    if fault:
        raise DataError(f"{printable(path)}: {fault}")
    if path.is_dir():
        raise DataError(f"{path}: this is a folder; name an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: {_why_unreadable(path, error)}") from error


def _why_unreadable(path: Path, error: OSError) -> str:
    text = _one_line(error)
    if "unable to lock file" in text:
        return (
            "another program has this file open, probably to write it; try again when it is done "
            "(if none has it open, the file system can't lock: set HDF5_USE_FILE_LOCKING=FALSE)"
        )
    if "already open for" in text:
        return (
            "a program is writing this file, or was killed while it was; try again when it is "
            f"done, or if none writes it, mark it as closed: h5clear -s {shell_word(path)}"
        )
    return f"not a readable HDF5 file (truncated, or another format): {text}"


def find_dataset(handle: h5py.File, path: Path, dset: str, *, most_axes: int = 4) -> h5py.Dataset:
    """Find a dataset in an open file, as `open_dataset` does, but ignore its virtual sources."""
    with explained(str(path)):
        item = _follow(handle, path, dset)
        if isinstance(item, h5py.Group) or (item is None and dset.strip("/") == "data"):
            item = _default(handle if item is None else item, path, dset) or item
        return _checked(item, handle, path, dset, most_axes)


def _checked(
    item: h5py.Dataset | h5py.Group | None, handle: h5py.File, path: Path, dset: str, most_axes: int
) -> h5py.Dataset:
    if isinstance(item, h5py.Group):
        raise DataError(
            f"{path}: '{dset}' is a group that names no default image; {_names_found(handle, dset)}"
        )
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{path}: no dataset '{dset}'; {_names_found(handle, dset)}")
    _check_kind(item, path, dset, most_axes)
    _check_filters(item, path, dset)
    return item


def check_sources(dataset: h5py.Dataset, path: Path, region: tuple[tuple[int, int], ...]) -> None:
    """Raise `DataError` if `region` of a virtual dataset needs a file that is missing."""
    missing = missing_sources(dataset, region)
    if missing:
        raise DataError(
            f"{path}:{dataset.name}: {len(missing)} sources of this virtual dataset are missing, "
            f"the first is {missing[0]}; HDF5 would read fill values there: put the files back, "
            "or take a ROI without them"
        )


def _follow(handle: h5py.File, path: Path, dset: str) -> h5py.Dataset | h5py.Group | None:
    """Return the object `dset`, or None; follow link by link, to name one that leads nowhere."""
    item: Any = handle
    for part in filter(None, dset.split("/")):
        if not isinstance(item, h5py.Group):
            return None
        link = item.get(part, getlink=True)
        try:
            found = item.get(part)
            error: Exception | None = None
        except (OSError, RuntimeError, ValueError) as caught:
            found, error = None, caught
        if found is None and isinstance(link, h5py.ExternalLink):
            raise DataError(_broken_link(path, dset, link)) from error
        if found is None and isinstance(link, h5py.SoftLink):
            raise DataError(
                f"{path}: '{dset}' is a soft link to '{link.path}', which leads nowhere; "
                f"{_names_found(handle, dset)}"
            ) from error
        if found is None:
            return None
        item = found
    return item


def _broken_link(path: Path, dset: str, link: h5py.ExternalLink) -> str:
    what = f"{path}: '{dset}' is an external link to '{link.path}' in '{link.filename}', which"
    for target in find_files(path, link.filename, "HDF5_EXT_PREFIX"):
        try:
            h5py.File(target, "r").close()
        except OSError as error:
            return f"{what} can't be read: {_why_unreadable(target, error)}"
    return f"{what} is not there; put that file back or name another dataset"


def _default(group: h5py.Group, path: Path, dset: str) -> h5py.Dataset | None:
    candidates = default_volumes(group)
    names = sorted(c.name for c in candidates)
    if len(names) > 1:
        raise DataError(f"{path}: '{dset}' could be any of {', '.join(names)}; name one of them")
    if not candidates:
        return None
    logger.info("%s: '%s' is read from the NeXus default %s", path, dset, names[0])
    return candidates[0]


def _check_kind(dataset: h5py.Dataset, path: Path, dset: str, most_axes: int) -> None:
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}:{dset}: NumPy does not know the type of its voxels") from error
    if dataset.shape is None or not 3 <= dataset.ndim <= most_axes or dtype.kind not in "fiu":
        raise DataError(
            f"{path}:{dset} must be a real 3D array, (Z, Y, X) or (C, Z, Y, X), but is {dtype} "
            f"{dataset.shape}" + ("; save a mask as uint8" if dtype.kind == "b" else "")
        )
    if 0 in dataset.shape:
        raise DataError(f"{path}:{dset}: the dataset is empty, its shape is {dataset.shape}")


def _check_filters(dataset: h5py.Dataset, path: Path, dset: str) -> None:
    plist = dataset.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(index)
        if not h5py.h5z.filter_avail(code):
            shown = name.decode(errors="replace") or "unnamed"
            raise DataError(
                f"{path}:{dset}: compressed with the HDF5 filter {code} ({shown}), which is not "
                "installed here; install its plugin and set HDF5_PLUGIN_PATH, or repack the file"
            )


def volume_names(handle: h5py.File) -> list[str]:
    """Return the names of all real datasets of three or more axes, each once; follow links."""
    names: list[str] = []
    seen: set[h5py.h5g.GroupID] = set()
    waiting: list[tuple[str, h5py.Group]] = [("", handle)]
    while waiting:
        prefix, group = waiting.pop(0)
        for key in group:
            item = child(group, key)
            if item is None or item.id in seen:
                continue
            seen.add(item.id)  # stays open: else an external file could come back as another
            if isinstance(item, h5py.Group):
                waiting.append((f"{prefix}{key}/", item))
            elif isinstance(item, h5py.Dataset) and item.ndim >= 3 and _is_real(item):
                names.append(f"{prefix}{key}")
    return names


def _is_real(dataset: h5py.Dataset) -> bool:
    try:
        return dataset.dtype.kind in "fiu"
    except (TypeError, ValueError):  # a type that NumPy does not know
        return False


def _names_found(handle: h5py.File, wanted: str) -> str:
    wanted = wanted.strip("/")
    # A wrong group is as likely as a wrong name, so both are compared.
    names = sorted(volume_names(handle), key=lambda name: -_similarity(name, wanted))
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"datasets found: {', '.join(names[:_LISTED]) or 'none'}{more}"


def _similarity(name: str, wanted: str) -> float:
    pairs = ((name, wanted), (name.rsplit("/", 1)[-1], wanted.rsplit("/", 1)[-1]))
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def read_part(dataset: h5py.Dataset, index: tuple[Any, ...], name: str) -> NDArray[Any]:
    """Return `dataset[index]`. Errors: `DataError` that calls the damaged dataset `name`."""
    with explained(name):
        return np.asarray(dataset[index])


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the errors that h5py raises for damaged files into a `DataError` about `name`."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, OverflowError) as error:
        raise DataError(
            f"{name}: reading failed, the file is damaged: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class SharedFile:
    """The one open handle that a process has for a file, shared by all volumes in it.

    A forked child opens its own: the parent's belongs to caches and threads that it doesn't have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = open_file(path)
        self._pid = os.getpid()

    @classmethod
    def of(cls, path: Path) -> SharedFile:
        """Return the handle of `path`; a file that was replaced on disk is another file."""
        key = file_key(path)
        with _opening:
            shared = _shared.get(key)
            if shared is None:
                shared = _shared[key] = cls(path)
            return shared

    @property
    def handle(self) -> h5py.File:
        """The open file of this process."""
        if self._pid != os.getpid():
            self._handle.close()
            self._handle, self._pid = open_file(self.path), os.getpid()
        return self._handle


_shared: weakref.WeakValueDictionary[tuple[object, ...], SharedFile] = weakref.WeakValueDictionary()
_opening = threading.Lock()


def file_key(path: Path) -> tuple[object, ...]:
    """Return what identifies a file's content: real path, size, time of last change and inode."""
    fault = why_missing(path)
    if fault:
        raise DataError(f"{printable(path)}: {fault}")
    stat = path.stat()
    return os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino


def open_with_cache(file: h5py.File, name: str, nbytes: int, chunks: int) -> h5py.Dataset:
    """Open a dataset with a cache of `nbytes` bytes for `chunks` chunks.

    HDF5 sizes a dataset's cache when it is first opened, so no other object may have it open.
    """
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    # Ten or more slots per chunk keep collisions rare (H5Pset_chunk_cache); 0.75 is the default.
    access.set_chunk_cache(max(521, 10 * chunks + 1), nbytes, 0.75)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


Box = tuple[tuple[int, int], ...]
"""[start, end) along every axis of the dataset."""


def source_files(dataset: h5py.Dataset) -> list[Path]:
    """Return the source files of a virtual dataset; none for other datasets."""
    if not dataset.is_virtual:
        return []
    names = sorted({source.file_name for source in dataset.virtual_sources()})
    return [path for name in names for path in _found(dataset, name)]


def missing_sources(dataset: h5py.Dataset, region: Box) -> list[str]:
    """Return missing sources of `region` of a virtual dataset, as `file` or `file:dataset`."""
    needed: dict[str, set[str]] = {}
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if _intersects(source.vspace, region):
            needed.setdefault(source.file_name, set()).add(source.dset_name)
    return [text for name in sorted(needed) for text in _missing(dataset, name, needed[name])]


def _missing(dataset: h5py.Dataset, name: str, wanted: set[str]) -> Iterator[str]:
    found = _found(dataset, name)
    if not found:
        yield name
        return
    for path in found:
        try:
            with h5py.File(path, "r") as handle:
                # printf-style names stand for any number of datasets.
                yield from (f"{path}:{d}" for d in wanted if "%b" not in d and d not in handle)
        except OSError as error:
            yield f"{path} ({_why_unreadable(path, error)})"


def _found(dataset: h5py.Dataset, name: str) -> list[Path]:
    own = Path(dataset.file.filename)
    return [own] if name == "." else find_files(own, name, "HDF5_VDS_PREFIX")


def find_files(own: Path, name: str, variable: str) -> list[Path]:
    """Return the files that the file `own` calls `name`, as HDF5 finds them; none if missing.

    It looks in the folder of the environment variable `variable`, then in that of `own` (of a link
    and of its target) and in the working directory. See H5Pset_virtual_prefix and
    H5Pset_elink_prefix in the HDF5 reference.
    """
    prefix = os.environ.get(variable, "").replace("${ORIGIN}", str(own.parent))
    folders = [Path(prefix)] if prefix else []
    folders += [own.parent, Path(), Path(os.path.realpath(own)).parent]
    for folder in folders:
        path = folder / name  # an absolute name stays as it is
        if "%b" in name:
            several = sorted(path.parent.glob(path.name.replace("%b", "*")))
            if several:
                return several
        elif path.is_file():
            return [path]
    return []


def _intersects(space: h5py.h5s.SpaceID, region: Box) -> bool:
    try:
        low, high = space.get_select_bounds()
    except (RuntimeError, ValueError):  # an unlimited selection has no bounds
        return True
    return all(
        first < end and start <= last
        for first, last, (start, end) in zip(low, high, region, strict=True)
    )
