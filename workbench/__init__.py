"""The user's entry points: the command line `cyclegan` and its Python functions.

`from workbench import train, evaluate` gives the functions behind `cyclegan train` and
`cyclegan enhance`. This is the only room that prints and exits.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.api import evaluate as evaluate
    from workbench.api import train as train

__all__ = ["evaluate", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'workbench' has no attribute '{name}'")
    return getattr(importlib.import_module("workbench.api"), name)
