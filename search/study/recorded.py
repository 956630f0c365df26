"""Recorded trainings as earlier studies: what a new study may know before its first trial.

`recorded_trials.json` holds the trainings from which the curve prior comes, too (see
`benchmarks/search_pool.py` and `search_accuracy.py --write-prior`): for each data set the values of
the searched keys, and how good each training truly was in the end (PSNR against the truth, which
these data sets have), in units of that data set (see `search.study.curves.Scale`). So they also say
what the score can't see. A Gaussian process decides how far they say anything about a study's own
data (see `search.study.gaussian_process`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.study.cube import Cube
from search.study.gaussian_process import Observations, most_probable
from search.study.prospects import EarlierStudy

Array = NDArray[np.float64]
_LEAST = 8
"""Number of recorded trials in a study's space below which a data set says nothing about it."""
_OBJECTIVE = "score"
"""The objective whose ends are recorded."""
_FILE = Path(__file__).with_name("recorded_trials.json")


@dataclass(frozen=True)
class RecordedTrials:
    """The trainings of one data set.

    Args:
        keys: the keys in which they differ.
        ties: further keys, each with the one whose value it always has.
        values: (N, len(keys)): positive values of them.
        ends: (N,): how good they truly are, in units of the data set.
    """

    keys: tuple[str, ...]
    ties: Mapping[str, str]
    values: Array
    ends: Array

    @classmethod
    @cache
    def shipped(cls) -> Mapping[str, RecordedTrials]:
        """Return our recorded trainings by the name of their data set."""
        content = json.loads(_FILE.read_text(encoding="utf-8"))
        keys, ties = tuple(content["keys"]), content["ties"]
        return {
            name: cls(keys, ties, np.array(one["values"], float), np.array(one["ends"], float))
            for name, one in content["data"].items()
        }

    def within(self, cube: Cube, base: Mapping[str, Any]) -> EarlierStudy | None:
        """Return the trials that lie in a study's space; None if they are too few.

        Args:
            base: the values of the searched keys in the study's configuration; they stand for those
                of keys in which the recorded trainings do not differ.
        """
        searched = {self.ties.get(key, key) for key in cube.space} & set(self.keys)
        if not searched:
            return None
        points, inside = [], []
        for number, row in enumerate(self.values.tolist()):
            values = dict(zip(self.keys, row, strict=True))
            values |= {key: values[source] for key, source in self.ties.items()}
            point = cube.features_of(dict(base) | values)
            if point is not None:
                points.append(point)
                inside.append(number)
        if len(points) < _LEAST:
            return None
        variance = self._spread_by_other_keys(searched)
        return EarlierStudy(
            points=np.array(points),
            values=self.ends[inside],
            variances=np.full(len(points), variance),
        )

    def _spread_by_other_keys(self, searched: set[str]) -> float:
        """Return how much the ends vary by keys that a study does not search, as a variance."""
        if len(searched) == len(self.keys):
            return 0.0
        logs = np.log(self.values)
        shares = (logs - logs.min(axis=0)) / np.ptp(logs, axis=0)
        where = [self.keys.index(key) for key in sorted(searched)]
        nothing = np.zeros(len(self.ends))
        apart, all_keys = (
            most_probable(
                Observations(columns, self.ends, nothing, np.zeros(len(nothing), np.int64))
            ).noise
            for columns in (shares[:, where], shares)
        )
        return max(apart - all_keys, 0.0)


def are_about(keys: Collection[str], objective: str) -> bool:
    """Return True if the recorded trainings differ in one of these searched keys."""
    if objective != _OBJECTIVE:
        return False
    shipped = RecordedTrials.shipped().values()
    return any(key in (*one.keys, *one.ties) for one in shipped for key in keys)


def recorded_studies(cube: Cube, base: Mapping[str, Any], objective: str) -> list[EarlierStudy]:
    """Return what recorded trainings say about a study's space; nothing for other objectives.

    Args: see `RecordedTrials.within`.
    """
    if objective != _OBJECTIVE:
        return []
    found = [one.within(cube, base) for one in RecordedTrials.shipped().values()]
    return [one for one in found if one is not None]
