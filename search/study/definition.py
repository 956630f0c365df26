"""The definition of a study: one YAML file, its keys, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import Field, PlainSerializer, WrapValidator

from cyclegan.config import Config, Count, RunName, Section, load_yaml, override, parse_config
from cyclegan.config import parse_section as parse
from cyclegan.errors import ConfigError
from search.study.automatic import decided
from search.study.judging import JudgedBy, counted_report, score_of_reports
from search.study.objective import (
    Objective,
    Objectives,
    is_in_db,
)
from search.study.pruners import Pruner, judged_at
from search.study.rules import Checkpoints, StopRules
from search.study.samplers import Sampler
from search.study.space import (
    MOST_CELLS,
    Choices,
    FloatRange,
    FunctionSpace,
    IntRange,
    Space,
    check_space,
    check_ties,
    contains,
    draws,
    random_trials,
    read_function_space,
    suggest,
)


def _function_or_ranges(value: Any, ranges: Any) -> Any:
    """Return a stored function space, or else the mapping of ranges as validated by `ranges`."""
    if isinstance(value, FunctionSpace):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("function"), str):
        return FunctionSpace.model_validate(value)
    return ranges(value)


if TYPE_CHECKING:
    AnySpace = Space | FunctionSpace
else:
    # Not a union for pydantic, which would report each error in a range twice.
    AnySpace = Annotated[
        dict[str, Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]],
        Field(min_length=1),
        WrapValidator(_function_or_ranges),
        PlainSerializer(
            lambda space: (
                space.model_dump(mode="json")
                if isinstance(space, FunctionSpace)
                else {key: dimension.model_dump(mode="json") for key, dimension in space.items()}
            )
        ),
    ]


class Promotion(Section):
    """The training that the best trial becomes."""

    steps: Count = 10_000
    """Optimisation steps of the training, including those of the trial if it is continued."""
    start: Literal["continue", "scratch"] = "scratch"
    """`continue` from the trial's checkpoint, or start afresh with its hyperparameters."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted configuration keys that differ from the trial's."""


class StudyDefinition(Section):
    """The definition of a study: its search space, its sampler and pruner, and its budgets."""

    name: RunName
    """Name of the study, its MLflow experiment and its folder in `results/`."""
    config: dict[str, Any] | str
    """The base configuration, inline or as the path of a YAML file (relative to this file)."""
    space: AnySpace
    """The values that each searched key may take, or `file.py:function` (see
    `search.study.space`)."""
    ties: dict[str, str] = Field(default_factory=dict)
    """Keys that always take the value of a searched key, e.g. `lambdas.C_B: lambdas.C_A`."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Sets of values to try first, by searched key."""
    enqueue_defaults: bool = True
    """Try the base configuration's own values first if they lie in the space."""
    warm_start: tuple[RunName, ...] = ()
    """Earlier studies whose best values are tried first."""
    objective: Objectives = ("score",)
    """The metric to maximise: the score, or one of its parts alone. A list of two or three asks
    for a Pareto front; the ones after the first may also be `seconds` or distances, for which lower
    is better."""
    judge_by: JudgedBy = "best"
    """The validation that counts for a trial: the best from `pruner.prune_after` on, or the
    last. Successive halving and Hyperband compare trials by it, too."""
    sampler: Sampler = Sampler()
    """The sampler that chooses the values."""
    pruner: Pruner = Pruner()
    """The pruner that ends hopeless trials early."""
    trials: Count = 20
    """Number of trials to begin; the default of a grid is one for every combination."""
    steps: Count = 4_000
    """Optimisation steps of a trial that is not pruned."""
    report_every: Count = 100
    """Optimisation steps between reports of the score."""
    seeds: Count = 1
    """Number of trainings, each with another seed, of a trial that is not pruned; its score is
    their mean."""
    stop: StopRules = StopRules()
    """Conditions that end the study earlier."""
    checkpoints: Checkpoints = Checkpoints()
    """The number of trials that keep their checkpoints, and the disk space of the study."""
    promote: Promotion = Promotion()
    """The training that the best trial becomes."""

    @property
    def first_objective(self) -> Objective:
        """The objective whose curve is looked at while a trial trains."""
        return cast(Objective, self.objective[0])

    @property
    def base(self) -> dict[str, Any]:
        """The base configuration with the study's own values for steps and `validate_every`."""
        assert isinstance(self.config, dict)
        return dict(self.config) | {"steps": self.steps, "validate_every": self.report_every}

    def config_of(self, number: int, values: Mapping[str, Any]) -> Config:
        """Return the configuration of trial `number` with the searched `values`."""
        changes = {**values, "run_name": f"{self.name}-{number:03d}"}
        return parse_config(override(self.base, changes), source=f"study {self.name}")

    def score_of_reports(self, reports: Mapping[int, float]) -> float | None:
        """Return a trial's score from its reports (objective by iteration); None without any."""
        return score_of_reports(reports, self.judge_by, self.pruner.prune_after)

    def counted_report(self, reports: Mapping[int, float]) -> int | None:
        """Return the iteration of the report that gives a trial its score."""
        return counted_report(reports, self.judge_by, self.pruner.prune_after)

    def first_values(self) -> dict[str, Any]:
        """Return possible values of a trial: the low end of each range, or a draw of a function."""
        if isinstance(self.space, FunctionSpace):
            return suggest(random_trials(1)[0], self.space, self.ties)
        first: dict[str, Any] = {key: dim.examples()[0] for key, dim in self.space.items()}
        return self.tied(first)

    def tied(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values with those of the tied keys, where the keys they follow have some."""
        tied = {key: values[source] for key, source in self.ties.items() if source in values}
        return {**values, **tied}

    def with_trials(self, trials: int) -> StudyDefinition:
        """Return the study with another number of trials. Errors: `ConfigError` beyond a grid."""
        changed = self.model_copy(update={"trials": trials})
        _check_budget(changed)
        return changed


def parse_definition(values: Mapping[str, Any], source: Path) -> StudyDefinition:
    """Parse a definition from plain values, and check all that can be checked without data.

    If the space is named as `file.py:function`, the file is read and the function is tried. A space
    that is stored with its text, as in the result of `model_dump`, is not run. The key `set` of a
    file changes dotted keys of its base configuration and is not stored itself.

    Errors: `ConfigError` naming the file, the key, the value and the remedy.
    """
    content = dict(values)
    if isinstance(content.get("config"), str):
        content["config"] = load_yaml(source.parent / content["config"])
    changes = content.pop("set", {})
    if not isinstance(changes, dict):
        raise ConfigError(
            f"{source}: set = {changes!r}: must map dotted configuration keys to values"
        )
    if changes and isinstance(content.get("config"), dict):
        content["config"] = override(content["config"], changes)
    new_function = isinstance(content.get("space"), str)
    try:
        if new_function:
            content["space"] = read_function_space(content["space"], source.parent)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    definition = parse(StudyDefinition, content, source=str(source))
    try:
        if new_function:
            definition = _with_tried_function(definition)
        elif not isinstance(definition.space, FunctionSpace):
            check_ties(definition.space, definition.ties)
        _check_objectives(definition)
        definition = decided(definition)
        definition.sampler.check(definition.space)
        _check_models(definition)
        cells = definition.sampler.cells(definition.space)
        if cells:
            asked = {"trials": cells, "enqueue_defaults": False}
            unsaid = {key: value for key, value in asked.items() if key not in content}
            definition = definition.model_copy(update=unsaid)
        _check_budget(definition)
        _check_enqueued(definition)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    if not isinstance(definition.space, FunctionSpace):
        base = override(definition.base, definition.first_values())
        parse_config(base, source=f"{source}: config")
        check_space(definition.base, definition.space, definition.ties, str(source))
    return definition


def load_definition(path: Path) -> StudyDefinition:
    """Read a study's YAML file, and check what follows the study, too.

    Errors: `ConfigError` naming the file, the key, the value and the remedy.
    """
    definition = parse_definition(load_yaml(path), path)
    try:
        _check_promotion(definition)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return definition


def promoted(
    definition: StudyDefinition,
    trial: Config,
    *,
    run_name: str,
    steps: int | None = None,
    hp_optimizer: bool | None = None,
) -> Config:
    """Return the configuration to which a trial's is promoted: `promote`, changed by the arguments.

    Errors: `ConfigError` if it is none, or has other data than those on which the trial was chosen.
    """
    settings = definition.promote
    changes = dict(settings.set) | {"run_name": run_name, "steps": steps or settings.steps}
    if hp_optimizer is not None:
        changes["hp_optimizer.enabled"] = hp_optimizer
    config = parse_config(override(trial.to_dict(), changes), source="promote.set")
    for key in ("data_A", "data_B"):
        if getattr(config, key) != getattr(trial, key):
            raise ConfigError(
                f"promote.set.{key} = {getattr(config, key)}: a promotion trains on the trial's "
                f"data, {getattr(trial, key)}; leave the key out"
            )
    return config


def _check_promotion(definition: StudyDefinition) -> None:
    settings = definition.promote
    if settings.start == "continue" and settings.steps <= definition.steps:
        raise ConfigError(
            f"promote.steps = {settings.steps}: with start = continue, a trial has already done "
            f"steps = {definition.steps}; raise it, or take start = scratch"
        )
    trial = definition.config_of(0, definition.first_values())
    promoted(definition, trial, run_name=trial.run_name)


def _with_tried_function(definition: StudyDefinition) -> StudyDefinition:
    """Try the function of a space, and return the definition with the names that it asks for.

    Every draw must make a valid configuration.

    Errors: `ConfigError` with the values of the draw that failed.
    """
    space = definition.space
    assert isinstance(space, FunctionSpace)
    given, names = draws(space)
    for values in given:
        missing = [source for source in definition.ties.values() if source not in values]
        if missing:
            raise ConfigError(f"ties: {space.function} gives no value for {missing[0]}")
        values |= {key: values[source] for key, source in definition.ties.items()}
        source = f"{space.function} in {space.file} gave {values}"
        parse_config(override(definition.base, values), source=source)
    named = space.model_copy(update={"parameters": names})
    return definition.model_copy(update={"space": named})


_ONE_OBJECTIVE = ("cmaes", "noisy_gp")
"""Samplers that search for the best value of one objective."""


def _check_objectives(definition: StudyDefinition) -> None:
    first, *others = definition.objective
    if first not in get_args(Objective):
        raise ConfigError(
            f"objective = {first}: the first objective must be one of "
            f"{', '.join(get_args(Objective))}, because its curve chooses checkpoints; put it later"
        )
    if len(set(definition.objective)) < len(definition.objective):
        raise ConfigError(f"objective = {list(definition.objective)}: each may be there only once")
    if not others:
        return
    sampler, pruner = definition.sampler.name, definition.pruner.name
    if sampler in _ONE_OBJECTIVE:
        raise ConfigError(f"sampler {sampler} takes one objective; take tpe or gp for several")
    if pruner not in ("auto", "none"):
        raise ConfigError(
            f"pruner {pruner} compares trials by one objective; with several take none"
        )
    if definition.stop.expected_gain is not None:
        raise ConfigError("stop.expected_gain is for one objective; take stop.no_improvement")


def _check_models(definition: StudyDefinition) -> None:
    """Refuse forecasts of what the recorded learning curves say nothing about."""
    asked = {
        "sampler noisy_gp": definition.sampler.name == "noisy_gp",
        "pruner thaw": definition.pruner.name == "thaw",
        "stop.expected_gain": definition.stop.expected_gain is not None,
    }
    if is_in_db(definition.first_objective):
        return
    for what, is_asked in asked.items():
        if is_asked:
            raise ConfigError(
                f"{what} forecasts scores in dB, not objective = {definition.first_objective}; "
                "take sampler tpe and pruner percentile"
            )


def _check_enqueued(definition: StudyDefinition) -> None:
    """Refuse values to try first that lie outside the space: Optuna would accept them.

    Errors: `ConfigError`.
    """
    space = definition.space
    if definition.sampler.name == "grid":
        for key in ("enqueue", "enqueue_defaults", "warm_start"):
            if getattr(definition, key):
                raise ConfigError(
                    f"{key}: the sampler grid tries every combination anyway; leave it out"
                )
    for values in definition.enqueue:
        for key, value in values.items():
            if key not in space:
                raise ConfigError(f"enqueue has {key}, which is not in the space")
            if not isinstance(space, FunctionSpace) and not contains(space[key], value):
                raise ConfigError(
                    f"enqueue has {key} = {value}, which is not among the values of space.{key}"
                )


def _check_budget(definition: StudyDefinition) -> None:
    if definition.trials > MOST_CELLS:
        raise ConfigError(
            f"trials = {definition.trials}: a study may have at most {MOST_CELLS:,}; lower it"
        )
    pruner, last = definition.pruner, definition.steps
    if pruner.name != "none" and judged_at(pruner.prune_after, definition.report_every) >= last:
        raise ConfigError(
            f"pruner.prune_after = {pruner.prune_after} with report_every = "
            f"{definition.report_every} leaves nothing to prune before steps = {last}; lower one"
        )
    cells = definition.sampler.cells(definition.space)
    if cells and definition.trials > cells:
        raise ConfigError(
            f"trials = {definition.trials}: the grid has only {cells} combinations; leave trials "
            "out to try all of them"
        )
