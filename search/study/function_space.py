"""A space that is a Python function: for keys that exist only where another has some value.

```
def lambdas(trial):                      # trial: optuna.trial.Trial
    values = {"lambdas.C_A": trial.suggest_float("lambdas.C_A", 0.1, 10.0, log=True)}
    if trial.suggest_categorical("identity", [True, False]):
        values["lambdas.I_A"] = trial.suggest_float("lambdas.I_A", 0.3, 10.0, log=True)
    return values                        # dotted configuration keys
```
It is the one place where a study runs code of the user's own. What runs is the text that was read
with the definition and is stored with it, so a study never goes on with another function than it
began with, and showing one runs nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.abc
import importlib.util
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import optuna
from pydantic import model_validator

from cyclegan.config import Section
from cyclegan.errors import ConfigError

DRAWS = 20
"""Trials a new function is tried with before a study may begin."""


class FunctionSpace(Section):
    """A function `trial -> {dotted key: value}`, with the text of its file."""

    file: str
    """Relative to the study's file, in its folder or below."""
    function: str
    sha256: str
    """Of `text`."""
    text: str
    parameters: tuple[str, ...] = ()
    """Names it asked the trial for, in the draws it was checked with."""

    @property
    def name(self) -> str:
        """Of the function."""
        return self.function

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        """The names it asks for, as a mapping of ranges gives its keys."""
        return iter(self.parameters)

    @model_validator(mode="after")
    def _text_is_what_was_checked(self) -> Self:
        if _hash(self.text) != self.sha256:
            raise ValueError(f"the stored text of {self.file} was changed by hand")
        return self

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """The values of one trial by dotted configuration key. Errors: `ConfigError`."""
        try:
            values = self._loaded()(trial)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.file}:{self.function} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
            raise ConfigError(
                f"{self.file}:{self.function} gave {values!r}; a dictionary of dotted "
                "configuration keys to values is wanted"
            )
        return {key: _plain(value) for key, value in values.items()}

    def _loaded(self) -> Callable[[optuna.trial.BaseTrial], Any]:
        found = getattr(_module(self.file, self.text), self.function, None)
        if not callable(found):
            raise ConfigError(f"{self.file} has no function '{self.function}'")
        return found  # type: ignore[no-any-return]


def read_function_space(reference: str, folder: Path) -> FunctionSpace:
    """The space `file.py:function`, its file relative to `folder`; nothing of it is run.

    Errors: `ConfigError` for a wrong form, a file that is not there or lies outside of `folder`.
    """
    file, colon, function = reference.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"space = {reference!r}: a mapping, or file.py:function, is wanted")
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(f"space = {reference}: the file must lie beside the study's, or below it")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"space = {reference}: {path} can't be read: {error}") from error
    return FunctionSpace(file=file, function=function, sha256=_hash(text), text=text)


def draws(space: FunctionSpace) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """What the function gives for `DRAWS` random trials, and the names it asked them for."""
    given, names = [], dict[str, None]()
    for trial in random_trials(DRAWS):
        given.append(space(trial))
        names |= dict.fromkeys(trial.params)
    return given, tuple(names)


def random_trials(count: int) -> list[optuna.trial.Trial]:
    """Trials of no study, the same ones every time, that draw their values at random."""
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
        loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{file} can't be loaded: {type(error).__name__}: {error}") from error
    return module


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's own: only those can be stored."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
