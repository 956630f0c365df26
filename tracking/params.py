"""Turn configurations into MLflow parameters: flat text by dotted name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclegan.config import Config

MAX_LENGTH = 6000
"""Longest value of a parameter, in characters; MLflow cuts longer ones silently."""

# These depend on the machine or on taste and would only fill the table that compares runs. The
# run's artifact `config.yaml` has them.
_NEVER = (
    *("run_name", "lossNames", "data_A", "data_B", "device", "threads", "memory_budget_gb"),
    *("log_every", "volumes_mb"),
    *("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_best_checkpoint"),
)
_ALWAYS = (
    *("steps", "seed", "lr_g", "lr_d", "lambdas", "lossFuncs"),
    *("net_A", "net_B", "filters", "filters_D", "layers_D", "norm_D"),
    *("imsize_A", "super_resolution", "batch_size", "precision"),
)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested mappings as one mapping from dotted names to text.

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
    """Return the text of one value; `float` reads numbers back unchanged."""
    if isinstance(value, list | tuple):
        return as_text(value[0]) if len(value) == 1 else json.dumps(list(value), default=str)
    return value if isinstance(value, str) else str(value)


def same(first: str, second: str) -> bool:
    """Return True if two texts stand for the same value, as `1`, `1.0` and `1e0` do."""
    if first == second:
        return True
    try:
        return float(first) == float(second)
    except ValueError:
        return False


def compared(config: Config) -> dict[str, str]:
    """Return the settings by which runs are compared, flat, the most important ones first.

    Rarely changed settings are included only if they differ from the default: MLflow writes every
    parameter of a run over each of its pictures, and nobody reads a table of seventy columns.
    """
    values = config.to_dict()
    usual = flatten(type(config)(data_A="", data_B="").to_dict())
    always = flatten({key: values[key] for key in _ALWAYS})
    rest = flatten({k: v for k, v in values.items() if k not in (*_ALWAYS, *_NEVER)})
    result = always | {name: text for name, text in rest.items() if text != usual.get(name)}
    for switch in ("hp_optimizer.enabled", "kickstart"):
        if rest[switch] == "False":  # the settings of a disabled feature say nothing
            own = switch.partition(".")[0]
            result = {name: text for name, text in result.items() if not name.startswith(own)}
    mode = ("enabled", "policy") if rest["hp_optimizer.enabled"] == "True" else ("enabled",)
    return result | {f"hp_optimizer.{name}": rest[f"hp_optimizer.{name}"] for name in mode}
