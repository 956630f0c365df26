"""What a user calls: the command line `cyclegan`, and the same from Python.

`from workbench import train, evaluate`: what `cyclegan train` and `cyclegan enhance` do.
This is the only room that prints and exits.
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
