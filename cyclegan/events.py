"""What happens to a training, as plain records: its result, rollbacks, changed hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cyclegan.hparams import HParams

Outcome = Literal["completed", "pruned", "stopped", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training ended. A stopped or pruned training is an outcome, not an error."""

    outcome: Outcome
    reason: str
    """In words; empty if completed."""
    step: int
    iteration: int
    score: float | None
    """The last validation's, or None if there was none."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why somebody asked for a rollback, for the record."""

    kind: str = ""
    """Name of the fault."""
    severity: float = 1.0
    """1 is the threshold; infinite for values that are not finite."""
    attempt: int = 1
    """Which retry in a row this is, from 1."""


@dataclass(frozen=True, kw_only=True)
class RollbackEvent:
    """A rollback that happened."""

    from_step: int
    to_step: int
    iteration: int
    snapshot_iteration: int
    """When the snapshot was taken that it fell back to."""
    reason: str
    cause: Cause = field(default_factory=Cause)
    kickstart: int = 0
    """Steps of kickstart that follow it."""
    before: HParams
    """In force when the fault was found."""
    after: HParams
    """In force now."""
    outcome: str = ""
    """What became of it: empty while nobody knows."""
    concluded: int = 0
    """Iteration at which that was known; 0 while nobody knows."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON and checkpoints take it."""
        plain = {**vars(self), "cause": asdict(self.cause)}
        return plain | {"before": self.before.flat(), "after": self.after.flat()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RollbackEvent:
        """What `to_plain` gave."""
        values = {
            **plain,
            "cause": Cause(**plain["cause"]),
            "before": HParams.from_flat(plain["before"]),
            "after": HParams.from_flat(plain["after"]),
        }
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class HParamChange:
    """One entry of the log that `Trainer.set_hparams` keeps."""

    iteration: int
    step: int
    reason: str
    changes: Mapping[str, float]
    kickstart: int = 0
    """Steps of kickstart that begin with it."""

    def to_plain(self) -> dict[str, Any]:
        """As JSON and checkpoints take it."""
        return {**vars(self), "changes": dict(self.changes)}
