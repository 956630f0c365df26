"""Finished tiles on disk, so that a killed enhancement goes on where it was.

An HDF5 file that is being written can't be read after a kill. Finished tiles are therefore stored
in a folder beside the output, in two files that only grow:

```
out.h5.part/
  job.json        the job: output, input, model and tiles
  chunks.bin      compressed HDF5 chunks, one tile after the other
  journal.jsonl   for each finished tile: the place of its chunks, and their checksum
```

A tile counts as finished if its line in the journal is complete and the checksum agrees, whatever
the order in which the writes reached the disk. At the end the chunks are copied unchanged into the
HDF5 file, which is then renamed to its final name. Nothing is compressed twice, and each chunk is
written once because chunks never cross the border of a tile. For a moment the copy needs the disk
space of the compressed result a second time.

Several processes, on one host or on several, can share the tiles: each is a *shard* with the same
two files in a folder of its own, `out.h5.part/shard-2-of-4/`. The first to come writes `job.json`,
and with it the tiles, which therefore do not depend on anybody's free memory. The last one to end
puts all shards together.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.enhance.chunks import FILTERS, Compression
from cyclegan.errors import BusyError, DataError
from cyclegan.files import make_folder, replacing, write_text
from cyclegan.hdf5 import writing_hdf5
from cyclegan.locks import at_once, is_free, waiting_for

logger = logging.getLogger(__name__)

_SYNC_SECONDS = 5.0
_NAMES = ("job.json", "chunks.bin", "journal.jsonl", "lock")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Shape, chunks and compression of one dataset of the output."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    compression: Compression = "gzip"

    def create(self, file: h5py.File, name: str) -> Any:
        """Create the empty dataset."""
        return file.create_dataset(
            name,
            self.shape,
            dtype=np.float32,
            chunks=self.chunks,
            **FILTERS[self.compression],
        )


Entries = dict[int, dict[str, Any]]
"""Lines of a journal, by tile."""
Core = tuple[tuple[int, ...], NDArray[Any]]
"""Origin of an array in its dataset, and the array: whole chunks, or up to the dataset's end."""
Chunk = tuple[str, Sequence[int], int, bytes]
"""An encoded chunk: dataset, first voxel, filter mask, bytes."""


class PartStore:
    """The finished tiles of one output; see `resumable`."""

    def __init__(
        self, folder: Path, layouts: Mapping[str, Layout], shards: Sequence[Path] = ()
    ) -> None:
        self.folder = folder
        self.layouts = dict(layouts)
        self._chunks = (folder / "chunks.bin").open("a+b", buffering=0)
        self._journal = (folder / "journal.jsonl").open("a+b", buffering=0)
        self._entries = self._finished()
        self._shards = [_read_shard(path) for path in shards]
        self._synced = time.monotonic()

    @property
    def finished(self) -> set[int]:
        """Numbers of the finished tiles, also of those in the folders of shards."""
        return set(self._entries).union(*(entries for _, entries in self._shards))

    def add(self, tile: int, chunks: Sequence[Chunk]) -> None:
        """Store a finished tile. Errors: `OSError`, e.g. for a full disk."""
        data = b"".join(content for _, _, _, content in chunks)
        offset = self._chunks.seek(0, os.SEEK_END)
        _write_all(self._chunks, data)
        places = [[name, list(first), len(content), mask] for name, first, mask, content in chunks]
        entry = {"tile": tile, "offset": offset, "crc": zlib.crc32(data), "chunks": places}
        _write_all(self._journal, json.dumps(entry).encode() + b"\n")
        self._entries[tile] = entry
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush the finished tiles to disk, so that they survive a power failure, too."""
        for file in (self._chunks, self._journal):
            os.fsync(file.fileno())
        self._synced = time.monotonic()

    def write(self, path: Path, describe: Callable[[h5py.File], None]) -> None:
        """Write the HDF5 file from all tiles; `describe` adds everything that is not in them."""
        with writing_hdf5(path) as (file, check):
            self._copy_to(file, check)
            describe(file)

    def _copy_to(self, file: h5py.File, check: Callable[[], None]) -> None:
        datasets = {name: layout.create(file, name) for name, layout in self.layouts.items()}
        copied: set[int] = set()
        for chunks, entries in ((self._chunks, self._entries), *self._shards):
            for entry in sorted(entries.values(), key=lambda e: int(e["offset"])):
                if entry["tile"] in copied:
                    continue
                copied.add(entry["tile"])
                chunks.seek(entry["offset"])
                for name, place, size, mask in entry["chunks"]:
                    data = _read_exactly(chunks, size)
                    datasets[name].id.write_direct_chunk(tuple(place), data, filter_mask=mask)
                check()

    def close(self) -> None:
        """Close the files, which stay on disk."""
        self._chunks.close()
        self._journal.close()
        for chunks, _ in self._shards:
            chunks.close()

    def _finished(self) -> Entries:
        self._journal.seek(0)
        lines = self._journal.readall().split(b"\n")
        if lines[-1]:  # the last line was cut off: the next one must not be joined to it
            self._journal.write(b"\n")
        return _whole_entries(lines, self._chunks)


@contextlib.contextmanager
def resumable(
    output: Path, job: Mapping[str, Any], layouts: Mapping[str, Layout]
) -> Iterator[tuple[PartStore, Path]]:
    """Yield a store with the finished tiles of `output`, and a temporary path.

    The store is empty unless the tiles belong to the same `job`, which is plain JSON and holds
    everything that the result depends on. Tiles that another job left behind are removed, and the
    log says so. At the end the file at the path becomes `output`, and the finished tiles are
    removed. After an error the finished tiles stay, except after a `DataError`, because the next
    input will be another one.

    Errors: `BusyError` if another process is making this output; one line for a full disk.
    """
    folder = part_folder(output)
    busy = f"another process is making {output}; wait for it"
    make_folder(folder)
    with at_once(folder / "lock", busy):
        if any(not is_free(shard / "lock") for shard in _shards(folder)):
            raise BusyError(busy)
        with replacing(folder / output.name) as temporary:
            _prepare(folder, output, json.loads(json.dumps(job)))
            begun = [shard for shard in _shards(folder) if (shard / "journal.jsonl").exists()]
            store = PartStore(folder, layouts, begun)
            try:
                yield store, temporary
            except BaseException as error:
                _after(error, store, output)
                raise
            finally:
                store.close()
        (folder / output.name).replace(output)
        sync_folder(output.parent)
        discard(output)  # still under the lock: nobody may open what is being removed


def part_folder(output: Path) -> Path:
    """Return the folder of the finished tiles of `output`."""
    return output.with_name(f"{output.name}.part")


def discard(output: Path) -> None:
    """Remove the finished tiles of `output`."""
    shutil.rmtree(part_folder(output))


def sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _after(error: BaseException, store: PartStore, output: Path) -> None:
    if store.finished and not isinstance(error, DataError):
        logger.warning(
            "%d finished tiles stay in %s: the same command continues from there",
            *(len(store.finished), store.folder),
        )
    else:
        discard(output)


def described_job(output: Path) -> dict[str, Any]:
    """Return the job of the finished tiles of `output`; empty if there are none."""
    try:
        found = json.loads((part_folder(output) / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _prepare(folder: Path, output: Path, job: Any) -> None:
    described = folder / "job.json"
    same = described_job(output) == job
    if not same and described.exists():
        logger.warning(
            "removed %s: its tiles came from another input, model or setting than %s needs now",
            *(folder, output.name),
        )
    for path in folder.iterdir():
        kept = path.name in _NAMES or path.name.startswith(_SHARD)
        if path.name not in ("lock", _AGREEING) and not (same and kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not same:
        write_text(described, json.dumps(job, indent=1))


def _whole_entries(lines: Sequence[bytes], chunks: io.FileIO) -> Entries:
    """Return the entries whose chunks are there, as their checksums tell."""
    entries: Entries = {}
    for line in lines:
        try:
            entry = json.loads(line)
            chunks.seek(entry["offset"])
            data = _read_exactly(chunks, sum(size for _, _, size, _ in entry["chunks"]))
        except (ValueError, EOFError):
            continue
        if zlib.crc32(data) == entry["crc"]:
            entries[entry["tile"]] = entry
    return entries


# -- Shards: several processes that share the tiles of one output ------------------------------

_SHARD = "shard-"
_AGREEING = "agree.lock"


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the tiles of an output: `number` of `count`, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number} of {self.count}"

    def takes(self, tile: int, tiles: int) -> bool:
        """Return True if it computes tile number `tile` of `tiles`; its tiles are neighbours."""
        return tile * self.count // tiles == self.number - 1


@contextlib.contextmanager
def agreeing(output: Path) -> Iterator[None]:
    """Hold the lock under which shards agree on the job of an output."""
    folder = part_folder(output)
    make_folder(folder)
    with waiting_for(folder / _AGREEING):
        yield


def agree(output: Path, job: Mapping[str, Any]) -> None:
    """Make `job` that of the output's tiles, unless it is already; call it inside `agreeing`.

    Tiles of another job are removed.

    Errors: `BusyError` if a living process is making those.
    """
    folder, plain = part_folder(output), json.loads(json.dumps(job))
    if described_job(output) == plain:
        return
    locks = [folder / "lock", *(shard / "lock" for shard in _shards(folder))]
    if any(lock.exists() and not is_free(lock) for lock in locks):
        raise BusyError(
            f"another process is making {output} with another input, model or setting; wait for it"
        )
    _prepare(folder, output, plain)


@contextlib.contextmanager
def shard_store(output: Path, shard: Shard, layouts: Mapping[str, Layout]) -> Iterator[PartStore]:
    """Yield the store of one shard, with the tiles that it had finished before.

    Errors: `BusyError` if another process is this shard.
    """
    folder = part_folder(output) / f"{_SHARD}{shard.number}-of-{shard.count}"
    make_folder(folder)
    busy = f"another process is shard {shard} of {output}; wait for it"
    with at_once(folder / "lock", busy):
        store = PartStore(folder, layouts)
        try:
            yield store
            store.sync()
        finally:
            store.close()


def tiles_of_shards(output: Path) -> set[int]:
    """Return the numbers of the tiles that shards say are finished; they are not checked."""
    found: set[int] = set()
    for folder in _shards(part_folder(output)):
        with contextlib.suppress(OSError):  # put together just now
            for line in (folder / "journal.jsonl").read_bytes().split(b"\n"):
                with contextlib.suppress(ValueError):
                    found.add(int(json.loads(line)["tile"]))
    return found


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_SHARD}*"))


def _read_shard(folder: Path) -> tuple[io.FileIO, Entries]:
    """Return the open chunks of a shard whose process has ended, and its finished tiles."""
    chunks = (folder / "chunks.bin").open("rb", buffering=0)
    return chunks, _whole_entries((folder / "journal.jsonl").read_bytes().split(b"\n"), chunks)


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read_exactly(file: io.FileIO, size: int) -> bytes:
    data = file.read(size)
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
