"""The space a study searches: dotted configuration keys and what they may be, in Optuna's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import optuna
from pydantic import Field, model_validator

from cyclegan.config import Section, override, parse_config
from cyclegan.errors import ConfigError

Scalar = bool | int | float | str


class _Range(Section):
    """What both kinds of range have in common."""

    low: float
    high: float
    log: bool = False

    def examples(self) -> tuple[Scalar, ...]:
        """Its two ends."""
        return self.low, self.high

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, not {self.low}")
        if self.log and getattr(self, "step", None) not in (None, 1):
            raise ValueError("log and step exclude each other")
        return self


class FloatRange(_Range):
    """A real number in [low, high], on a logarithmic scale if `log`, or in steps of `step`."""

    type: Literal["float"] = "float"
    step: float | None = Field(default=None, gt=0)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """A value from the trial's sampler."""
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


class IntRange(_Range):
    """A whole number in [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(default=1, ge=1)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """A value from the trial's sampler."""
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)


class Choices(Section):
    """One of a list of values."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """A value from the trial's sampler."""
        value: Scalar = trial.suggest_categorical(name, self.choices)  # type: ignore[assignment]
        return value

    def examples(self) -> tuple[Scalar, ...]:
        """All of them."""
        return self.choices


Dimension = FloatRange | IntRange | Choices
Space = Mapping[str, Dimension]


def suggest(trial: optuna.trial.BaseTrial, space: Space, ties: Mapping[str, str]) -> dict[str, Any]:
    """The values of one trial for every searched key and every key tied to one."""
    values: dict[str, Any] = {key: dim.suggest(trial, key) for key, dim in space.items()}
    return values | {key: values[source] for key, source in ties.items()}


def check_space(base: Mapping[str, Any], space: Space, ties: Mapping[str, str], where: str) -> None:
    """Refuse a space with keys or values that no configuration could have.

    Errors: `ConfigError` before any trial is started.
    """
    for key, source in ties.items():
        if source not in space:
            raise ConfigError(f"{where}: ties.{key} = {source}, but {source} is not in the space")
    for key, dimension in space.items():
        tied = [other for other, source in ties.items() if source == key]
        for value in dimension.examples():
            changes = dict.fromkeys([key, *tied], value)
            parse_config(override(base, changes), source=f"{where}: space.{key} = {value}")
