"""How hopeless trials are ended early."""

from __future__ import annotations

from typing import Annotated, Literal

import optuna
from pydantic import Field

from cyclegan.config import Count, Section


class Pruner(Section):
    """How hopeless trials are ended early."""

    name: Literal["successive_halving", "median", "none"] = "successive_halving"
    prune_after: Count = 1_000
    """Iterations before a trial is judged first."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One in so many survives a rung; the next rung is so many times later."""
    startup_trials: int = Field(default=3, ge=0)
    """Trials that must have finished before the median is a yardstick."""

    def build(self) -> optuna.pruners.BasePruner:
        """Optuna's pruner of that name."""
        if self.name == "none":
            return optuna.pruners.NopPruner()
        if self.name == "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=self.startup_trials, n_warmup_steps=self.prune_after
            )
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.prune_after, reduction_factor=self.reduction_factor
        )
