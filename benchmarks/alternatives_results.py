"""What `alternatives.py` has found so far: kept in the results folder, one JSON a data set.

RESULTS/phantom_1x.json                        {"rows": [{row, seed, settings, figures}, ...]}
RESULTS/slices/phantom_1x/ours-promoted-0.npy  the middle slice, for pictures
RESULTS/trainings/phantom_1x/ours-promoted-0/  generators
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.files import replacing, write_text

Array = NDArray[np.floating]
Record = dict[str, Any]


class LeftOut(Exception):  # noqa: N818 - no error: the table goes on without the row
    """A row that can't be had here; the message says in one line why, and the way out."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an alternative made of the fast scan."""

    image: Array
    enhance_seconds: float
    train_seconds: float | None = None
    """None for what needs no training."""
    parameter: str = "-"
    """The best of those tried, or how long it was trained."""
    details: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """Finished rows of all data sets in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, data: str, row: str, seed: int | None, settings: Any) -> Record | None:
        """Return the finished row, if it was made with these settings."""
        for record in self.records(data):
            if (record["row"], record["seed"], record["settings"]) == (row, seed, settings):
                return record
        return None

    def records(self, data: str) -> list[Record]:
        """Return all finished rows of a data set."""
        try:
            text = self._path(data).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        found: list[Record] = json.loads(text)["rows"]
        return found

    def put(self, data: str, record: Record, slice_: Array) -> None:
        """Keep a row; one of the same name and seed that was made otherwise is replaced."""
        path = self.slice_path(data, record["row"], record["seed"])
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, np.asarray(slice_, np.float16))
        key = record["row"], record["seed"]
        others = [r for r in self.records(data) if (r["row"], r["seed"]) != key]
        write_text(self._path(data), json.dumps({"rows": [*others, record]}, indent=1) + "\n")

    def slice_path(self, data: str, row: str, seed: int | None) -> Path:
        """Return where the middle slice of a row's image is."""
        return self.folder / "slices" / data / f"{slug(row)}-{seed or 0}.npy"

    def training_folder(self, data: str, training: str, seed: int) -> Path:
        """Return where a training's generators are."""
        return self.folder / "trainings" / data / f"{slug(training)}-{seed}"

    def _path(self, data: str) -> Path:
        return self.folder / f"{data}.json"


def slug(name: str) -> str:
    """Return a name that a file can have."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
