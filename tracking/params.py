"""Configurations as MLflow's parameters: flat text by dotted name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 6000
"""Characters; MLflow cuts longer values without a word."""

# Set by the machine and the taste, not by the question asked: they would only fill the table that
# compares runs. `config.yaml` among the run's artifacts has them.
_RARELY_COMPARED = (
    "run_name",
    "lossNames",
    "threads",
    "memory_budget_gb",
    "device",
    "data_A",
    "data_B",
)
_FIRST = ("steps", "seed", "lr_g", "lr_d", "lambdas")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names, everything else as text.

    A list of one item is written as the item: `lambdas.C_A` = `100.0`, which charts can use as a
    number.
    """
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = as_text(value)[:MAX_LENGTH]
    return result


def as_text(value: Any) -> str:
    """The text of one value; numbers so that `float` reads back the same."""
    if isinstance(value, list | tuple):
        return as_text(value[0]) if len(value) == 1 else json.dumps(list(value), default=str)
    return value if isinstance(value, str) else str(value)


def same(first: str, second: str) -> bool:
    """Whether two texts stand for the same value: `1`, `1.0` and `1e0` do."""
    if first == second:
        return True
    try:
        return float(first) == float(second)
    except ValueError:
        return False


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `Config.to_dict()` worth a column in a table of runs, what matters most first."""
    result = {key: config[key] for key in _FIRST if key in config}
    result |= {key: value for key, value in config.items() if key not in _RARELY_COMPARED}
    optimizer = config.get("hp_optimizer")
    if isinstance(optimizer, Mapping) and not optimizer.get("enabled"):
        result["hp_optimizer"] = {"enabled": False}  # the settings of what is off say nothing
    return result
