"""Fingerprints of data: hashes that tell whether the files of a dataset are still the same.

Files up to 1 GiB are hashed completely: `sha256:<hex>`. Of a larger file, the size and 256 pieces
of 1 MiB, spread evenly from the first byte to the last, are hashed: `sampled-sha256:<hex>`. This
detects another scan, another reconstruction or a truncated file in a second, but misses a change
that lies between the pieces.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cyclegan.data.dataset import DatasetSpec, VolumeEntry
from cyclegan.data.files_behind import files_behind
from cyclegan.errors import CycleGANError, DataError
from cyclegan.files import write_text

logger = logging.getLogger(__name__)

WHOLE_BYTES = 1 << 30
"""Largest size in bytes of a file that is hashed from the first byte to the last."""
SAMPLES, SAMPLE_BYTES = 256, 1 << 20
"""Number of pieces that stand for a larger file, and their size in bytes."""
MISSING = "missing"
"""Text in place of the hash of a virtual dataset's source file that is missing."""

_CACHED_FROM_BYTES = 16 << 20  # a smaller file is hashed in hundredths of a second
_SETTLED_SECONDS = 2.0
_SHOWN_DIGITS = 12
_CACHE_ENTRIES = 10_000


def fingerprint(dataset: Path, *, cache: Path | None = None) -> dict[str, str]:
    """Return the hash of every file that a dataset JSON leads to, by path, the JSON itself first.

    Paths are those that the JSON's entries lead to (relative ones stay relative), so the same call
    in the same place gives the same keys.

    Args:
        dataset: path of a dataset JSON.
        cache: file that stores the hashes of large files by path, size, times and inode.

    Errors: `DataError` in one line for a file that is missing, damaged, or written to meanwhile.
    """
    spec = DatasetSpec.load(dataset, warn=False)
    paths = [dataset]
    for entry in dict.fromkeys((*spec.train, *spec.validate)):
        paths += files_behind(entry)
    return file_hashes(paths, cache=cache)


def check_unchanged(entries: Iterable[VolumeEntry], dataset: Path) -> None:
    """Compare the hashes that entries of the JSON `dataset` name with those of their files now.

    Errors: `DataError` with both hashes for the first file that has changed.
    """
    named = [entry for entry in entries if entry.hash]
    hashes = file_hashes(entry.path for entry in named)
    for entry in named:
        found = hashes[os.path.normpath(entry.path)]
        if found not in (entry.hash, MISSING):
            raise DataError(
                f"{entry.path} has changed since it was prepared: {shortened(entry.hash)} in "
                f"{dataset}, {shortened(found)} now; prepare it again with --overwrite, or remove "
                f"its hash from {dataset.name} if the change is meant"
            )


def shortened(value: str) -> str:
    """Return the kind and the first digits of a hash; `missing` as it is."""
    kind, colon, digits = value.partition(":")
    return f"{kind}:{digits[:_SHOWN_DIGITS]}…" if colon else kind


def file_hashes(paths: Iterable[Path], *, cache: Path | None = None) -> dict[str, str]:
    """Return the hash of each file by its path; `cache` is as in `fingerprint`."""
    known = _Cache(cache)
    hashes = {os.path.normpath(path): _hash_of(path, known) for path in dict.fromkeys(paths)}
    known.save()
    return hashes


def combined(hashes: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits that stand for all files together, wherever they lie."""
    return hashlib.sha256("\n".join(sorted(hashes.values())).encode()).hexdigest()[:16]


def _hash_of(path: Path, cache: _Cache) -> str:
    try:
        before = path.stat()
        stored = cache.get(path, before)
        if stored is not None:
            return stored
        with path.open("rb") as handle:
            if before.st_size <= WHOLE_BYTES:
                result = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
            else:
                result = "sampled-sha256:" + _sampled(handle, before.st_size)
        after = path.stat()
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error
    if _key(before) != _key(after):
        raise DataError(f"{path} changed while it was being read; try again when it is complete")
    cache.put(path, after, result)
    return result


def _sampled(handle: Any, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    for index in range(SAMPLES):
        handle.seek(index * (size - SAMPLE_BYTES) // (SAMPLES - 1))
        digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _key(stat: os.stat_result) -> list[int]:
    # The inode's change time, too: a tool can set the modification time back.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


class _Cache:
    """Hashes of large files by real path, each with the file's state when it was read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries = _read(path)
        self._new: dict[str, dict[str, Any]] = {}

    def get(self, path: Path, stat: os.stat_result) -> str | None:
        """Return the stored hash if the file has not changed since, else None."""
        entry = self._entries.get(os.path.realpath(path))
        if entry is None or entry.get("state") != _key(stat):
            return None
        stored = entry.get("hash")
        return stored if isinstance(stored, str) else None

    def put(self, path: Path, stat: os.stat_result, value: str) -> None:
        """Store the hash of a large file, unless it is so new that a change might not show."""
        settled = time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_SECONDS
        if stat.st_size >= _CACHED_FROM_BYTES and settled:
            self._new[os.path.realpath(path)] = {"state": _key(stat), "hash": value}

    def save(self) -> None:
        """Write the new hashes, and keep those that other processes have written meanwhile."""
        if self._path is None or not self._new:
            return
        entries = {**_read(self._path), **self._new}
        newest = dict(list(entries.items())[-_CACHE_ENTRIES:])
        try:
            write_text(self._path, json.dumps(newest, indent=1))
        except CycleGANError as error:  # it only saves time
            logger.info("hashes of data files are not stored: %s", error)


def _read(path: Path | None) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError, RecursionError):  # none yet, or a damaged one
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: entry for key, entry in content.items() if isinstance(entry, dict)}
