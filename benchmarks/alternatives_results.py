"""The results of `alternatives.py` so far, in a folder: one JSON per data set.

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
    """A row that can't be computed here; the message says why, and how to change that."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The image that an alternative made of the fast scan, and its times."""

    image: Array
    enhance_seconds: float
    train_seconds: float | None = None
    """Seconds of training; None for a row without training."""
    parameter: str = "-"
    """The best parameter tried, or the length of the training."""
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
        """Store a row in place of one with the same name and seed."""
        path = self.slice_path(data, record["row"], record["seed"])
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, np.asarray(slice_, np.float16))
        key = record["row"], record["seed"]
        others = [r for r in self.records(data) if (r["row"], r["seed"]) != key]
        write_text(self._path(data), json.dumps({"rows": [*others, record]}, indent=1) + "\n")

    def slice_path(self, data: str, row: str, seed: int | None) -> Path:
        """Return the path of the middle slice of a row's image."""
        return self.folder / "slices" / data / f"{slug(row)}-{seed or 0}.npy"

    def training_folder(self, data: str, training: str, seed: int) -> Path:
        """Return the folder of a training's generators."""
        return self.folder / "trainings" / data / f"{slug(training)}-{seed}"

    def _path(self, data: str) -> Path:
        return self.folder / f"{data}.json"


def slug(name: str) -> str:
    """Return the name as a valid file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
