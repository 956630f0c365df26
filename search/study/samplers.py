"""How a study chooses values."""

from __future__ import annotations

from typing import Literal

import optuna
from pydantic import Field

from cyclegan.config import Count, Section


class Sampler(Section):
    """How values are chosen."""

    name: Literal["tpe", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    startup_trials: Count = 10
    """Random trials before TPE uses what it has seen."""

    def build(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of trial `number`.

        Made afresh for every trial, seeded by the study's seed and the number: an interrupted study
        goes on with the values it would have had, although Optuna stores no sampler state.
        """
        seed = self.seed * 100_003 + number
        if self.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup_trials)
