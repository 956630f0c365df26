"""Schedules of lambdas and learning rates: extract one from a training, and replay it.

A training with the rollback optimizer changes these values as it goes, so what it ends with is a
schedule rather than one set of values. Its log (`Trainer.hparam_log`) also holds the attempts that
were given up. Only the surviving path counts, on the axis of the training step, which a rollback
rewinds.

The file is `schedule.yaml` in the training's folder:

```
format: cyclegan-schedule-1
run_name: train
changes:
- {step: 0, reason: start, kickstart: 0, values: {lr_g: 0.0002, ..., lambdas.C_A: 100.0}}
- {step: 600, reason: C_A_l1 rose ..., kickstart: 0, values: {lr_g: 0.00014, ...}}
```
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config
from cyclegan.documents import parse_yaml, read_text
from cyclegan.errors import ConfigError, DataError
from cyclegan.events import HParamChange, RollbackEvent
from cyclegan.hparams import HParams
from cyclegan.trainer import Trainer

logger = logging.getLogger(__name__)

SCHEDULE_NAME = "schedule.yaml"
SCHEDULE_FORMAT = "cyclegan-schedule-1"


@dataclass(frozen=True, kw_only=True)
class Change:
    """Values to set at the end of training step `step`."""

    step: int
    reason: str
    values: Mapping[str, float]
    kickstart: int = 0
    """Steps of kickstart that begin at this step."""


Schedule = tuple[Change, ...]


def surviving_path(log: Iterable[HParamChange]) -> Schedule:
    """Return the changes that led to the end of a training, at most one per step, by rising step.

    A change logged at step t after others at later steps stands for a rollback to t, which discards
    those others. A later change at the same step is merged into the earlier one.
    """
    path: list[Change] = []
    for entry in log:
        path = [change for change in path if change.step <= entry.step]
        values = dict(entry.changes)
        if path and path[-1].step == entry.step:
            values = {**path.pop().values, **values}
        path.append(
            Change(step=entry.step, reason=entry.reason, values=values, kickstart=entry.kickstart)
        )
    return tuple(path)


def without(schedule: Schedule, names: Collection[str]) -> Schedule:
    """Return the schedule for a training that was asked to have other values of `names`."""
    left = [
        Change(
            step=change.step,
            reason=change.reason,
            values={n: value for n, value in change.values.items() if n not in names},
            kickstart=change.kickstart,
        )
        for change in schedule
    ]
    return tuple(change for change in left if change.values)


def to_plain(schedule: Schedule) -> list[dict[str, Any]]:
    """Return the schedule as plain values for JSON and YAML."""
    return [{**vars(change), "values": dict(change.values)} for change in schedule]


def from_plain(items: Sequence[Mapping[str, Any]]) -> Schedule:
    """Return the schedule from the plain values of `to_plain`."""
    return tuple(Change(**item) for item in items)


def to_yaml(trainer: Trainer) -> str:
    """Return the text of a schedule file: the path of a training so far, with its first values."""
    start = Change(step=0, reason="start", values=HParams.from_config(trainer.config).flat())
    path = surviving_path(trainer.hparam_log)
    if path and path[0].step == 0:
        first, *rest = path
        values = {**start.values, **first.values}
        path = (
            Change(step=0, reason=first.reason, values=values, kickstart=first.kickstart),
            *rest,
        )
    else:
        path = (start, *path)
    content = {
        "format": SCHEDULE_FORMAT,
        "run_name": trainer.config.run_name,
        "changes": to_plain(path),
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def read_schedule(path: Path, config: Config | None = None) -> Schedule:
    """Read the schedule in a file and, if `config` is given, check it for that training.

    Errors: `DataError` if the file can't be read or holds no schedule; `ConfigError` for
    hyperparameters that this training does not have.
    """
    source = f"hp_optimizer.schedule = {path}"
    content = parse_yaml(read_text(path, DataError, source), source, DataError)
    if not isinstance(content, dict) or content.get("format") != SCHEDULE_FORMAT:
        raise DataError(
            f"hp_optimizer.schedule = {path}: not a schedule (format: {SCHEDULE_FORMAT}); a "
            f"training with the rollback optimizer leaves one in its folder, {SCHEDULE_NAME}"
        )
    try:
        schedule = tuple(_change(item) for item in content["changes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"hp_optimizer.schedule = {path}: changes need step, reason, kickstart and values: "
            f"{error}"
        ) from error
    steps = [change.step for change in schedule]
    if steps != sorted(set(steps)):
        raise DataError(f"hp_optimizer.schedule = {path}: steps must increase, but are {steps}")
    if config is not None:
        _check(schedule, config, path)
    return schedule


def _change(item: Mapping[str, Any]) -> Change:
    values = {str(name): float(value) for name, value in item["values"].items()}
    step, kickstart = int(item["step"]), int(item.get("kickstart", 0))
    if step < 0 or kickstart < 0:
        raise ValueError(f"step {step}, kickstart {kickstart} must not be negative")
    if not all(math.isfinite(value) and value >= 0 for value in values.values()):
        raise ValueError(f"values at step {step} must be finite and not negative")
    return Change(step=step, reason=str(item["reason"]), values=values, kickstart=kickstart)


def _check(schedule: Schedule, config: Config, path: Path) -> None:
    """Refuse now what `Trainer.set_hparams` would refuse in the middle of the training."""
    first = HParams.from_config(config)
    off = {group for group, weights in first.lambdas.items() if not any(weights)}
    for change in schedule:
        try:
            first.changed(change.values)
        except ConfigError as error:
            raise ConfigError(
                f"hp_optimizer.schedule = {path}, step {change.step}: {error}"
            ) from error
        for name, value in change.values.items():
            group = name.split(".")[1] if name.startswith("lambdas.") else ""
            if group in off and group.startswith("I") and value:
                raise ConfigError(
                    f"hp_optimizer.schedule = {path}, step {change.step}: {name} = {value:g}, but "
                    f"this training has lambdas.{group} = 0; start it with a value above 0"
                )


class Replay(Callback):
    """Sets the values of a schedule at the steps at which they were set before.

    The replay ends with the schedule, or with the first rollback of this training: from then on its
    path differs from the schedule's, and its own optimizer continues from the current values.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._next = 0

    def on_train_start(self, trainer: Trainer) -> None:
        """Apply the changes that come before the first step."""
        self._apply(trainer)

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Apply the changes of this step."""
        self._apply(trainer)

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """Skip the rest of the schedule: the optimizer that asked for the rollback takes over."""
        left = len(self.schedule) - self._next
        if left:
            logger.info("replay: skipping the remaining %d changes of the schedule", left)
        self._next = len(self.schedule)

    def _apply(self, trainer: Trainer) -> None:
        while self._next < len(self.schedule) and self.schedule[self._next].step <= trainer.step:
            change = self.schedule[self._next]
            self._next += 1
            reason = f"as in the schedule: {change.reason}"
            trainer.set_hparams(change.values, reason=reason, kickstart=change.kickstart)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the schedule."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from that position."""
        self._next = int(state["next"])
