"""Run one tracked training: put the trainer and its callbacks together, and manage its folder.

A training lives in a folder:

```
config.yaml    the resolved configuration
run.json       its MLflow run, and how it ended
save/          checkpoints (see `cyclegan.checkpoints`) and generator.pt, the best generators so far
schedule.yaml  the values it ended with, by step; only with the rollback optimizer
train/         the six images of every validation
```

A training that is started again in the same folder continues from its checkpoint in the same MLflow
run. If it is complete already, nothing happens.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.checkpoints import newest_state
from cyclegan.config import Config, load_config, parse_config
from cyclegan.data import read_json
from cyclegan.data.training_data import TrainingData
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.errors import ConfigError, CycleGANError, DataError
from cyclegan.events import TrainResult
from cyclegan.files import replacing, write_text
from cyclegan.follower import followed
from cyclegan.footprint import check_memory as check_size
from cyclegan.hparams import HParams
from cyclegan.keep_best import KeepBest
from cyclegan.locks import exclusive
from cyclegan.precision import choose_device, choose_precision
from cyclegan.ranks import Ranks
from cyclegan.signals import handled
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport, Validator
from search.rollback import RollbackOptimizer
from search.rollback.optimizer import RING_FOLDER, check_memory
from search.rollback.schedule import SCHEDULE_NAME, Replay, read_schedule, to_yaml
from tracking import TrackingCallback
from tracking.outbox.delivery import retrying
from tracking.outbox.records import Attachment, Record, Text
from tracking.provenance import hash_cache
from tracking.views import trainings_view
from viz.console import Console, Update
from viz.pictures import six_images, write_png

if TYPE_CHECKING:
    from types import FrameType

    from tracking import Run, Store

GENERATOR_NAME = "generator.pt"
SAVE_FOLDER = "save"
RECORD_NAME = "run.json"
_PICTURE_FOLDER = "train"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One tracked training: its configuration, its folder, and how it appears in MLflow."""

    config: Config
    folder: Path
    experiment: str
    kind: str
    """The run's tag `kind`: `train`, `trial`, `seed`, `confirm` or `promoted`."""
    tags: Mapping[str, str]
    parent: str | None = None
    """MLflow id of the parent run."""
    start: Path | None = None
    """Checkpoint of another training to continue from while this training has none of its own."""
    processes: int = 1
    """Number of processes on this host that train it together (see `cyclegan.ranks`)."""
    params: Mapping[str, object] = field(default_factory=dict)
    """Parameters that head the run's list; the rest of the configuration follows them."""


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """The result of a training that has ended, either for good or until it is continued."""

    result: TrainResult
    run_id: str
    folder: Path
    reused: bool = False
    """True if the training was complete before and nothing was computed."""
    rollbacks: int = 0
    best_step: int = 0
    """Step of the best generators, the ones in `generator.pt`."""
    best_score: float | None = None
    """Score of the best generators; None if no validation was usable."""
    best_gain_db: float | None = None
    """Their gain over the best Gaussian filter on pseudo pairs, in dB; None if unknown."""
    stop_asked: bool = False
    """True if Ctrl-C or SIGTERM came, even if the training was complete just then."""


LAUNCH = "launch"
"""Key of a training's record and tag of its run, by which they know each other."""


class _Progress(Callback):
    """Shows the number of steps, the rate, the time left and the last score."""

    def __init__(self, update: Update) -> None:
        self.update = update

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        report = trainer.last_report
        note = f"score {report.score:.2f}" if report else ""
        self.update(trainer.step, note)


class _Pictures(Callback):
    """Writes the six images of every validation as a PNG file named by iteration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        path = self.folder / f"iteration-{report.iteration:08d}.png"
        write_png(six_images(report.images), path)


def check_training(config: Config, *, here: bool = True) -> None:
    """Refuse settings and data with which a training can't begin; nothing is written.

    Args:
        here: True if this machine is to train; otherwise its device and memory don't matter.

    Errors: `ConfigError` and `DataError`, as of a training.
    """
    device = choose_device(config.device if here else "cpu")
    if here:
        check_size(config, device)
    data = TrainingData(config, device, loads=False)
    Validator(config, data, device)
    data.close()


def run_training(
    job: Job,
    *,
    store: Store | Callable[[], Store],
    console: Console,
    callbacks: Sequence[Callback] = (),
) -> LaunchResult:
    """Run or continue `job`. Ctrl-C and SIGTERM end it with a checkpoint, outcome `interrupted`.

    `store` may be a function that opens the store; it is called when nothing can be refused any
    more. Where torchrun started several processes, the first one does all this, and the others
    train with it.

    Errors: `BusyError` if another process trains in the folder; `ConfigError` if the folder holds a
    training with another configuration.
    """
    ranks = Ranks.of_environment()
    if not ranks.is_first:
        return _already_complete(job) or _followed_elsewhere(job, ranks)
    with (
        _leaving_nothing_if_refused(job.folder),
        exclusive(job.folder / ".lock", f"training folder {job.folder}"),
    ):
        for litter in job.folder.rglob(".*.part"):  # half-written files of a killed process
            litter.unlink()
        done = _already_complete(job)
        if done:
            return done
        return _run(job, store, console, callbacks)


@contextlib.contextmanager
def _leaving_nothing_if_refused(folder: Path) -> Iterator[None]:
    """Remove the folder after an error if it was made here and holds nothing but its lock file."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except CycleGANError:
        if folder in made and [p for p in folder.rglob("*") if p.is_file()] == [folder / ".lock"]:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # a parent that holds something else by now
                for parent in made[1:]:
                    parent.rmdir()
        raise


def _run(
    job: Job,
    store: Store | Callable[[], Store],
    console: Console,
    callbacks: Sequence[Callback],
) -> LaunchResult:
    plan = _plan(job)
    if job.processes == 1:
        return _train(job, plan, Ranks.of_environment(), store, console, callbacks)
    device = choose_device(plan.config.device)
    Ranks(size=job.processes).check(plan.config, device)
    plan = replace(plan, config=choose_precision(plan.config, device))  # the same for all
    with followed(plan.config, job.processes, plan.checkpoint) as ranks:
        return _train(job, plan, ranks, store, console, callbacks)


def _followed_elsewhere(job: Job, ranks: Ranks) -> LaunchResult:
    """Train as one of the other processes that torchrun started."""
    plan = _plan(job)
    trainer = Trainer(plan.config, ranks=ranks)
    with stop_on_signal(trainer) as asked:
        result = trainer.fit(plan.checkpoint)
    return LaunchResult(result=result, run_id="", folder=job.folder, stop_asked=bool(asked))


def _train(
    job: Job,
    plan: _Plan,
    ranks: Ranks,
    store: Store | Callable[[], Store],
    console: Console,
    callbacks: Sequence[Callback],
) -> LaunchResult:
    config, checkpoint = plan.config, plan.checkpoint
    optimizer = _optimizer(config, job, callbacks)  # refuses a wrong schedule, before data is read
    trainer = Trainer(
        config, folder=job.folder / SAVE_FOLDER, ranks=ranks
    )  # refuses bad input before a run exists
    if trainer.device.type == "cpu":
        keep_freed_memory()
    trainer.data.hash_cache = hash_cache()
    if not checkpoint:
        trainer.load_pretrained()  # refuses a wrong file
    if callable(store):
        store = store()
    store.create()  # a store that can't be made is a reason to refuse, not to try again later
    if plan.abandoned:
        _close_abandoned(store, plan.abandoned)
    run = retrying(lambda: _run_of(job, plan, store, console), console.say)
    _remember(job.folder, run_id=run.id)
    write_text(job.folder / "config.yaml", trainer.config.to_yaml())
    keeper = KeepBest(job.folder / SAVE_FOLDER / GENERATOR_NAME)
    trainer.add_callback(
        TrackingCallback(run, finals=lambda result: _finals(trainer, keeper, result))
    )
    trainer.add_callback(keeper)
    trainer.add_callback(_Pictures(job.folder / _PICTURE_FOLDER))
    for callback in (*callbacks, *optimizer):
        trainer.add_callback(callback)
    if checkpoint:
        if checkpoint == job.start:
            _take_over_generators(checkpoint.parent / GENERATOR_NAME, keeper.path)
        before = trainer.load_checkpoint(checkpoint, plan.states.pop() if plan.states else None)
        if rises := _raised_by_more_steps(trainer, before):
            console.warn(
                f"{config.run_name}: steps = {config.steps} instead of {before.steps} stretch its "
                f"schedule, so after step {trainer.step} {rises}; to go on with the low values, "
                f"start another run_name with them, and with pretrained = {checkpoint}"
            )
        if checkpoint == job.start:
            _apply_asked_changes(trainer, before)
        if trainer.step:
            console.say(f"{config.run_name}: continuing at step {trainer.step}")
    with (
        console.progress(config.run_name, config.steps, unit="steps", start=trainer.step) as update,
        stop_on_signal(trainer) as asked,
    ):
        trainer.add_callback(_Progress(update))
        result = trainer.fit()
    if config.hp_optimizer.enabled:
        write_text(job.folder / SCHEDULE_NAME, to_yaml(trainer))
    record: dict[str, Any] = {
        "rollbacks": len(trainer.rollbacks),
        "best_step": keeper.step,
        "best_score": keeper.score,
        "best_gain_db": keeper.gain_db,
    }
    _remember(job.folder, run_id=run.id, result=asdict(result), **record)
    return LaunchResult(
        result=result, run_id=run.id, folder=job.folder, stop_asked=bool(asked), **record
    )


def _run_of(job: Job, plan: _Plan, store: Store, console: Console) -> Run:
    found = reopened(store, plan.run_id, console)
    if found:
        return found
    return _new_run(job, plan.config.run_name, store)


def _new_run(job: Job, name: str, store: Store) -> Run:
    """Return a new run for the training, or the one that a killed process had just made for it."""
    # The id of the launch is on the disk before the run exists: a process that is killed before it
    # can note the run's id leaves a run that the next one finds.
    record = _record(job.folder)
    launch_id = record.get(LAUNCH)
    if launch_id:
        made = store.tagged(LAUNCH, launch_id)
        if made:
            return store.open_run(made)
    else:
        launch_id = uuid.uuid4().hex
        _remember(job.folder, **record, **{LAUNCH: launch_id})
    run = store.create_run(
        job.experiment,
        name,
        kind=job.kind,
        params=job.params,  # the tracking callback logs the rest of the configuration
        tags={**job.tags, LAUNCH: launch_id},
        parent=job.parent,
    )
    if job.kind == "train":
        store.ship_view(run.experiment_id, trainings_view())
    return run


def _finals(trainer: Trainer, keeper: KeepBest, result: TrainResult) -> Iterator[Record]:
    """Yield the run's last records: the best generators, and the schedule."""
    if result.outcome != "interrupted" and keeper.path.is_file():
        yield Attachment(keeper.path, "checkpoints")
    if trainer.config.hp_optimizer.enabled:
        yield Text(to_yaml(trainer), SCHEDULE_NAME)


def _optimizer(config: Config, job: Job, callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callback that changes hyperparameters during the training, if there is one.

    A promotion follows its trial's schedule and ignores the one that the configuration names.

    Errors: `ConfigError` and `DataError` for settings that can't work.
    """
    settings = config.hp_optimizer
    if not settings.enabled:
        return []
    if settings.policy != "replay" or settings.schedule is None:
        check_memory(config)
        return [RollbackOptimizer(settings, folder=job.folder / SAVE_FOLDER / RING_FOLDER)]
    if any(isinstance(callback, Replay) for callback in callbacks):
        return []
    return [Replay(read_schedule(Path(settings.schedule), config))]


def _take_over_generators(theirs: Path, ours: Path) -> None:
    """Copy the best generators of the training continued from, unless this one has its own."""
    if theirs.is_file() and not ours.is_file():
        with replacing(ours) as temporary:
            shutil.copyfile(theirs, temporary)


def _raised_by_more_steps(trainer: Trainer, before: Config) -> str:
    """Return what goes up again because a schedule that ends with the steps got more of them."""
    step, config = trainer.step, trainer.config
    if not step or config.steps <= before.steps:
        return ""
    was = dict.fromkeys(("lr_g", "lr_d"), before.lr_schedule.factor(step - 1, before.steps))
    now = dict.fromkeys(was, config.lr_schedule.factor(step, config.steps))
    for group in config.lambda_schedule.groups:
        was[f"lambdas.{group}"] = before.lambda_schedule.factor(group, step - 1, before.steps)
        now[f"lambdas.{group}"] = config.lambda_schedule.factor(group, step, config.steps)
    return ", ".join(
        f"{key} goes from {was[key] * value:.3g} up to {now[key] * value:.3g}"
        for key, value in trainer.hparams.flat().items()
        if key in was and now[key] > was[key]
    )


def _apply_asked_changes(trainer: Trainer, before: Config) -> None:
    """Apply the hyperparameters that differ from those of the training continued from.

    Its checkpoint restores the values it ended with; only the values asked to be different change.
    """
    old, new = HParams.from_config(before).flat(), HParams.from_config(trainer.config).flat()
    changes = {name: value for name, value in new.items() if old.get(name) != value}
    if changes:
        trainer.set_hparams(changes, reason="changed when continued from another training")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The way a job starts, given the contents of its folder."""

    config: Config
    checkpoint: Path | None
    """The checkpoint to continue from: the job's own, another training's, or None."""
    run_id: str | None = None
    """The MLflow run that the training already has."""
    abandoned: str | None = None
    """The run of another training that died in this folder before its first checkpoint."""
    states: list[Mapping[str, Any]] = field(default_factory=list, repr=False)
    """The checkpoint's content, if it was read to see whether it can be; taken out when used."""


_FREE = {
    *("steps", "log_every", "volumes_mb", "run_name", "threads", "device", "memory_budget_gb"),
    *("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_best_checkpoint"),
}
"""Keys that may change when a training is continued."""


def _plan(job: Job) -> _Plan:
    found, stored = newest_state(job.folder / SAVE_FOLDER), job.folder / "config.yaml"
    own = found and found[0]
    run_id = _record(job.folder).get("run_id")
    if not stored.is_file():
        return _Plan(config=job.config, checkpoint=job.start, abandoned=run_id)
    before = load_config(stored)
    # A training keeps the precision it began with: `auto` could choose differently today.
    wanted = job.config.to_dict() | {"precision": before.precision}
    different = {k: v for k, v in before.to_dict().items() if k not in _FREE and wanted[k] != v}
    if not different:
        checkpoint = own or job.start
        states: list[Mapping[str, Any]] = [found[1]] if found else []
        config = parse_config(wanted)
        return _Plan(config=config, checkpoint=checkpoint, run_id=run_id, states=states)
    if own:
        key, value = next(iter(different.items()))
        raise ConfigError(
            f"{job.folder}: the training there has {key} = {value}, but you asked for "
            f"{wanted[key]}; choose another run_name, or remove that folder"
        )
    return _Plan(config=job.config, checkpoint=job.start, abandoned=run_id)


def reopened(
    store: Store, run_id: str | None, console: Console, *, shared: bool = False
) -> Run | None:
    """Return the run to continue, or None if there was none or this store does not have it.

    `shared`: other processes may write to the run as well.
    """
    if run_id is None:
        return None
    try:
        return store.open_run(run_id, shared=shared)
    except DataError as error:
        console.warn(f"{error}; continuing in a new run")
        return None


def _close_abandoned(store: Store, run_id: str) -> None:
    """End a run that no one will continue."""
    with contextlib.suppress(DataError):  # a run of another store is not ours to close
        store.run(run_id).finish("KILLED", "died before its first checkpoint")


def _already_complete(job: Job) -> LaunchResult | None:
    record = _record(job.folder)
    result = record.get("result")
    if not result or result["outcome"] == "interrupted":
        return None
    if result["outcome"] == "completed" and result["step"] < job.config.steps:
        return None  # more steps are asked for now
    _plan(job)  # raises if the complete training is another one
    return LaunchResult(
        result=TrainResult(**result),
        run_id=record["run_id"],
        folder=job.folder,
        reused=True,
        **{key: record[key] for key in ("rollbacks", "best_step", "best_score")},
        best_gain_db=record.get("best_gain_db"),  # not in records of earlier versions
    )


def renewed_run(job: Job, store: Store) -> Run:
    """Give a complete training whose run is in another store a run in this one, still empty."""
    run = _new_run(job, job.config.run_name, store)
    record = {key: value for key, value in _record(job.folder).items() if key != LAUNCH}
    _remember(job.folder, **record | {"run_id": run.id})
    return run


def recorded_run(folder: Path) -> str:
    """Return the MLflow run id recorded for the training in `folder`; empty if there is none."""
    return str(_record(folder).get("run_id", ""))


def recorded_score(folder: Path) -> float | None:
    """Return the score of the best generators of the training in `folder`; None without any."""
    return _record(folder).get("best_score")


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD_NAME
    return dict(read_json(path)) if path.is_file() else {}


def _remember(folder: Path, **record: Any) -> None:
    write_text(folder / RECORD_NAME, json.dumps(record, indent=1))


@contextlib.contextmanager
def stop_on_signal(trainer: Trainer) -> Iterator[list[int]]:
    """Stop the training after its current step on Ctrl-C or SIGTERM; at once on a second Ctrl-C.

    SIGUSR1 and SIGUSR2 do as SIGTERM does (see `cyclegan.signals`).

    Yields the list of the signals received.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        trainer.request_stop(signal.Signals(number).name, outcome="interrupted")

    with handled(handle):
        yield came
