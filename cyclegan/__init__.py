"""The core: networks, losses, data, trainer with callbacks, score, tiled enhancement, simulator.

It knows neither Optuna nor MLflow. This file lists the public names; each is imported on first use,
so that the command line's help does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclegan.callbacks import Callback as Callback
    from cyclegan.config import Config as Config
    from cyclegan.config import load_config as load_config
    from cyclegan.config import parse_config as parse_config
    from cyclegan.enhance import enhance_array as enhance_array
    from cyclegan.enhance import enhance_file as enhance_file
    from cyclegan.errors import CycleGANError as CycleGANError
    from cyclegan.events import TrainResult as TrainResult
    from cyclegan.generator import load_generator as load_generator
    from cyclegan.score import Score as Score
    from cyclegan.trainer import Trainer as Trainer

_HOMES = {
    "Callback": "callbacks",
    "Config": "config",
    "CycleGANError": "errors",
    "Score": "score",
    "TrainResult": "events",
    "Trainer": "trainer",
    "enhance_array": "enhance",
    "enhance_file": "enhance",
    "load_config": "config",
    "load_generator": "generator",
    "parse_config": "config",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cyclegan' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cyclegan.{_HOMES[name]}"), name)
