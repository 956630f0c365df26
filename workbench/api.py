"""The Python face of the command line: train, search, promote and enhance from a script.

```
from workbench import enhance, promote, run_study

study = run_study("studies/prune_1000.yaml")
promoted = promote(study.definition.name)
(done,) = enhance("volume.h5", model="prune_1000@champion", output="enhanced.h5")
```
`train` and `evaluate` take the argument names of the software that this one grew from:

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
Everything is tracked in MLflow, in the store that the command line would use unless `tracking_uri`
names another. `quiet` silences progress and messages but for warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.config import Config, override, parse_config
from cyclegan.data import DatasetSpec, VolumeEntry, open_dataset
from cyclegan.data.fingerprint import check_unchanged
from cyclegan.data.origin import resolved
from cyclegan.enhance.grid import Region
from cyclegan.errors import ConfigError, UsageError, nearest
from cyclegan.losses import GROUPS, function_name_of
from search.launch import LaunchResult
from tracking import Store, project_root
from tracking.repair import tidy
from viz.console import Console
from workbench.training import train as train_config

if TYPE_CHECKING:
    from search.promotion import PromotionResult
    from search.promotion.promote import Start
    from search.study import StudyHandle
    from workbench.enhancement.command import EnhancementResult

# The older software's names where they differ from the configuration's keys.
_RENAMED = {"num_iters": "steps", "HPoptimizer": "hp_optimizer.enabled"}
# Arguments with one list a group, e.g. `lambdas_G_A`, and the section they belong to.
_PER_GROUP = {
    "lossFuncs": "lossFuncs",
    "lossNames": "lossNames",
    "lambdas": "lambdas",
    "channels": "lossChannels",
}


def run_study(
    study: str | Path,
    *,
    trials: int | None = None,
    workers: int = 1,
    storage: str | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
) -> StudyHandle:
    """Run a study, or go on with one, until it has all its trials or Ctrl-C ends it.

    Args:
        study: its YAML file, or the name of one that was run here.
        trials: number of trials, instead of the file's.
        workers: processes on this host.
        storage: address of a database for the trials, instead of files.

    Returns the study: `study.trials()`, `study.best()`. Errors: as `cyclegan study run`.
    """
    from search.study import definition_of
    from search.study import run_study as run

    definition = definition_of(str(study))
    if trials is not None:
        definition = definition.with_trials(trials)
    console = _console(quiet)
    return run(
        definition,
        store=lambda: _store(tracking_uri, console),
        console=console,
        workers=workers,
        storage=storage,
    ).handle


def promote(
    study: str | Path,
    *,
    trial: int | None = None,
    steps: int | None = None,
    start: Start | None = None,
    hp_optimizer: bool | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
) -> PromotionResult:
    """Turn one trial of a study into the real training, and register its generator.

    Args:
        study: its YAML file or its name.
        trial: number of the trial; by default the best one.
        steps, start, hp_optimizer: instead of what the study's file says; `start` is `continue` or
            `scratch`.

    Errors: as `cyclegan promote`.
    """
    from search.promotion import promote as promote_trial
    from search.study import open_study

    handle = open_study(str(study))
    store, console = _begin(tracking_uri, quiet)
    return promote_trial(
        handle,
        store=store,
        console=console,
        trial=trial,
        steps=steps,
        start=start,
        hp_optimizer=hp_optimizer,
    )


def enhance(
    volumes: str | Path | Sequence[str | Path],
    *,
    model: str,
    output: str | Path,
    dataset: str = "data",
    tracking_uri: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> list[EnhancementResult]:
    """Enhance whole volumes with a trained generator, tile by tile.

    Args:
        volumes: an HDF5 file, or several.
        model: a generator file, a checkpoint, an MLflow run or a registered version
            (`STUDY@champion`).
        output: the HDF5 file to write; of several volumes a folder.
        dataset: name of the dataset in `volumes`.
        options: fields of `workbench.enhancement.request.EnhanceRequest`: `tile`, `trust`, ...

    Returns a result for each volume, with its `path`. Errors: as `cyclegan enhance`.
    """
    from workbench.enhancement.command import enhance_volumes
    from workbench.enhancement.request import EnhanceRequest

    given = [volumes] if isinstance(volumes, str | Path) else volumes
    request = EnhanceRequest(
        volumes=tuple(Path(volume) for volume in given),
        dataset=dataset,
        model=model,
        output=Path(output),
        **options,
    )
    store, console = _begin(tracking_uri, quiet)
    return enhance_volumes(request, open_store=lambda: store, console=console)


def train(
    *,
    resume: bool = False,
    tracking_uri: str | None = None,
    quiet: bool = False,
    **arguments: Any,
) -> LaunchResult:
    """Train one CycleGAN as `cyclegan train` does; Ctrl-C ends it with a checkpoint.

    Args:
        resume: go on with the training of this `run_name`, if there is one.
        arguments: any key of the configuration, or a name of the older software: `lambdas_C_A`,
            `lossFuncs_G_A` (loss objects such as `nn.BCELoss()`, or names), `lossNames_G_A`,
            `channels_G_A` (a list of channels for each term), `HPoptimizer`, `num_iters`.

    Errors: `ConfigError` for unknown arguments and values that don't fit together; `DataError` if
    the run exists and `resume` is off.
    """
    config = config_of(arguments)
    console = _console(quiet)
    return train_config(
        config, store=lambda: _store(tracking_uri, console), console=console, resume=resume
    )


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
        options: fields of `workbench.enhancement.request.EnhanceRequest`: `tile`, `trust`, ...

    Returns the enhanced volumes' files. Errors: `UsageError` for another `SR` or one name twice;
    else as `cyclegan enhance`.
    """
    from workbench.enhancement.command import enhance_volumes, factor_of
    from workbench.enhancement.request import EnhanceRequest

    store, console = _begin(tracking_uri, quiet)
    factor = factor_of(str(modelfile), lambda: store)
    if factor != SR:
        raise UsageError(f"SR = {SR}: {modelfile} changes the resolution by {factor}")
    if Path(ev_name).name != ev_name or ev_name.startswith("."):
        raise UsageError(f"ev_name = {ev_name!r}: must be a plain name, for a folder in eval/")
    folder = project_root() / "eval" / ev_name
    outputs: list[Path] = []
    for entry in _volumes_of(Path(datafile)):
        output = folder / f"{entry.path.stem}.h5"
        if output in outputs:
            raise UsageError(f"{datafile}: two volumes are called {entry.path.stem}; rename one")
        request = EnhanceRequest(
            volumes=(entry.path,),
            dataset=entry.dset,
            roi=_region(entry),
            model=str(modelfile),
            output=output,
            **(_accepted(entry) | options),
        )
        enhance_volumes(request, open_store=lambda: store, console=console)
        outputs.append(output)
    return outputs


def _begin(tracking_uri: str | None, quiet: bool) -> tuple[Store, Console]:
    console = _console(quiet)
    return _store(tracking_uri, console), console


def _console(quiet: bool) -> Console:
    console = Console(quiet=quiet)
    console.log_to_here()
    return console


def _store(tracking_uri: str | None, console: Console) -> Store:
    """Open the store and put right what dead processes left in it."""
    store = Store.open(tracking_uri)
    tidy(store, console.say)
    return store


def _volumes_of(datafile: Path) -> Sequence[VolumeEntry]:
    if datafile.suffix.lower() == ".json":
        volumes = DatasetSpec.load(datafile).validate
        check_unchanged(volumes, datafile)
        return volumes
    return [VolumeEntry(path=datafile, dset="data")]


def _accepted(entry: VolumeEntry) -> dict[str, Any]:
    """Return what the dataset JSON says of the volume's voxels, as options of an enhancement."""
    return {"no_data": entry.no_data, "fill_missing": entry.fill_missing}


def _region(entry: VolumeEntry) -> Region | None:
    """The entry's region with its open ends filled in; None for the whole volume."""
    if not any(entry.roi):
        return None
    dataset = open_dataset(entry.path, entry.dset)
    with dataset.file:
        shape = dataset.shape[-3:]
    z, y, x = (resolved(limits, n) for limits, n in zip(entry.roi, shape, strict=True))
    return z, y, x
