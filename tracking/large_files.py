"""A large file among a run's artifacts: only if there is room for it, and whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.errors import CycleGANError
from cyclegan.files import replacing

if TYPE_CHECKING:
    from tracking.store import Store

Progress = Callable[[int], object]
"""Told the bytes that are copied."""

SPARE = 1 << 28
"""Bytes that stay free on the disk: a database on it that can't grow is worse than no copy."""
_BLOCK = 16 << 20


def log_large_file(
    store: Store, run_id: str, path: Path, folder: str, *, progress: Progress = lambda done: None
) -> str:
    """Copy `path` among the artifacts of a run, into `folder`; the artifact's path.

    On this machine it is copied block by block, a server gets it through MLflow. It never waits in
    the journal, which would hold it a second time.

    Errors: `CycleGANError` if there is no room, or the store does not take it.
    """
    own = store.artifacts(store.find_run(run_id)).folder
    if own is None or store.location.is_server:
        store.run(run_id).log_file(path, folder)
        progress(path.stat().st_size)
    else:
        _check_room(path, own)
        with replacing(own / folder / path.name) as temporary:
            _copy(path, temporary, progress)
    return f"{folder}/{path.name}"


def _check_room(path: Path, folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    size, free = path.stat().st_size, shutil.disk_usage(place).free
    if free < size + SPARE:
        raise CycleGANError(
            f"{path} has {size / 1e9:.3g} GB, but only {free / 1e9:.3g} GB are free in {place}"
        )


def _copy(path: Path, target: Path, progress: Progress) -> None:
    done = 0
    with path.open("rb") as source, target.open("wb") as copy:
        while block := source.read(_BLOCK):
            copy.write(block)
            done += len(block)
            progress(done)
