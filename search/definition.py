"""A study's definition: one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from pydantic import Field

from cyclegan.config import Config, Count, RunName, Section, load_yaml, override, parse_config
from cyclegan.config import parse_section as parse
from cyclegan.errors import ConfigError
from search.space import Choices, FloatRange, IntRange, check_space


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


class Promotion(Section):
    """The training that the best trial becomes."""

    steps: Count = 10_000
    start: Literal["continue", "scratch"] = "scratch"
    """`continue` from the trial's checkpoint, or start afresh with its hyperparameters."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted configuration keys that differ from the trial's."""


class StudyDefinition(Section):
    """What a study searches, how, and for how long."""

    name: RunName
    config: dict[str, Any] | str
    """The base configuration, inline or the path of a YAML file (relative to this one)."""
    space: Annotated[
        dict[str, Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]],
        Field(min_length=1),
    ]
    ties: dict[str, str] = Field(default_factory=dict)
    """Keys that always have the value of a searched one, e.g. `lambdas.C_B: lambdas.C_A`."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Values to try first, by searched key."""
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    trials: Count = 20
    steps: Count = 4_000
    """Steps of a trial that is not pruned."""
    report_every: Count = 100
    """Steps between reports of the score."""
    promote: Promotion = Promotion()

    @property
    def base(self) -> dict[str, Any]:
        """The base configuration with what the study decides: steps and report cadence."""
        assert isinstance(self.config, dict)
        return dict(self.config) | {"steps": self.steps, "validate_every": self.report_every}

    def config_of(self, number: int, values: Mapping[str, Any]) -> Config:
        """The configuration of trial `number` with the searched `values`."""
        changes = {**values, "run_name": f"{self.name}-{number:03d}"}
        return parse_config(override(self.base, changes), source=f"study {self.name}")


def parse_definition(values: Mapping[str, Any], source: Path) -> StudyDefinition:
    """A definition from plain values, checked as far as it can be without data.

    Errors: `ConfigError` naming the file, the key, the value and the cure.
    """
    content = dict(values)
    if isinstance(content.get("config"), str):
        content["config"] = load_yaml(source.parent / content["config"])
    definition = parse(StudyDefinition, content, source=str(source))
    first = {key: dim.examples()[0] for key, dim in definition.space.items()}
    tied = {key: first[other] for key, other in definition.ties.items() if other in first}
    base = override(definition.base, first | tied)
    parse_config(base, source=f"{source}: config")
    check_space(definition.base, definition.space, definition.ties, str(source))
    for values_ in definition.enqueue:
        for key in values_:
            if key not in definition.space:
                raise ConfigError(f"{source}: enqueue has {key}, which is not in the space")
    if definition.pruner.name != "none" and definition.pruner.prune_after >= definition.steps:
        raise ConfigError(
            f"{source}: pruner.prune_after = {definition.pruner.prune_after} is not below "
            f"steps = {definition.steps}: nothing could be pruned"
        )
    return definition


def load_definition(path: Path) -> StudyDefinition:
    """Read a study's YAML file."""
    return parse_definition(load_yaml(path), path)
