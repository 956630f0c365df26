"""`train(...)` as a Python function, with the argument names of the software this grew from.

```
from search import train

train(run_name = '2x_1ms',
    data_A = 'dataset/T700_GF_t05_pxs08.json',
    data_B = 'dataset/T700_GF_t05_pxs08.json',
    net_A = 'UNetSim3dSRx2',
    net_B = 'UNetSim3dSRd2',
    imsize_A = [128,128,128],
    super_resolution = 2)
```
It does what `cyclegan train` does: the training is tracked in MLflow and lives in
`results/<run_name>/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cyclegan.config import Config, override, parse_config
from cyclegan.errors import ConfigError, nearest
from cyclegan.losses import GROUPS, function_name_of
from search.commandline import Session
from search.console import Console
from search.launch import Finished
from search.training import train_config

# The older software's names where they differ from the configuration's keys.
_RENAMED = {"num_iters": "steps", "HPoptimizer": "hp_optimizer.enabled"}
# Arguments with one list a group, e.g. `lambdas_G_A`, and the section they belong to.
_PER_GROUP = {
    "lossFuncs": "lossFuncs",
    "lossNames": "lossNames",
    "lambdas": "lambdas",
    "channels": "lossChannels",
}


def train(
    *,
    resume: bool = False,
    tracking_uri: str | None = None,
    quiet: bool = False,
    **arguments: Any,
) -> Finished:
    """Train one CycleGAN, tracked in MLflow; Ctrl-C ends it with a checkpoint.

    Args:
        resume: go on with the training of this `run_name`, if there is one.
        tracking_uri: MLflow store; default as on the command line.
        quiet: no progress, no messages but warnings.
        arguments: any key of the configuration, or a name of the older software: `lambdas_C_A`,
            `lossFuncs_G_A` (loss objects such as `nn.BCELoss()`, or names), `lossNames_G_A`,
            `channels_G_A` (a list of channels for each term), `HPoptimizer`, `num_iters`.

    Errors: `ConfigError` for unknown arguments and values that don't fit together; `DataError` if
    the run exists and `resume` is off.
    """
    console = Console(quiet=quiet)
    console.log_to_here()
    session = Session(console, tracking_uri=tracking_uri)
    return train_config(session, config_of(arguments), resume=resume)


def config_of(arguments: Mapping[str, Any]) -> Config:
    """The configuration that the arguments of `train` describe."""
    changes: dict[str, Any] = {}
    for name, value in arguments.items():
        section, _, group = name.partition("_")
        if group in GROUPS and section in _PER_GROUP:
            changes[f"{_PER_GROUP[section]}.{group}"] = _READERS[section](value, group)
        elif name in Config.model_fields or name in _RENAMED:
            changes[_RENAMED.get(name, name)] = value
        else:
            raise ConfigError(f"train() has no argument '{name}'; {nearest(name, _known())}")
    return parse_config(override({}, changes), source="train()")


def _functions(value: Any, group: str) -> list[str]:
    given = value if isinstance(value, list | tuple) else [value]
    return [function_name_of(loss, group) for loss in given]


def _channels(value: Any, group: str) -> list[Any]:
    """A list for each term; one number for a term may stand without its list."""
    given = value if isinstance(value, list | tuple) else [value]
    return [[entry] if isinstance(entry, int) else entry for entry in given]


def _plain(value: Any, group: str) -> Any:
    return value


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "lossFuncs": _functions,
    "lossNames": _plain,
    "lambdas": _plain,
    "channels": _channels,
}


def _known() -> list[str]:
    grouped = [f"{prefix}_{group}" for prefix in _PER_GROUP for group in GROUPS]
    return [*Config.model_fields, *_RENAMED, *grouped, "resume", "tracking_uri", "quiet"]
