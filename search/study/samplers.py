"""How a study chooses values.

Made afresh for every trial: Optuna stores no sampler's random state, so a sampler that lived as
long as a process would make an interrupted study go another way than an uninterrupted one. What a
sampler has to know of the past it takes from the study's storage.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from cyclegan.config import Count, Section
from cyclegan.errors import ConfigError
from search.study.space import Choices, FunctionSpace, Scalar, Space, cells


class Sampler(Section):
    """How values are chosen."""

    name: Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"] = "tpe"
    seed: int = Field(default=0, ge=0)
    """The same seed, the same values, given the same scores."""
    startup_trials: Count = 10
    """Random trials before TPE and GP use what they have seen."""

    def for_study(self, space: Space | FunctionSpace) -> BaseSampler:
        """A sampler for all trials of a study, in however many processes.

        Every trial gets the sampler of its own number when it begins, or is taken up again. Which
        number that is nobody knows before: of two workers that ask at once each gets another.
        """
        return _PerTrial(self, space)

    def build(self, number: int, space: Space | FunctionSpace) -> BaseSampler:
        """The sampler of trial `number`.

        TPE, GP and random draw from the study's seed and the number. A grid, QMC and CMA-ES have
        one seed for all trials: it names the order of the cells, the sequence, the evolution.
        """
        seed = (self.seed * 100_003 + number) % 2**32
        with warnings.catch_warnings():  # that QMC and group may still change their interface
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.name == "random":
                return optuna.samplers.RandomSampler(seed=seed)
            if self.name == "gp":
                return optuna.samplers.GPSampler(
                    seed=seed, n_startup_trials=self.startup_trials, warn_independent_sampling=False
                )
            if self.name == "cmaes":
                return optuna.samplers.CmaEsSampler(
                    seed=self.seed,
                    independent_sampler=optuna.samplers.RandomSampler(seed=seed),
                    warn_independent_sampling=False,
                )
            if self.name == "qmc":
                return _Sequence(number, space, self.seed, seed)
            if self.name == "grid":
                return _Grid(_grid_of(space), seed=self.seed)
            # With conditional keys, those that occur together are modelled together.
            group = isinstance(space, FunctionSpace)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self.startup_trials, group=group
            )

    def cells(self, space: Space | FunctionSpace) -> int | None:
        """How many different trials a grid has; None for the other samplers."""
        if self.name != "grid":
            return None
        return math.prod(len(values) for values in _grid_of(space).values())

    def check(self, space: Space | FunctionSpace) -> None:
        """Refuse a space that this sampler can't search. Errors: `ConfigError`."""
        if self.name == "grid":
            _grid_of(space)
        elif isinstance(space, FunctionSpace):
            return
        elif any(getattr(dimension, "points", None) for dimension in space.values()):
            raise ConfigError(f"space: points are for the sampler grid, not for {self.name}")
        elif self.name == "cmaes":
            numbers = [key for key, d in space.items() if not isinstance(d, Choices)]
            if len(numbers) < 2:
                raise ConfigError(
                    "sampler cmaes evolves float and int keys together and needs two of them; take "
                    "tpe for this space"
                )


class _PerTrial(BaseSampler):
    """Hands every trial to the sampler of its number."""

    def __init__(self, settings: Sampler, space: Space | FunctionSpace) -> None:
        self.settings, self.space = settings, space
        self._own: dict[int, BaseSampler] = {}
        """Of the trials in hand, by number."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A trial begins, or is taken up again."""
        self._own[trial.number] = self.settings.build(trial.number, self.space)
        self._own[trial.number].before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What is chosen together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The values of those."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of another."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """A trial has ended."""
        self._of(trial).after_trial(study, trial, state, values)
        self._own.pop(trial.number, None)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._own:  # told by a process that did not ask
            self._own[trial.number] = self.settings.build(trial.number, self.space)
        return self._own[trial.number]


class _Grid(optuna.samplers.GridSampler):
    """A grid for studies that are asked and told: they count their trials themselves."""

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Nothing. The original stops `optimize` after the last cell, which raises without it."""


class _Sequence(optuna.samplers.QMCSampler):
    """Trial n gets point n of a scrambled Sobol sequence.

    The original counts its points in the storage, at every attempt to start a trial: a trial that
    was killed and taken up again would skip one.
    """

    def __init__(self, number: int, space: Space | FunctionSpace, seed: int, own_seed: int) -> None:
        super().__init__(
            scramble=True,
            seed=seed,
            independent_sampler=optuna.samplers.RandomSampler(seed=own_seed),
            warn_independent_sampling=False,
        )
        self.number, self.space = number, space

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space from the first trial on; of a function what its first trial had."""
        if isinstance(self.space, FunctionSpace):
            return super().infer_relative_search_space(study, trial)
        return {key: dimension.distribution() for key, dimension in self.space.items()}

    def _find_sample_id(self, study: optuna.Study, search_space: Mapping[str, Any]) -> int:
        return self.number


def _grid_of(space: Space | FunctionSpace) -> dict[str, list[Scalar]]:
    if isinstance(space, FunctionSpace):
        raise ConfigError(
            f"sampler grid can't try every combination of a function ({space.file}); list the keys "
            "in the study, or take another sampler"
        )
    return cells(space)
