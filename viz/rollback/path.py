"""A training with rollbacks as plain data, and values derived from it."""

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
class ValidationScore:
    """The score of a validation."""

    iteration: int
    score: float
    usable: bool = True
    """False if a gate failed."""


@dataclass(frozen=True)
class Stretch:
    """Rows first, ..., last - 1 of a training, all accepted or all discarded."""

    first: int
    last: int
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class TrainingPath:
    """The data of a training with rollbacks."""

    name: str
    rows: Sequence[Row]
    """Rows by iteration, without gaps and including discarded ones."""
    rollbacks: Sequence[RollbackEvent]
    changes: Sequence[HParamChange] = ()
    """Changes of hyperparameters, in order."""
    initial: Mapping[str, float]
    """Hyperparameters at the start, by dotted name."""
    losses: Mapping[str, Sequence[str]]
    """Panel -> metrics that it shows."""
    scores: Sequence[ValidationScore] = ()

    @cached_property
    def steps(self) -> Values:
        """Training step of each row."""
        return np.array([row.step for row in self.rows], dtype=float)

    @cached_property
    def accepted(self) -> NDArray[np.bool_]:
        """True for each row on the accepted path."""
        return np.array([row.accepted for row in self.rows], dtype=bool)

    def metric(self, name: str) -> Values:
        """Return a metric of all rows; NaN where it is missing."""
        return np.array([row.values.get(name, np.nan) for row in self.rows])

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rows, cut where the step falls back and where accepted rows begin or end."""
        if not self.rows:
            return ()
        cut = (np.diff(self.steps) <= 0) | (np.diff(self.accepted.astype(int)) != 0)
        ends = [0, *(np.flatnonzero(cut) + 1).tolist(), len(self.rows)]
        return tuple(
            Stretch(first, last, bool(self.accepted[first])) for first, last in pairwise(ends)
        )

    @property
    def discarded(self) -> tuple[Stretch, ...]:
        """The attempts that rollbacks discarded."""
        return tuple(stretch for stretch in self.stretches if not stretch.accepted)

    @cached_property
    def hparams(self) -> dict[str, Values]:
        """Hyperparameters with which each row was computed, by dotted name.

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
        """Text with the iterations, the steps, and the share that was discarded."""
        total, lost = len(self.rows), int((~self.accepted).sum())
        share = 100 * lost / max(total, 1)
        return (
            f"{total:,} iterations for {total - lost:,} steps: {lost:,} ({share:.0f} %) discarded"
        )


def loss_panels(config: Config) -> dict[str, list[str]]:
    """Return for each panel the metrics of the loss terms in a training with `config`."""
    return {
        panel: [
            f"loss/{term.name}"
            for group in groups
            if any(getattr(config.lambdas, group)) or group[0] != "I"
            for term in config.terms(group)
        ]
        for panel, groups in _PANELS.items()
    }
