"""`train(...)` as a Python function, with the argument names of the software this grew from.

```
from workbench import train

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

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclegan.config import Config, override, parse_config
from cyclegan.data import DatasetSpec, VolumeEntry, open_dataset
from cyclegan.enhance.grid import Region
from cyclegan.errors import ConfigError, UsageError, nearest
from cyclegan.losses import GROUPS, function_name_of
from search.launch import Finished
from tracking import project_root
from viz.console import Console
from workbench.session import Session
from workbench.train import train_config

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


def evaluate(
    *,
    datafile: str | Path,
    modelfile: str | Path,
    SR: int,
    ev_name: str,
    tracking_uri: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> list[Path]:
    """Enhance volumes with a trained generator, into `eval/<ev_name>/`, tracked in MLflow.

    Args:
        datafile: a dataset JSON, of which all volumes for validation are enhanced, or one HDF5 file
            with the dataset `data`.
        modelfile: a generator file or checkpoint of a training, or an MLflow run.
        SR: the resolution the generator must raise by; a wrong one is refused.
        ev_name: name of the folder.
        tracking_uri, quiet: as for `train`.
        options: fields of `workbench.enhance.request.Request`: `tile`, `trust`, `precision`, ...

    Returns the enhanced volumes' files. Errors: `UsageError` for another `SR` or one name twice;
    else as `cyclegan enhance`.
    """
    from workbench.enhance.command import factor_of, run_enhancement
    from workbench.enhance.request import Request

    console = Console(quiet=quiet)
    console.log_to_here()
    session = Session(console, tracking_uri=tracking_uri)
    factor = factor_of(session, str(modelfile))
    if factor != SR:
        raise UsageError(f"SR = {SR}: {modelfile} changes the resolution by {factor}")
    if Path(ev_name).name != ev_name or ev_name.startswith("."):
        raise UsageError(
            f"ev_name = {ev_name!r}: a plain name is wanted, it names a folder in eval/"
        )
    folder = project_root() / "eval" / ev_name
    outputs = []
    for entry in _volumes_of(Path(datafile)):
        output = folder / f"{entry.path.stem}.h5"
        if output in outputs:
            raise UsageError(f"{datafile}: two volumes are called {entry.path.stem}; rename one")
        request = Request(
            volumes=(entry.path,),
            dataset=entry.dset,
            roi=_region(entry),
            model=str(modelfile),
            output=output,
            **options,
        )
        run_enhancement(session, request)
        outputs.append(output)
    return outputs


def _volumes_of(datafile: Path) -> Sequence[VolumeEntry]:
    if datafile.suffix.lower() == ".json":
        return DatasetSpec.load(datafile).validate
    return [VolumeEntry(path=datafile, dset="data")]


def _region(entry: VolumeEntry) -> Region | None:
    """The entry's region with its open ends filled in; None for the whole volume."""
    if not any(entry.roi):
        return None
    dataset = open_dataset(entry.path, entry.dset)
    with dataset.file:
        shape = dataset.shape[-3:]
    z, y, x = (limits or (0, n) for limits, n in zip(entry.roi, shape, strict=True))
    return z, y, x
