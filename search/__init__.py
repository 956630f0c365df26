"""Everything that chooses hyperparameters or launches trainings, and the command line.

`from search import train` gives the command `cyclegan train` as a Python function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.functions import train as train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute '{name}'")
    return getattr(importlib.import_module("search.functions"), name)
