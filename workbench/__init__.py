"""The user's entry points: the command line `cyclegan` and its Python functions.

`from workbench import run_study, promote, enhance, train, evaluate`; see `workbench.api`. Only
`cli.py`, `cli_study.py` and `cli_runs.py` print and end the process; all other modules return
values, and report progress to the console that they are given.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.api import enhance as enhance
    from workbench.api import evaluate as evaluate
    from workbench.api import promote as promote
    from workbench.api import run_study as run_study
    from workbench.api import train as train

__all__ = ["enhance", "evaluate", "promote", "run_study", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'workbench' has no attribute '{name}'")
    return getattr(importlib.import_module("workbench.api"), name)
