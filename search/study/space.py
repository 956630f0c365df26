"""The search space of a study: dotted configuration keys and their possible values.

A space is a mapping of ranges and choices in Optuna's terms, or a Python function.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.abc
import importlib.util
import math
import signal
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, Self

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from cyclegan.config import Section, override, parse_config
from cyclegan.errors import ConfigError
from search.study.storage import STORAGE_ERRORS

Scalar = bool | int | float | str
MOST_CELLS = 100_000
"""Most combinations of a grid; Optuna holds all of them in memory."""
_WHOLE = 1e-8
"""Largest distance from a whole number of steps that counts as whole; Optuna's own tolerance."""


class _Range(Section):
    """Common base of both kinds of range."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False
    points: int | None = Field(default=None, ge=2)
    """Number of values from low to high for the sampler `grid`, evenly spaced on the range's
    scale."""

    def examples(self) -> tuple[Scalar, ...]:
        """Return both ends."""
        return self.low, self.high

    def _spaced(self, points: int) -> list[float]:
        """Return `points` numbers from low to high, rounded to six digits."""
        low, high, last = float(self.low), float(self.high), points - 1
        if self.log:
            inner = [low * (high / low) ** (i / last) for i in range(1, last)]
        else:
            inner = [low + (high - low) * i / last for i in range(1, last)]
        return [low, *(float(f"{value:.6g}") for value in inner), high]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, not {self.low}")
        step = getattr(self, "step", None)
        if step is None:
            return self
        if self.log and not (isinstance(self.low, int) and step == 1):
            raise ValueError("log and step exclude each other")
        steps = (self.high - self.low) / step
        if not math.isfinite(steps) or abs(steps - round(steps)) > _WHOLE:
            raise ValueError(
                f"high = {self.high} is not a whole number of steps of {step} above low = "
                f"{self.low}"
            )
        return self


class FloatRange(_Range):
    """A real number in [low, high], on a logarithmic scale if `log`, or in steps of `step`."""

    type: Literal["float"] = "float"
    step: float | None = Field(default=None, gt=0)

    def distribution(self) -> BaseDistribution:
        """Return the range in Optuna's terms."""
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """Return a value from the trial's sampler."""
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def grid_size(self) -> int | None:
        """Return the number of values for a grid; None if the range does not define them."""
        if self.points:
            return self.points
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def grid(self) -> Sequence[Scalar] | None:
        """Return the values for a grid; None if the range does not define them."""
        if self.points:
            return self._spaced(self.points)
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step)
        return [min(self.low + i * self.step, self.high) for i in range(count + 1)]


class IntRange(_Range):
    """An integer in [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(default=1, ge=1)

    def distribution(self) -> BaseDistribution:
        """Return the range in Optuna's terms."""
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """Return a value from the trial's sampler."""
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)

    def grid_size(self) -> int | None:
        """Return the number of values for a grid, counting equal ones of `points` each."""
        return self.points or (self.high - self.low) // self.step + 1

    def grid(self) -> Sequence[Scalar] | None:
        """Return the values for a grid: all of them, or `points` of them."""
        if self.points:
            low, step = self.low, self.step
            near = (low + step * round((value - low) / step) for value in self._spaced(self.points))
            return list(dict.fromkeys(near))
        return list(range(self.low, self.high + 1, self.step))


class Choices(Section):
    """One of a list of values."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    def distribution(self) -> BaseDistribution:
        """Return the choices in Optuna's terms."""
        return CategoricalDistribution(self.choices)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """Return a value from the trial's sampler."""
        value: Scalar = trial.suggest_categorical(name, self.choices)  # type: ignore[assignment]
        return value

    def examples(self) -> tuple[Scalar, ...]:
        """Return all choices."""
        return self.choices

    def grid_size(self) -> int | None:
        """Return the number of choices."""
        return len(self.choices)

    def grid(self) -> Sequence[Scalar] | None:
        """Return all choices."""
        return self.choices


Dimension = FloatRange | IntRange | Choices
Space = Mapping[str, Dimension]


def suggest(
    trial: optuna.trial.BaseTrial, space: Space | FunctionSpace, ties: Mapping[str, str]
) -> dict[str, Any]:
    """Return the values of one trial for every searched key and every key tied to one.

    Errors: `ConfigError` if a function fails, or gives no value for a key to which others are tied.
    """
    if isinstance(space, FunctionSpace):
        values = space(trial)
        missing = [source for source in ties.values() if source not in values]
        if missing:
            raise ConfigError(f"ties: {space.name} in {space.file} gives no value for {missing[0]}")
    else:
        values = {key: dimension.suggest(trial, key) for key, dimension in space.items()}
    return values | {key: values[source] for key, source in ties.items()}


def contains(dimension: Dimension, value: Any) -> bool:
    """Return True if the dimension can take `value`."""
    try:
        distribution = dimension.distribution()
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def cells(space: Space) -> dict[str, list[Scalar]]:
    """Return the values of every key on the grid.

    Errors: `ConfigError` naming a key that does not define its values there, or for more than
    `MOST_CELLS` combinations.
    """
    sizes = {key: dimension.grid_size() for key, dimension in space.items()}
    for key, size in sizes.items():
        if size is None:
            raise ConfigError(
                f"space.{key}: sampler grid needs to know its values; give it points: 3 or a step, "
                "or make it categorical with choices"
            )
    combinations = math.prod(size for size in sizes.values() if size is not None)
    if combinations > MOST_CELLS:
        counts = ", ".join(f"{key} {size:,}" for key, size in sizes.items())
        raise ConfigError(
            f"sampler grid: {combinations:,} combinations ({counts}) are more than the "
            f"{MOST_CELLS:,} that a grid may have; give the keys fewer points or larger steps, or "
            "take the sampler qmc"
        )
    return {key: list(dimension.grid() or ()) for key, dimension in space.items()}


def check_ties(space: Space, ties: Mapping[str, str]) -> None:
    """Refuse ties to keys that are not searched, and of keys that are. Errors: `ConfigError`."""
    for key, source in ties.items():
        if source not in space:
            raise ConfigError(f"ties.{key} = {source}, but {source} is not in the space")
        if key in space:
            raise ConfigError(f"{key} is in the space, so it can't be tied to {source}")


def check_space(base: Mapping[str, Any], space: Space, ties: Mapping[str, str], where: str) -> None:
    """Refuse a space with keys or values that no configuration could have.

    Errors: `ConfigError`, before any trial starts.
    """
    for key, dimension in space.items():
        tied = [other for other, source in ties.items() if source == key]
        for value in dimension.examples():
            changes = dict.fromkeys([key, *tied], value)
            parse_config(override(base, changes), source=f"{where}: space.{key} = {value}")


# -- Function spaces: for keys that exist only if another key has a certain value --------------
#
# ```
# def lambdas(trial):                      # trial: optuna.trial.Trial
#     values = {"lambdas.C_A": trial.suggest_float("lambdas.C_A", 0.1, 10.0, log=True)}
#     if trial.suggest_categorical("identity", [True, False]):
#         values["lambdas.I_A"] = trial.suggest_float("lambdas.I_A", 0.3, 10.0, log=True)
#     return values                        # dotted configuration keys
# ```
# This is the only place where a study runs the user's code. It runs the text that was read with the
# definition and is stored with it, so a study always continues with the function it began with, and
# showing a study runs nothing.

MOST_SECONDS = 120.0
"""Longest time that the user's file may take to load, and a function for one trial."""
DRAWS = 20
"""Number of trials with which a new function is tried before a study may begin."""


class FunctionSpace(Section):
    """A function `trial -> {dotted key: value}`, with the text of its file."""

    file: str
    """Path relative to the study's file, in its folder or below."""
    function: str
    sha256: str
    """Hash of `text`."""
    text: str
    parameters: tuple[str, ...] = ()
    """Names for which it asked the trial when it was tried."""

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        """Iterate over the names it asks for, as a mapping of ranges iterates over its keys."""
        return iter(self.parameters)

    @model_validator(mode="after")
    def _text_is_what_was_checked(self) -> Self:
        if _hash(self.text) != self.sha256:
            raise ValueError(f"the stored text of {self.file} was changed by hand")
        return self

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Return the values of one trial by dotted configuration key. Errors: `ConfigError`."""
        try:
            function = self._loaded()
            with _ending(f"{self.file}:{self.function}"):
                values = function(trial)
        except (ConfigError, optuna.TrialPruned, *STORAGE_ERRORS):
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.file}:{self.function} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise ConfigError(
                f"{self.file}:{self.function} gave {values!r}; it must return a dictionary of "
                "dotted configuration keys to values"
            )
        return {key: _plain(value) for key, value in values.items()}

    def _loaded(self) -> Callable[[optuna.trial.BaseTrial], Any]:
        found = getattr(_module(self.file, self.text), self.function, None)
        if not callable(found):
            raise ConfigError(f"{self.file} has no function '{self.function}'")
        return found  # type: ignore[no-any-return]


def read_function_space(reference: str, folder: Path) -> FunctionSpace:
    """Read the space `file.py:function`, its file relative to `folder`, without running it.

    Errors: `ConfigError` for a wrong form, or a file that is missing or lies outside of `folder`.
    """
    file, colon, function = reference.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"space = {reference!r}: must be a mapping or file.py:function")
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(f"space = {reference}: the file must lie beside the study's, or below it")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"space = {reference}: {path} can't be read: {error}") from error
    return FunctionSpace(file=file, function=function, sha256=_hash(text), text=text)


def draws(space: FunctionSpace) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the function's values for `DRAWS` random trials, and the names it asked for."""
    given, names = [], dict[str, None]()
    for trial in random_trials(DRAWS):
        given.append(space(trial))
        names |= dict.fromkeys(trial.params)
    return given, tuple(names)


def random_trials(count: int) -> list[optuna.trial.Trial]:
    """Return trials of no study that draw their values at random, the same ones every time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask() for _ in range(count)]


class _Text(importlib.abc.InspectLoader):
    """Imports a module from its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, fullname: str) -> str:
        return self.text


@functools.lru_cache(maxsize=8)
def _module(file: str, text: str) -> types.ModuleType:
    loader = _Text(text)
    spec = importlib.util.spec_from_loader(f"study_space_{Path(file).stem}", loader, origin=file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _ending(file):
            loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{file} can't be loaded: {type(error).__name__}: {error}") from error
    return module


class _TooLongError(BaseException):
    """The time of the user's code is over; their `except Exception` does not catch it."""


@contextlib.contextmanager
def _ending(name: str) -> Iterator[None]:
    """Let the user's code in the block neither run for ever nor end this process.

    Time is limited in the main thread alone: only that gets signals.

    Errors: `ConfigError` with the `name` of the code.
    """
    limited = threading.current_thread() is threading.main_thread()

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    if limited:
        previous = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    except _TooLongError:
        raise ConfigError(
            f"{name} did not end within {MOST_SECONDS:g} seconds; a space must only ask the trial "
            "for values"
        ) from None
    except SystemExit as error:
        raise ConfigError(
            f"{name} ended the program (sys.exit({error.code!r})); raise an error or return values"
        ) from error
    finally:
        if limited:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's own, because only those can be stored."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
