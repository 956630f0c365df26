"""A user's own loss, `module:Class`: a torch module in the user's own file.

```python
class Sobel(torch.nn.Module):                 # in my_losses.py; lossFuncs.C_A: my_losses:Sobel
    def forward(self, image, target): ...     # (B, C, Z, Y, X) both; a 0-dimensional tensor
```

Importing runs the user's code, so it happens only when a training is built.
"""

from __future__ import annotations

import importlib
import keyword
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan.errors import ConfigError
from cyclegan.losses.adversarial import Adversarial, Role, target_like
from cyclegan.losses.precision import at_least_single


def is_own(function: str) -> bool:
    """Return True if a loss function's name means a user's own class."""
    return ":" in function


def check_form(key: str, function: str) -> None:
    """Raise `ConfigError` if `function` can't be a `module:Class`; imports nothing."""
    module, _, name = function.partition(":")
    parts = [*module.split("."), name]
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise ConfigError(
            f"{key}: '{function}' is not of the form module:Class, e.g. my_losses:Sobel"
        )


def load(key: str, function: str) -> nn.Module:
    """Return an object of `function` = `module:Class`, made without arguments, on the CPU.

    Its parameters are frozen and it is in evaluation mode; random initial values are the same every
    time. `key` is the configuration key for messages. Errors: `ConfigError`.
    """
    kind = getattr(_imported(key, function), function.partition(":")[2], None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        what = "has no such class" if kind is None else "is not a class derived from nn.Module"
        where = "its module" if kind is None else "it"
        raise ConfigError(
            f"{key}: {function}: {where} {what}; a loss is a torch.nn.Module with forward(x, y)"
        )
    try:
        # The caller's random numbers must not move: a resumed training makes the object again.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = kind()
    except Exception as error:
        raise ConfigError(
            f"{key}: {function}: calling it without arguments raised {_described(error)}"
        ) from error
    return made.requires_grad_(False).eval()


def image(where: str, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `module` as a loss of (image, target); error messages begin with `where`."""

    @at_least_single
    def function(first: Tensor, second: Tensor) -> Tensor:
        return _called(where, module, first, second)

    return function


def adversarial(where: str, module: nn.Module) -> Adversarial:
    """Return `module` as a loss of (judgement, target).

    The target has the judgement's shape, and is 1 for real and 0 for generated. The attribute
    `threshold` of the module, by default 0, is the threshold of a truth table.
    """
    compare = image(where, module)

    def function(judgement: Tensor, role: Role) -> Tensor:
        return compare(judgement, target_like(judgement, role))

    return Adversarial(function, _threshold(where, module))


@contextmanager
def _working_directory_first() -> Iterator[None]:
    # Python puts the command's own folder first in the path, not the working directory.
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _imported(key: str, function: str) -> ModuleType:
    name = function.partition(":")[0]
    try:
        with _working_directory_first():
            return importlib.import_module(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if missing and f"{name}.".startswith(f"{error.name}."):  # type: ignore[attr-defined]
            raise ConfigError(
                f"{key}: {function}: there is no module '{name}' in {Path.cwd()} or on the "
                "Python path; start the command where the file is, or set PYTHONPATH"
            ) from error
        raise ConfigError(
            f"{key}: {function}: importing '{name}' raised {_described(error)}"
        ) from error


def _called(where: str, module: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    try:
        result: Any = module(first, second)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{where}: with tensors {tuple(first.shape)} it raised {_described(error)}"
        ) from error
    if not isinstance(result, Tensor) or result.dim() or not result.is_floating_point():
        kind = type(result).__name__
        got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {kind}"
        raise ConfigError(f"{where}: returned {got}; a loss is one number, e.g. x.mean()")
    if first.requires_grad and torch.is_grad_enabled() and not result.requires_grad:
        raise ConfigError(
            f"{where}: its result has no gradient with respect to the first argument; compute it "
            "from that argument with torch alone, without detach(), item() or numpy"
        )
    return result


def _threshold(where: str, module: nn.Module) -> float:
    value = getattr(module, "threshold", 0.0)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConfigError(f"{where}: threshold = {value!r}; must be a finite number")
    return float(value)


def _described(error: Exception) -> str:
    """Return type and first line of an exception, because messages have one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
