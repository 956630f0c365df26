"""What a rollback optimizer asks of its policy: whether something is wrong, and what to try.

The optimizer (`search.rollback.optimizer`) keeps the snapshots, chooses the one to fall back to,
counts, and gives up; a policy judges and moves.
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
    """What is wrong, in words, and how badly."""

    kind: str
    """Name of its detector."""
    reason: str
    severity: float
    """1 is the threshold; infinite for values that are not finite."""
    networks: tuple[str, ...] = ()
    """Loss groups or discriminators concerned."""
    age: int = 0
    """Steps for which it has been visible: no snapshot as young as that is healthy."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """What is changed for a retry."""

    changes: Mapping[str, float] = field(default_factory=dict)
    """New hyperparameters by dotted name."""
    kickstart: int = 0
    """Steps for which cycles are at times closed on the input itself."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """One more try: what a policy decides by."""

    fault: Fault
    attempt: int
    """Failures in a row, this one included: from 1."""
    last: bool
    """Whether this is the last try."""
    found: int
    """The furthest step where a fault of this row was found."""
    step: int
    """Where the retry begins."""
    base: HParams
    """In force when the snapshot was taken from which the retry begins."""
    current: HParams
    """In force when the fault was found."""
    initial: HParams
    """Of the start of the training."""


class Policy(Protocol):
    """Judges a training and moves its hyperparameters."""

    def signs(self, trainer: Trainer) -> frozenset[str]:
        """Kinds of faults that the current images show, asked when a snapshot is taken.

        A snapshot is not used after a fault of a kind of which it bears the sign.
        """

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        """What is wrong, or None; `young` before the warm-up is over."""

    def further_back(self, attempt: int) -> int:
        """Steps to fall back beyond the usual distance at this attempt."""

    def move(self, retry: Retry, random: torch.Generator) -> Move:
        """What to try."""

    def healthy(self, trainer: Trainer, random: torch.Generator) -> Mapping[str, float]:
        """Changes at a judgement that found nothing; normally none."""

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_validation(self, score: float, step: int) -> None:
        """A validation's score; -100 where a gate failed."""

    def on_rollback(self, step: int) -> None:
        """The training is at `step` again."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
