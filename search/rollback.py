"""The dynamic rollback optimizer (`HPoptimizer`): fall back and try again with other values.

Snapshots of the training wait in a ring. A fault sends the training back to the newest snapshot at
least `fall_back` steps older, with other lambdas and learning rates; patches drawn since are not
drawn again, so the retry sees other data. Every further failure in a row falls back further and
moves more. After `max_rollbacks` the training stops at its best-known snapshot: it never loops.
A healthy training is left alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import HPOptimizer
from cyclegan.hparams import HParams
from cyclegan.trainer import RollbackEvent, Snapshot, Trainer
from cyclegan.validation import ValidationReport
from search.faults import Fault, judge, only_finite

logger = logging.getLogger(__name__)

LAMBDA_RANGE = 10.0
"""A lambda stays within this factor of its first value, either way."""
RATE_RANGE = 20.0
"""A learning rate stays within this factor of its first value, either way."""


def move(
    current: HParams, initial: HParams, fault: Fault, attempt: int, random: torch.Generator
) -> dict[str, float]:
    """New values after `fault`, the `attempt`-th in a row; only what changes, by dotted name.

    Directed: lambdas of the networks concerned up by half, both learning rates down by a third, or
    by two thirds where values were not finite or exploded. Random: every lambda and rate times
    exp(U(-r, r)), r = 0.15 x attempt. The sum of the lambdas stays what it was at the start, terms
    that are switched off (0) stay off.
    """
    rate_factor = 1 / 3 if fault.kind in ("non_finite", "exploding") else 2 / 3
    reach = min(0.15 * attempt, 0.6)
    changes: dict[str, float] = {}
    first = initial.flat()
    for name, value in current.flat().items():
        shake = math.exp(reach * (2 * float(torch.rand((), generator=random)) - 1))
        if name.startswith("lr_"):
            bounds = first[name] / RATE_RANGE, first[name] * RATE_RANGE
            changes[name] = min(max(value * rate_factor * shake, bounds[0]), bounds[1])
        elif first[name] > 0:
            directed = 1.5 if name.split(".")[1] in fault.networks else 1.0
            bounds = first[name] / LAMBDA_RANGE, first[name] * LAMBDA_RANGE
            changes[name] = min(max(value * directed * shake, bounds[0]), bounds[1])
    lambdas = [name for name in changes if name.startswith("lambdas.")]
    budget = sum(first[name] for name in lambdas) / sum(changes[name] for name in lambdas)
    return changes | {name: changes[name] * budget for name in lambdas}


class RollbackOptimizer(Callback):
    """The callback that does it; see the module."""

    def __init__(self, settings: HPOptimizer) -> None:
        self.settings = settings
        self.rollbacks = 0
        self.attempt = 0
        """Failures in a row; 0 when the training is past the step where it failed."""
        self._failed_at = 0
        self._ring: list[Snapshot] = []
        self._start: Snapshot | None = None
        self._best: Snapshot | None = None
        self._best_score = -math.inf
        self._initial: HParams | None = None
        self._giving_up = ""
        self._random = torch.Generator().manual_seed(settings.seed)

    def on_train_start(self, trainer: Trainer) -> None:
        """Keep the start: there is always something to go back to."""
        if self._start is None:
            self._start = trainer.snapshot()
            self._initial = trainer.hparams

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Judge when it is time, and take a snapshot only of what was not found faulty."""
        if trainer.step % self.settings.check_every == 0:
            fault = self._judge(trainer)
            if fault:
                self._fall_back(trainer, fault)
                return
            if self.attempt and trainer.step > self._failed_at:
                logger.info("rollback: recovered, step %d is past the fault", trainer.step)
                self.attempt = 0
        if trainer.step % self.settings.snapshot_every == 0:
            self._ring = [*self._ring, trainer.snapshot()][-self.settings.keep :]

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Remember the best-known state, where a training that can't be saved ends."""
        ripe = self._ring and self._ring[-1].step == trainer.step
        if ripe and report.gate is None and report.score > self._best_score:
            self._best, self._best_score = self._ring[-1], report.score

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """Forget snapshots of the abandoned path; stop if this was the last resort."""
        self._ring = [s for s in self._ring if s.step <= trainer.step]
        logger.warning(
            "rollback %d at step %d to step %d: %s",
            self.rollbacks,
            event.from_step,
            event.to_step,
            event.reason,
        )
        if self._giving_up:
            trainer.request_stop(self._giving_up)

    def _judge(self, trainer: Trainer) -> Fault | None:
        window = max(self.settings.check_every // 2, 1)
        if trainer.step < self.settings.warmup:
            return only_finite(trainer.history, window=window)
        return judge(trainer.history, trainer.images, window=window)

    def _fall_back(self, trainer: Trainer, fault: Fault) -> None:
        if self.rollbacks >= self.settings.max_rollbacks:
            self._give_up(trainer, fault)
            return
        self.rollbacks += 1
        self.attempt += 1
        self._failed_at = max(self._failed_at, trainer.step)
        # Further back after every failure in a row: the seed of a fault may lie before it shows.
        distance = self.settings.fall_back + (self.attempt - 1) * self.settings.snapshot_every
        snapshot = self._snapshot_before(self._failed_at - distance)
        assert self._initial is not None
        changes = move(trainer.hparams, self._initial, fault, self.attempt, self._random)
        trainer.request_rollback(snapshot, reason=fault.reason, changes=changes)

    def _give_up(self, trainer: Trainer, fault: Fault) -> None:
        self._giving_up = (
            f"{fault.reason}; {self.rollbacks} rollbacks did not help, "
            "stopped at the best-known snapshot"
        )
        target = self._best or self._snapshot_before(trainer.step - self.settings.fall_back)
        trainer.request_rollback(target, reason=self._giving_up)

    def _snapshot_before(self, step: int) -> Snapshot:
        assert self._start is not None
        return max(
            (s for s in self._ring if s.step <= step), key=lambda s: s.step, default=self._start
        )

    def state_dict(self) -> dict[str, Any]:
        """The ring too: a killed training can still fall back after its resume."""
        return {
            "counters": [self.rollbacks, self.attempt, self._failed_at],
            "best_score": self._best_score,
            "giving_up": self._giving_up,
            "initial": self._initial.flat() if self._initial else {},
            "random": self._random.get_state(),
            "ring": [_pack(s) for s in self._ring],
            "start": [_pack(s) for s in (self._start,) if s],
            "best": [_pack(s) for s in (self._best,) if s],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.rollbacks, self.attempt, self._failed_at = state["counters"]
        self._best_score = state["best_score"]
        self._giving_up = state["giving_up"]
        self._random.set_state(state["random"])
        self._ring = [_unpack(s) for s in state["ring"]]
        self._start = next((_unpack(s) for s in state["start"]), None)
        self._best = next((_unpack(s) for s in state["best"]), None)
        self._initial = self._start.hparams if self._start else None


def _pack(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "step": snapshot.step,
        "iteration": snapshot.iteration,
        "lr_g": snapshot.hparams.lr_g,
        "lr_d": snapshot.hparams.lr_d,
        "lambdas": {group: list(weights) for group, weights in snapshot.hparams.lambdas.items()},
        "training": snapshot.training,
    }


def _unpack(state: Mapping[str, Any]) -> Snapshot:
    hparams = HParams(
        lr_g=state["lr_g"],
        lr_d=state["lr_d"],
        lambdas={group: tuple(weights) for group, weights in state["lambdas"].items()},
    )
    return Snapshot(
        step=state["step"],
        iteration=state["iteration"],
        hparams=hparams,
        training=state["training"],
    )
