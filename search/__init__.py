"""Everything that chooses hyperparameters or launches trainings, and the command line.

`from search import train, evaluate`: what `cyclegan train` and `cyclegan enhance` do, from Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.functions import evaluate as evaluate
    from search.functions import train as train

__all__ = ["evaluate", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute '{name}'")
    return getattr(importlib.import_module("search.functions"), name)
