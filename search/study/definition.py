"""A study's definition: one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cyclegan.config import Config, Count, RunName, Section, load_yaml, override, parse_config
from cyclegan.config import parse_section as parse
from cyclegan.errors import ConfigError
from search.study.pruners import Pruner
from search.study.rules import Checkpoints, StopRules
from search.study.samplers import Sampler
from search.study.space import Choices, FloatRange, IntRange, check_space


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
    enqueue_defaults: bool = True
    """Try the base configuration's own values first, where they lie in the space."""
    warm_start: tuple[RunName, ...] = ()
    """Earlier studies whose best values are tried first."""
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    trials: Count = 20
    steps: Count = 4_000
    """Steps of a trial that is not pruned."""
    report_every: Count = 100
    """Steps between reports of the score."""
    seeds: Count = 1
    """Trainings of a trial that is not pruned, each with another seed; its score is their mean."""
    stop: StopRules = StopRules()
    checkpoints: Checkpoints = Checkpoints()
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
