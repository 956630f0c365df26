"""Samplers: the ways in which a study chooses values.

Every trial gets a new sampler. Optuna does not store the random state of samplers, so with a
sampler that lived as long as its process, an interrupted study would take another course than an
uninterrupted one. A sampler reads all it needs to know of the past from the study's storage.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import model_validator

from cyclegan.config import Count, Section, Seed
from cyclegan.errors import ConfigError
from search.study.cube import Cube
from search.study.proposals import proposal
from search.study.prospects import Prospects
from search.study.space import Choices, FunctionSpace, Scalar, Space, cells


class Outlook(Protocol):
    """Returns the prospects of a study's trials (see `search.study.outlook.outlook`)."""

    def __call__(self, study: optuna.Study, *, without: int | None = None) -> Prospects:
        """Return them, but for trial `without`."""
        ...


_SEEDS = 2**32
"""Number of different seeds of NumPy's old generator, which some of Optuna's samplers use."""


class Sampler(Section):
    """The way in which a study chooses values."""

    name: Literal["auto", "tpe", "gp", "noisy_gp", "cmaes", "qmc", "random", "grid"] = "auto"
    """`auto` stands for what `search.study.automatic` takes for the study."""
    seed: Seed = 0
    """With the same seed and the same scores, the sampler chooses the same values."""
    startup_trials: Count = 10
    """Number of random trials before TPE and GP use earlier results."""
    recorded_trials: bool = True
    """With `noisy_gp`: learn also from the trainings on other data that are recorded with the
    software, as far as this study's own trials agree with them."""
    reason: str = ""
    """Reason why `auto` took this sampler."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def for_study(
        self, space: Space | FunctionSpace, outlook: Outlook | None = None
    ) -> BaseSampler:
        """Return a sampler for all trials of a study, in any number of processes.

        `noisy_gp` needs the study's `outlook`.

        Every trial gets the sampler of its own number when it begins or continues. The number is
        not known before: two workers that ask at the same time get different numbers.
        """
        return _PerTrial(self, space, outlook)

    def build(
        self, number: int, space: Space | FunctionSpace, outlook: Outlook | None = None
    ) -> BaseSampler:
        """Return the sampler of trial `number`.

        TPE, GP and random use a seed derived from the study's seed and the number. A grid, QMC and
        CMA-ES have one seed for all trials: it selects the order of the cells, the sequence, the
        evolution.
        """
        seed = (self.seed * 100_003 + number) % 2**32
        with warnings.catch_warnings():  # the interface of QMC and group is experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.name == "random":
                return optuna.samplers.RandomSampler(seed=seed)
            if self.name == "gp":
                return optuna.samplers.GPSampler(
                    seed=seed, n_startup_trials=self.startup_trials, warn_independent_sampling=False
                )
            if self.name == "noisy_gp":
                assert outlook is not None and not isinstance(space, FunctionSpace)
                return _NoisyGP(self, number, Cube(space), outlook)
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
            # Conditional keys that occur together are modelled together.
            group = isinstance(space, FunctionSpace)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self.startup_trials, group=group
            )

    def cells(self, space: Space | FunctionSpace) -> int | None:
        """Return the number of different trials of a grid; None for the other samplers."""
        if self.name != "grid":
            return None
        return math.prod(len(values) for values in _grid_of(space).values())

    def check(self, space: Space | FunctionSpace) -> None:
        """Refuse a space or a seed with which this sampler can't search. Errors: `ConfigError`."""
        if self.name in ("grid", "cmaes") and self.seed >= _SEEDS:
            raise ConfigError(
                f"sampler.seed = {self.seed}: the sampler {self.name} takes seeds below {_SEEDS}"
            )
        if self.name == "grid":
            _grid_of(space)
        elif isinstance(space, FunctionSpace):
            if self.name == "noisy_gp":
                raise ConfigError(
                    f"sampler noisy_gp compares trials by the same keys, and those of a function "
                    f"({space.file}) may change; list the keys in the study, or take tpe"
                )
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
    """Passes every trial to the sampler of its number."""

    def __init__(
        self, settings: Sampler, space: Space | FunctionSpace, outlook: Outlook | None
    ) -> None:
        self.settings, self.space, self.outlook = settings, space, outlook
        self._own: dict[int, BaseSampler] = {}
        """Samplers of the current trials, by number."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Build the sampler of a trial that begins or continues."""
        self._own[trial.number] = self._built(trial.number)
        self._own[trial.number].before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the part of the space whose values are chosen together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the values that are chosen together."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of any other key."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Drop the sampler of a trial that has ended."""
        self._of(trial).after_trial(study, trial, state, values)
        self._own.pop(trial.number, None)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._own:  # another process asked for this trial
            self._own[trial.number] = self._built(trial.number)
        return self._own[trial.number]

    def _built(self, number: int) -> BaseSampler:
        return self.settings.build(number, self.space, self.outlook)


class _NoisyGP(BaseSampler):
    """Chooses what is most likely to end best, as `search.study.proposals.proposal` does."""

    def __init__(self, settings: Sampler, number: int, cube: Cube, outlook: Outlook) -> None:
        self.settings, self.number, self.cube, self.outlook = settings, number, cube, outlook

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the whole space, from the first trial on."""
        return {key: dimension.distribution() for key, dimension in self.cube.space.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of all keys."""
        place = proposal(
            self.outlook(study, without=self.number),
            self.number,
            self.cube,
            startup=self.settings.startup_trials,
            seed=self.settings.seed,
        )
        return self.cube.values(place)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value that an enqueued trial lacks, at random."""
        seed = (self.settings.seed * 100_003 + self.number) % _SEEDS
        random = optuna.samplers.RandomSampler(seed=seed)
        return random.sample_independent(study, trial, param_name, param_distribution)


class _Grid(optuna.samplers.GridSampler):
    """A grid for studies that ask and tell: they count their trials themselves."""

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Do nothing. The original stops `optimize` after the last cell, which fails without it."""


class _Sequence(optuna.samplers.QMCSampler):
    """Gives trial n the point n of a scrambled Sobol sequence.

    The original counts its points in the storage at every attempt to start a trial, so a trial that
    was killed and continued would skip a point.
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
        """Return the whole space from the first trial on; of a function, its first trial's keys."""
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
