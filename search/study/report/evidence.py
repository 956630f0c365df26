"""What the page of a study shows of its trials' MLflow runs: parts of scores, and slices.

Read from the store, not from `results/`: trials of other hosts have their pictures nowhere else.
What was read once is kept; it doesn't change any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cyclegan.errors import DataError
from tracking.charts import CYCLE_PICTURES
from viz.images import address
from viz.pictures import Picture, cut_six

if TYPE_CHECKING:
    from tracking import Run, Store

PARTS = {
    "score/pseudo_pair_gain_db": "gain / dB",
    "score/spectrum_distance_db": "spectrum / dB",
    "score/sliced_wasserstein": "SWD",
    "score/shell_gain": "shells",
    "score/checkerboard": "checkerboard",
}
"""Metrics that the score is made of, and what the page calls them."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The six images of a trial's validation, each a `data:` address by name."""

    trial: int
    iteration: int
    images: Mapping[str, str]
    whole: str
    """The whole picture, with titles."""
    real_A: bytes
    """Fingerprint of the input: equal ones can be compared directly."""


class Evidence:
    """Reads from the runs of one study. Every method raises `CycleGANError` if the store fails."""

    def __init__(self, store: Store, parent: str) -> None:
        self.store = store
        self.parent: Run = store.run(parent)
        self._runs: dict[str, Run | None] = {}
        self._parts: dict[tuple[str, int], dict[str, float]] = {}
        self._slices: dict[tuple[str, int], Slices] = {}

    @property
    def experiment_id(self) -> str:
        """Of the study and its trials."""
        return self.parent.experiment_id

    def parts(self, run_id: str, iteration: int) -> Mapping[str, float]:
        """The parts of a run's score at `iteration`; empty where the run has none."""
        run, key = self._run(run_id), (run_id, iteration)
        if run is None:
            return {}
        if not self._parts.get(key):  # the sink may be behind: nothing found is asked again
            found = {name: run.history(name).get(iteration) for name in PARTS}
            self._parts[key] = {n: value for n, value in found.items() if value is not None}
        return self._parts[key]

    def slices(self, trial: int, run_id: str, iteration: int) -> Slices | None:
        """The six images at `iteration`, or at the last validation before it that has them."""
        run, key = self._run(run_id), (run_id, iteration)
        if run is None:
            return None
        if key not in self._slices:
            steps = [step for step in run.image_steps(CYCLE_PICTURES) if step <= iteration]
            picture = run.image(CYCLE_PICTURES, max(steps)) if steps else None
            if picture is None:
                return None
            self._slices[key] = _cut(trial, max(steps), picture)
        return self._slices[key]

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            try:
                self._runs[run_id] = self.store.run(run_id)
            except DataError:  # deleted, or of another store
                self._runs[run_id] = None
        return self._runs[run_id]


def _cut(trial: int, iteration: int, picture: Picture) -> Slices:
    images = cut_six(picture)
    return Slices(
        trial=trial,
        iteration=iteration,
        images={name: address(images[name], lossless=True) for name in _SHOWN},
        whole=address(picture),
        real_A=np.ascontiguousarray(images["real_A"]).tobytes(),
    )


_SHOWN = ("real_A", "fake_B", "real_B")
