"""Records of a training: its result, its rollbacks and its changes of hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cyclegan.hparams import HParams

Outcome = Literal["completed", "pruned", "stopped", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a training. Being stopped or pruned is an outcome, not an error."""

    outcome: Outcome
    reason: str
    """Reason for the outcome, as text for the user; empty if completed."""
    step: int
    iteration: int
    score: float | None
    """Score of the last validation, or None if there was none."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Cause of a rollback request, for the record."""

    kind: str = ""
    """Name of the fault."""
    severity: float = 1.0
    """Severity of the fault: 1 at the threshold, infinite for values that are not finite."""
    attempt: int = 1
    """Number of this retry among consecutive ones, from 1."""


@dataclass(frozen=True, kw_only=True)
class RollbackEvent:
    """Record of a rollback."""

    from_step: int
    to_step: int
    iteration: int
    snapshot_iteration: int
    """Iteration at which the restored snapshot was taken."""
    reason: str
    cause: Cause = field(default_factory=Cause)
    kickstart: int = 0
    """Steps of kickstart that follow the rollback."""
    before: HParams
    """Hyperparameters in force before the rollback."""
    after: HParams
    """Hyperparameters in force after the rollback."""
    outcome: str = ""
    """Outcome of the retry; empty until it is known."""
    concluded: int = 0
    """Iteration at which the outcome became known; 0 until then."""

    def to_plain(self) -> dict[str, Any]:
        """Return the event as plain values for JSON and checkpoints."""
        plain = {**vars(self), "cause": asdict(self.cause)}
        return plain | {"before": self.before.flat(), "after": self.after.flat()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RollbackEvent:
        """Return the event from the plain values that `to_plain` returned."""
        values = {
            **plain,
            "cause": Cause(**plain["cause"]),
            "before": HParams.from_flat(plain["before"]),
            "after": HParams.from_flat(plain["after"]),
        }
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class HParamChange:
    """One entry of `Trainer.hparam_log`: a change by `Trainer.set_hparams`."""

    iteration: int
    step: int
    reason: str
    changes: Mapping[str, float]
    kickstart: int = 0
    """Steps of kickstart that begin with the change."""

    def to_plain(self) -> dict[str, Any]:
        """Return the change as plain values for JSON and checkpoints."""
        return {**vars(self), "changes": dict(self.changes)}
