"""Find all files that the voxels of a volume come from.

One HDF5 file can lead to others: by external links, as a virtual dataset, or with its voxels in
separate raw files.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from cyclegan.data.dataset import VolumeEntry
from cyclegan.data.hdf5_source import find_dataset, find_files, open_file
from cyclegan.data.nexus import default_volumes


def files_behind(entry: VolumeEntry) -> list[Path]:
    """Return the files of a volume, each once, its own first.

    Source files of a virtual dataset are included even if they are missing.

    Errors: `DataError` if the file can't be read or has no such dataset.
    """
    with open_file(entry.path) as handle:
        find_dataset(handle, entry.path, entry.dset)  # refuses what a training would refuse
    walk = _Walk()
    walk.visit(entry.path, entry.dset)
    return list(walk.files.values())


class _Walk:
    """Follows names through links and virtual datasets and collects the files on the way."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        """Files by their real path, so that a file reached by two names counts once."""
        self._visited: set[tuple[Path, str]] = set()

    def visit(self, path: Path, name: str) -> None:
        """Take the file at `path` and everything that the object `name` in it leads to."""
        self._take(path)
        if (path, name) in self._visited or not path.is_file():
            return
        self._visited.add((path, name))
        try:
            handle = h5py.File(path, "r")
        except OSError:  # not an HDF5 file: it leads nowhere
            return
        with handle:
            self._follow(handle, path, [part for part in name.split("/") if part not in ("", ".")])

    def _take(self, path: Path) -> None:
        self.files.setdefault(os.path.realpath(path), Path(os.path.normpath(path)))

    def _follow(self, handle: h5py.File, path: Path, parts: list[str]) -> None:
        item: h5py.Group | h5py.Dataset = handle
        for index, part in enumerate(parts):
            link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
            rest = "/".join(parts[index + 1 :])
            if isinstance(link, h5py.ExternalLink):
                for target in find_files(path, link.filename, "HDF5_EXT_PREFIX"):
                    self.visit(target, f"{link.path}/{rest}")
                return
            if isinstance(link, h5py.SoftLink):
                start = "" if link.path.startswith("/") else item.name
                self.visit(path, f"{start}/{link.path}/{rest}")
                return
            if link is None:
                break
            item = item[part]
        for dataset in default_volumes(item) if isinstance(item, h5py.Group) else [item]:
            self._take_dataset(dataset)

    def _take_dataset(self, dataset: h5py.Dataset) -> None:
        own = Path(dataset.file.filename)
        self._take(own)
        for source in dataset.virtual_sources() if dataset.is_virtual else ():
            if source.file_name == ".":
                self.visit(own, source.dset_name)
                continue
            found = find_files(own, source.file_name, "HDF5_VDS_PREFIX")
            for path in found or [own.parent / source.file_name]:
                self.visit(path, source.dset_name)
        # Raw files: see H5Pset_efile_prefix; by default relative to the working directory.
        folder = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", str(own.parent))
        for name, _, _ in dataset.external or ():
            self._take(Path(folder) / os.fsdecode(name))
