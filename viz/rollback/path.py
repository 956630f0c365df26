"""A training with rollbacks as plain data, and what can be read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cyclegan.config import Config
from cyclegan.events import HParamChange, RollbackEvent
from cyclegan.history import Row

Values = NDArray[np.float64]

_PANELS = {
    "cycle and identity": ("C_A", "C_B", "I_A", "I_B"),
    "generators, adversarial": ("G_A", "G_B"),
    "discriminators": ("D_A", "D_B"),
    "pseudo pairs and half scans": ("P_A", "P_B", "H_A"),
}


@dataclass(frozen=True)
class Validated:
    """A validation's score."""

    iteration: int
    score: float
    usable: bool = True
    """False where a gate failed."""


@dataclass(frozen=True)
class Stretch:
    """Rows first, ..., last - 1 of a training between two rollbacks, all kept or all discarded."""

    first: int
    last: int
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class TrainingPath:
    """What is known of a training that fell back."""

    name: str
    rows: Sequence[Row]
    """By iteration, discarded ones included; without gaps."""
    rollbacks: Sequence[RollbackEvent]
    changes: Sequence[HParamChange] = ()
    """Of hyperparameters, in their order."""
    initial: Mapping[str, float]
    """Hyperparameters of the start, by dotted name."""
    losses: Mapping[str, Sequence[str]]
    """Panel -> the metrics it shows."""
    scores: Sequence[Validated] = ()

    @cached_property
    def steps(self) -> Values:
        """Of all rows."""
        return np.array([row.step for row in self.rows], dtype=float)

    @cached_property
    def accepted(self) -> NDArray[np.bool_]:
        """Of all rows."""
        return np.array([row.accepted for row in self.rows], dtype=bool)

    def metric(self, name: str) -> Values:
        """A metric of all rows; NaN where it is missing."""
        return np.array([row.values.get(name, np.nan) for row in self.rows])

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rows cut where the step falls back, and where what is kept begins or ends."""
        if not self.rows:
            return ()
        cut = (np.diff(self.steps) <= 0) | (np.diff(self.accepted.astype(int)) != 0)
        ends = [0, *(np.flatnonzero(cut) + 1).tolist(), len(self.rows)]
        return tuple(
            Stretch(first, last, bool(self.accepted[first])) for first, last in pairwise(ends)
        )

    @property
    def discarded(self) -> tuple[Stretch, ...]:
        """The attempts that were given up."""
        return tuple(stretch for stretch in self.stretches if not stretch.accepted)

    @cached_property
    def hparams(self) -> dict[str, Values]:
        """Values with which each row was computed, by dotted name.

        A change at iteration i is in force from the row of iteration i + 1 on.
        """
        iterations = np.array([row.iteration for row in self.rows])
        values = {name: np.full(len(self.rows), value) for name, value in self.initial.items()}
        for change in self.changes:
            later = int(np.searchsorted(iterations, change.iteration, side="right"))
            for name, value in change.changes.items():
                values.setdefault(name, np.full(len(self.rows), np.nan))[later:] = value
        return values

    @property
    def spent(self) -> str:
        """Iterations, steps and what of it was discarded, in words."""
        total, lost = len(self.rows), int((~self.accepted).sum())
        share = 100 * lost / max(total, 1)
        return (
            f"{total:,} iterations for {total - lost:,} steps: {lost:,} ({share:.0f} %) discarded"
        )


def loss_panels(config: Config) -> dict[str, list[str]]:
    """Panel -> metrics of the loss terms that a training with `config` computes."""
    return {
        panel: [
            f"loss/{term.name}"
            for group in groups
            if any(getattr(config.lambdas, group)) or group[0] != "I"
            for term in config.terms(group)
        ]
        for panel, groups in _PANELS.items()
    }
