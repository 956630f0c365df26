"""The policy of a rollback optimizer: it judges a training and chooses new hyperparameters.

The optimizer (`search.rollback.optimizer`) holds the snapshots, chooses the one to fall back to,
counts the attempts, and gives up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cyclegan.hparams import HParams

if TYPE_CHECKING:
    from cyclegan.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault: its kind, a description, and its severity."""

    kind: str
    """Name of the detector that found it."""
    reason: str
    severity: float
    """1 is the threshold; infinite for values that are not finite."""
    networks: tuple[str, ...] = ()
    """The loss groups or discriminators concerned."""
    age: int = 0
    """Number of steps for which it has been visible: no younger snapshot is healthy."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """The changes for a retry."""

    changes: Mapping[str, float] = field(default_factory=dict)
    """New hyperparameters by dotted name."""
    kickstart: int = 0
    """Number of steps in which some cycles are closed on the input itself."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """The situation in which a policy chooses the changes for a retry."""

    fault: Fault
    attempt: int
    """Number of failures in a row including this one, from 1."""
    last: bool
    """True for the last attempt."""
    found: int
    """The furthest step where a fault of this row was found."""
    step: int
    """The step where the retry begins."""
    base: HParams
    """Values in force when the snapshot of the retry was taken."""
    current: HParams
    """Values in force when the fault was found."""
    initial: HParams
    """Values at the start of the training."""


class Policy(Protocol):
    """Judges a training and changes its hyperparameters."""

    def signs(self, trainer: Trainer) -> frozenset[str]:
        """Return the kinds of faults that the current images show; called for every snapshot.

        After a fault, snapshots with a sign of the same kind are not used.
        """

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        """Return the fault of the training, or None; `young` is True until the warm-up is over."""

    def further_back(self, attempt: int) -> int:
        """Return the number of steps to fall back beyond the usual distance at this attempt."""

    def move(self, retry: Retry, random: torch.Generator) -> Move:
        """Return the changes for a retry."""

    def healthy(self, trainer: Trainer, random: torch.Generator) -> Mapping[str, float]:
        """Return changes to make after a healthy judgement; normally none."""

    def on_train_start(self, trainer: Trainer) -> None:
        """Prepare; called before the first step of this process."""

    def on_validation(self, score: float, step: int) -> None:
        """Take note of a validation's score, which is -100 if a gate failed."""

    def on_rollback(self, step: int) -> None:
        """Take note that the training is back at `step`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed training needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
