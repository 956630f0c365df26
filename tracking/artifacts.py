"""The files of a run: find, measure and remove them, and add large ones.

On this machine sizes come from walking the folder, behind a server from its listing. Files are
removed only if they lie in `<run id>/artifacts` in the store's own artifact folder; symbolic links
are never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cyclegan.addresses import without_secrets
from cyclegan.errors import CycleGANError
from cyclegan.files import replacing
from tracking.database import Location
from tracking.errors import first_line, translated
from tracking.run_lookup import RunInfo

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    from tracking.run import Run


REQUESTS = 200
"""Most listings requested from a server for one run, one per folder; else its size is unknown."""
_FOLDER = "artifacts"
_HALF_WRITTEN = re.compile(r"\.artifact\.uploading\..+|\..+\.\d+\.[0-9a-f]{8}\.part")
"""Names that MLflow and `cyclegan.files.replacing` give to files until they are whole."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of a run."""

    path: str
    """Path within the run's artifacts, such as `volumes/cycle_40.h5`."""
    bytes: int


class Artifacts:
    """The files of one run."""

    def __init__(self, client: MlflowClient, location: Location, run: RunInfo) -> None:
        self.run, self._client, self._location = run, client, location
        self.folder = local_folder(location, run.artifact_uri)
        """Their folder on this machine; None if they lie elsewhere."""

    def files(self, requests: int = REQUESTS) -> list[Artifact] | None:
        """Return all files by path; None if a server has them in more than `requests` folders.

        With -1 all are listed, however many requests that takes.
        """
        if self.folder is not None:
            return sorted(walk(self.folder), key=lambda file: file.path)
        with translated(f"run {self.run.name}: its artifacts can't be listed"):
            return self._listed(requests)

    def _listed(self, requests: int) -> list[Artifact] | None:
        found: list[Artifact] = []
        folders: deque[str | None] = deque([None])
        while folders:
            if requests == 0:
                return None
            requests -= 1
            for item in self._repository().list_artifacts(folders.popleft()):
                if item.is_dir:
                    folders.append(item.path)
                else:
                    found.append(Artifact(path=item.path, bytes=item.file_size or 0))
        return sorted(found, key=lambda file: file.path)

    def out_of_reach(self) -> str | None:
        """Return the reason why these files can't be removed from here; None if they can."""
        if self.folder is None:
            return self._elsewhere()
        if self._location.artifacts is None:  # a server that leaves its files to its clients
            if not self.folder.exists():
                return f"its files lie on the server's machine, in {self.folder}"
            return misplaced(self.folder, self.run.id, None)
        return misplaced(self.folder, self.run.id, local_path(self._location.artifacts))

    def _elsewhere(self) -> str | None:
        uri = self.run.artifact_uri
        if not uri.startswith("mlflow-artifacts:"):
            return f"its files lie in {without_secrets(uri)}, which can't be freed from here"
        if not self._location.is_server:
            return "its files lie behind an MLflow server; name it with --tracking-uri http://..."
        if not urlsplit(uri).path.rstrip("/").endswith(f"/{self.run.id}/{_FOLDER}"):
            return f"its files lie in {without_secrets(uri)}, which is not a folder of its own"
        return None

    def remove(self, wanted: Callable[[str], bool] | None = None) -> int:
        """Remove all files, or those whose path is `wanted`, and return the freed bytes.

        Return 0 for files behind a server in too many folders to list (see `files`).

        Errors: `CycleGANError` if they are out of reach, or the disk or the server refuses.
        """
        reason = self.out_of_reach()
        if reason:
            raise CycleGANError(f"run {self.run.name} ({self.run.id}): {reason}")
        files = (self.files() if wanted is None else self.files(requests=-1)) or []
        gone = files if wanted is None else [file for file in files if wanted(file.path)]
        with translated(f"run {self.run.name} ({self.run.id}): its files can't be removed"):
            if self.folder is not None:
                _remove_here(self.folder, None if wanted is None else gone)
            elif wanted is None:
                self._delete(None)
            else:
                for file in gone:
                    self._delete(file.path)
        return sum(file.bytes for file in gone)

    def _delete(self, path: str | None) -> None:
        self._repository().delete_artifacts(path)  # type: ignore[no-untyped-call]

    def _repository(self) -> ArtifactRepository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        shown = without_secrets(self.run.artifact_uri)
        with translated(f"its files in {shown} can't be reached"):
            return get_artifact_repository(self.run.artifact_uri, self._location.uri)


def local_path(uri: str) -> Path | None:
    """Return the folder on this machine that a path or a `file:` URI names; None for others."""
    if uri.startswith("/"):
        return Path(os.path.normpath(uri))
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(os.path.normpath(unquote(parts.path)))
    return None


def local_folder(location: Location, uri: str) -> Path | None:
    """Return the folder on this machine with the artifacts `uri` of a run; None for others.

    Files that a server received for an embedded store (`mlflow-artifacts:`) lie below the store's
    folder.
    """
    parts = urlsplit(uri)
    if parts.scheme == "mlflow-artifacts" and location.database and location.artifacts:
        root = local_path(location.artifacts)
        return root and Path(os.path.normpath(f"{root}/{unquote(parts.path).lstrip('/')}"))
    return local_path(uri)


def misplaced(folder: Path, run_id: str, root: Path | None) -> str | None:
    """Return the reason why `folder` is not the run's artifact folder below `root`, or None."""
    real = folder.resolve()
    if folder.is_symlink() or folder.parent.is_symlink():
        return f"its files lie behind a link, {folder}"
    if (real.parent.name, real.name) != (run_id, _FOLDER):
        return f"its files lie in {folder}, which is not a folder of its own"
    if root is not None and root.resolve() not in real.parents:
        return f"its files lie in {folder}, outside of {root}"
    return None


def walk(folder: Path) -> Iterator[Artifact]:
    """Yield the files below `folder`; a link counts as a file, and hard links count once."""
    seen: set[tuple[int, int]] = set()
    for parent, names, files in os.walk(folder):
        links = [name for name in names if Path(parent, name).is_symlink()]
        for name in (*files, *links):
            path = Path(parent, name)
            try:
                status = path.lstat()
            except OSError:  # a temporary file that has gone
                continue
            known = (status.st_dev, status.st_ino) in seen
            seen.add((status.st_dev, status.st_ino))
            yield Artifact(
                path=path.relative_to(folder).as_posix(), bytes=0 if known else status.st_size
            )


def half_written(folder: Path, *, quiet_seconds: float = 0) -> list[Path]:
    """Return the files below `folder` that were not finished, and not written to for a while."""
    before = time.time() - quiet_seconds
    return sorted(
        folder / file.path
        for file in walk(folder)
        if _HALF_WRITTEN.fullmatch(PurePosixPath(file.path).name)
        and (folder / file.path).lstat().st_mtime <= before
    )


def orphans(root: Path, owners: Callable[[], Sequence[str]]) -> list[tuple[Path, int]]:
    """Return folders that are named like a run but belong to none, with their size in bytes.

    They lie in `root` or in a folder of an experiment in it. `owners` returns the ids of all runs.
    It is called last, as a run is known before its folder is made.
    """
    folders = [*_run_folders(root)]
    for child in sorted(root.iterdir()) if root.is_dir() else ():
        if child.name.isdigit() and not child.is_symlink():  # an experiment's, made by a server
            folders += _run_folders(child)
    known = set(owners()) if folders else set()
    lost = [path for path in folders if path.name not in known]
    return [(path, sum(file.bytes for file in walk(path))) for path in lost]


def _run_folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(
        path
        for path in parent.iterdir()
        if _RUN_ID.fullmatch(path.name) and stat.S_ISDIR(path.lstat().st_mode)
    )


def remove_orphan(root: Path, folder: Path) -> None:
    """Remove a folder found by `orphans`. Errors: `CycleGANError` in one line."""
    real = folder.resolve()
    if folder.is_symlink() or root.resolve() not in real.parents or not _RUN_ID.match(real.name):
        raise CycleGANError(f"{folder} lies behind a link or outside of {root}; it is not removed")
    try:
        _remove_here(folder, None)
    except OSError as error:
        raise CycleGANError(f"{folder} can't be removed: {first_line(error)}") from error


def _remove_here(folder: Path, files: Sequence[Artifact] | None) -> None:
    """Remove `files` of `folder` and folders that become empty; if None, remove `folder`.

    Files that are already gone are no error. `shutil.rmtree` works with open folders: it does not
    follow a link that is put in its way meanwhile.
    """
    if files is None:
        shutil.rmtree(folder, onerror=_unless_gone)
        with contextlib.suppress(OSError):  # MLflow makes no other file there, but people might
            folder.parent.rmdir() if folder.name == _FOLDER else None
        return
    for file in files:
        (folder / file.path).unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty
            Path(parent).rmdir() if Path(parent) != folder else None


def _unless_gone(function: object, path: object, failed: object) -> None:
    """Raise the error of `shutil.rmtree`, unless somebody else has just removed the file."""
    error = failed[1] if isinstance(failed, tuple) else None
    if isinstance(error, BaseException) and not isinstance(error, FileNotFoundError):
        raise error


# -- Large files: copied only if there is room, and completely or not at all -------------------

Progress = Callable[[int], object]
"""Function that receives the number of copied bytes."""


SPARE = 1 << 28
"""Bytes to leave free on the disk: a database that can't grow is worse than no copy."""
_BLOCK = 16 << 20


def log_large_file(
    run: Run, own: Path | None, path: Path, folder: str, *, progress: Progress = lambda done: None
) -> str:
    """Copy `path` into `folder` of a run's artifacts and return the artifact's path.

    `own` is the folder of the run's artifacts, if they lie on this machine.

    On this machine it is copied block by block; a server gets it through MLflow. It never waits in
    the outbox, which would hold it a second time.

    Errors: `CycleGANError` if there is no room, or the store does not take it.
    """
    if own is None or run.location.is_server:
        run.log_file(path, folder)
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
