"""Requests of callbacks to the trainer, which take effect at the boundary of a step.

Callbacks live on the first rank. At each boundary all ranks tell each other what was asked of them,
so that they stop, fall back and change hyperparameters at the same step (see `cyclegan.ranks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cyclegan.events import Cause, Outcome
from cyclegan.ranks import Ranks
from cyclegan.snapshot import Snapshot

# A pruned training is over; an interrupted one goes on later. If both are requested, pruned wins.
_PRECEDENCE: tuple[Outcome, ...] = ("pruned", "stopped", "interrupted")


@dataclass(frozen=True, kw_only=True)
class RollbackRequest:
    """A wish to return to a snapshot and go on with other hyperparameters."""

    snapshot: Snapshot
    reason: str
    changes: Mapping[str, float]
    kickstart: int
    cause: Cause

    def to_plain(self) -> dict[str, Any]:
        """Return the request as plain values for another rank."""
        return {**vars(self), "snapshot": self.snapshot.to_plain(apart=True)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RollbackRequest:
        """Return the request from the values that `to_plain` returned."""
        return cls(**{**plain, "snapshot": Snapshot.from_plain(plain["snapshot"])})


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A rank's part in the boundary of a step; only that of the first goes beyond stops."""

    stops: tuple[tuple[Outcome, str], ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    """Arguments of `Trainer.set_hparams`."""
    rollback: Mapping[str, Any] | None = None
    save: bool = False
    """True if a checkpoint is due."""
    residual_noise: bool = False
    """The noise that pseudo pairs take; see `Degrader`."""


class Requests:
    """The requests that wait for the boundary of this step.

    Args:
        residual_noise: the choice of noise that all ranks know.
    """

    def __init__(self, ranks: Ranks, *, residual_noise: bool) -> None:
        self._ranks = ranks
        self._asked: list[tuple[Outcome, str]] = []
        self._agreed = self._asked if ranks.is_alone else []
        """The stops that all ranks know."""
        self._rollbacks: list[RollbackRequest] = []
        self._changes: list[Mapping[str, Any]] = []
        """Changes of hyperparameters that the other ranks do not know yet."""
        self._noise = residual_noise

    def stop(self, outcome: Outcome, reason: str) -> None:
        """Ask for the end of the training; safe in a signal handler."""
        self._asked.append((outcome, reason))

    def fall_back(self, request: RollbackRequest) -> None:
        """Ask for a rollback."""
        self._rollbacks.append(request)

    def changed(self, change: Mapping[str, Any]) -> None:
        """Note arguments of `Trainer.set_hparams`, for the other ranks."""
        if not self._ranks.is_alone:
            self._changes.append(change)

    def all_know(self) -> None:
        """Forget the changes: the other ranks make them, too."""
        self._changes.clear()

    def stopping(self) -> tuple[Outcome, str] | None:
        """Return the outcome and the reason of the stop that all ranks know, or None."""
        return min(self._agreed, key=lambda r: (_PRECEDENCE.index(r[0]), r[1]), default=None)

    def rollback(self) -> RollbackRequest | None:
        """Return the rollback to make: that to the oldest snapshot, which satisfies all others."""
        return min(self._rollbacks, key=lambda r: (r.snapshot.step, r.reason), default=None)

    def done(self) -> None:
        """Forget the rollbacks: one of them is made."""
        self._rollbacks.clear()

    def agree(self, *, save: bool, residual_noise: bool) -> Boundary:
        """Tell the other ranks what was asked of this one, and return what all of them do now.

        A rollback brings its snapshot along: it is rare, and nobody else has to take any.
        """
        wanted = self.rollback()
        own = Boundary(
            stops=tuple(self._asked),
            changes=tuple(self._changes),
            rollback=None if wanted is None else wanted.to_plain(),
            save=save,
            residual_noise=residual_noise,
        )
        quiet = Boundary(residual_noise=self._noise)
        answers = self._ranks.agree(None if own == quiet else own)
        self._changes.clear()
        if answers is None:
            return quiet
        first = answers[0] or quiet
        self._agreed = [stop for one in answers if one for stop in one.stops]
        self._noise = first.residual_noise
        if not self._ranks.is_first:
            told = first.rollback
            self._rollbacks = [] if told is None else [RollbackRequest.from_plain(told)]
        return first
