"""The dynamic rollback optimizer (`HPoptimizer`): fall back and try again with other values.

A ring (`ring`) holds snapshots of the training. A policy (`guard` or `original`) judges the
training before each snapshot is taken. After a fault the training returns to the newest healthy
snapshot that is at least `fall_back` steps older, with other lambdas and learning rates. Patches
drawn since then are not drawn again, so the retry sees other data. Every further failure in a row
falls back further and changes more. The last attempt uses the initial values; if it fails too, the
training stops at its best-known snapshot.

The optimizer never loops: between `max_rollbacks` rollbacks the training must gain `window` steps
of new ground, which means healthy steps that no earlier attempt had reached. So there are at most
`max_rollbacks` * (1 + `steps` / `window`) rollbacks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config, HPOptimizer
from cyclegan.errors import ConfigError
from cyclegan.events import Cause, RollbackEvent, TrainResult
from cyclegan.footprint import state_bytes
from cyclegan.hparams import HParams
from cyclegan.numbers import ceil_div
from cyclegan.slurm import limited_bytes
from cyclegan.snapshot import Snapshot
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport
from search.rollback.guard import Guard
from search.rollback.original import Original
from search.rollback.policy import Fault, Policy, Retry
from search.rollback.ring import Ring, RingSnapshot

logger = logging.getLogger(__name__)
RING_FOLDER = "ring"
_GIGABYTE = 1e9
_STATE_VERSION = 2


class RollbackOptimizer(Callback):
    """The callback that judges, takes snapshots and falls back; see the module.

    Args:
        settings: its section of the configuration; `policy` is `guard` or `original`.
        folder: where `settings.spill` writes snapshots. By default it lies below the trainer's
            folder, which is known too late for a training that continues.
        policy: another policy to use instead.
    """

    def __init__(
        self, settings: HPOptimizer, *, folder: Path | None = None, policy: Policy | None = None
    ) -> None:
        self.settings = settings
        self.policy: Policy = policy or _POLICIES[settings.policy](settings)
        memory = limited_bytes(settings.memory_gb * _GIGABYTE)
        folder = folder if settings.spill else None
        self.ring = Ring(keep=settings.keep, memory=memory, folder=folder)
        self.rollbacks = 0
        """Number of rollbacks so far."""
        self.attempt = 0
        """Number of failures in a row; 0 once the training is past the step where it failed."""
        self._failed_at = 0
        self._furthest = 0
        """The largest step found healthy."""
        self._counted: list[int] = []
        """`_furthest` at each rollback that still counts."""
        self._initial: HParams | None = None
        self._best_score = -math.inf
        self._giving_up = ""
        self._faulty_at = -1
        """The last iteration found faulty."""
        self._random = torch.Generator().manual_seed(settings.seed)

    # -- events -------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer) -> None:
        """Take a snapshot of the start, so that there is always something to fall back to."""
        if self.settings.spill and self.ring.folder is None and trainer.folder is not None:
            self.ring.folder = trainer.folder / RING_FOLDER
        self.policy.on_train_start(trainer)
        if self.ring.start is None:
            self.ring.begin(trainer.snapshot(self.settings.precision))
        self._initial = self._initial or trainer.hparams

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Judge the training when it is due, and take a snapshot unless a fault was found."""
        step = trainer.step
        if step % self.settings.check_every == 0 or step == trainer.config.steps:
            young = step < self.settings.warmup + trainer.config.pretrain_steps
            fault = self.policy.judge(trainer, young=young)
            if fault:
                self._faulty_at = trainer.iteration
                self._fall_back(trainer, fault)
                return
            self._was_healthy(trainer)
            changes = {} if young else self.policy.healthy(trainer, self._random)
            if changes:
                trainer.set_hparams(changes, reason="correction")
        if step % self.settings.snapshot_every == 0:
            self.ring.add(self._taken(trainer))

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Remember the best-known state, where a training that can't be saved ends."""
        self.policy.on_validation(report.score, trainer.step)
        if self._faulty_at != trainer.iteration and report.beats(self._best_score):
            newest = self.ring.recent[-1] if self.ring.recent else None
            here = newest and newest.iteration == trainer.iteration
            self.ring.keep_best(newest if newest and here else self._taken(trainer))
            self._best_score = report.score

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """Forget the abandoned path, and stop the training if this was the last resort."""
        self.ring.discard_after(trainer.step)
        self.policy.on_rollback(trainer.step)
        logger.warning("rollback %d: %s", len(trainer.rollbacks), event_text(event))
        if self._giving_up:
            trainer.conclude_rollback("gave up")
            trainer.request_stop(self._giving_up)
            # A training continued from here, with more steps or other values, counts afresh.
            self.attempt, self._counted, self._giving_up = 0, [], ""

    def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
        """Conclude the last retry, unless the training was interrupted and will continue."""
        if result.outcome != "interrupted":
            trainer.conclude_rollback(f"{result.outcome} before it was known")

    # -- judging and falling back -------------------------------------------------------------

    def _was_healthy(self, trainer: Trainer) -> None:
        step = trainer.step
        self._furthest = max(self._furthest, step)
        if self.attempt and step > self._failed_at:
            self.attempt = 0
            trainer.conclude_rollback("recovered")
            number = len(trainer.rollbacks)
            logger.warning("rollback %d: recovered, step %d is past the fault", number, step)

    def _fall_back(self, trainer: Trainer, fault: Fault) -> None:
        trainer.conclude_rollback("failed again")
        self.attempt += 1
        self._failed_at = max(self._failed_at, trainer.step)
        self._counted = [at for at in self._counted if at > self._furthest - self.settings.window]
        left = self.settings.max_rollbacks - len(self._counted)
        if left <= 0:
            self._give_up(trainer, fault)
            return
        self.rollbacks += 1
        self._counted.append(self._furthest)
        snapshot = self._target(trainer, fault)
        assert self._initial is not None
        retry = Retry(
            fault=fault,
            attempt=self.attempt,
            last=left == 1,
            found=self._failed_at,
            step=snapshot.step,
            base=snapshot.hparams,
            current=trainer.hparams,
            initial=self._initial,
        )
        move = self.policy.move(retry, self._random)
        trainer.request_rollback(
            snapshot,
            reason=fault.reason,
            changes=move.changes,
            kickstart=move.kickstart,
            cause=self._cause(fault),
        )

    def _give_up(self, trainer: Trainer, fault: Fault) -> None:
        self._giving_up = (
            f"{fault.reason}; {len(self._counted)} rollbacks did not help, "
            "stopped at the best-known snapshot"
        )
        best = self.ring.best.read() if self.ring.best else None
        snapshot = best or self._target(trainer, fault)
        trainer.request_rollback(snapshot, reason=self._giving_up, cause=self._cause(fault))

    def _cause(self, fault: Fault) -> Cause:
        return Cause(kind=fault.kind, severity=fault.severity, attempt=self.attempt)

    def _target(self, trainer: Trainer, fault: Fault) -> Snapshot:
        # Count from the furthest failure in a row: an earlier one must not shorten the distance.
        further = self._failed_at - self.policy.further_back(self.attempt)
        upto = min(trainer.step, further) - self.settings.fall_back
        return self.ring.find(upto=upto, fault=fault.kind, age=fault.age, now=trainer.step)

    def _taken(self, trainer: Trainer) -> RingSnapshot:
        return RingSnapshot.of(
            trainer.snapshot(self.settings.precision), self.policy.signs(trainer)
        )

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the ring: a killed training can still fall back after its resume."""
        return {
            "version": _STATE_VERSION,
            "counters": [self.rollbacks, self.attempt, self._failed_at, self._furthest],
            "counted": list(self._counted),
            "initial": self._initial.flat() if self._initial else None,
            "best_score": self._best_score,
            "random": self._random.get_state(),
            "ring": self.ring.state_dict(),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        if state.get("version") != _STATE_VERSION:
            logger.warning("rollback: ignoring the snapshots of an earlier version")
            return
        self.rollbacks, self.attempt, self._failed_at, self._furthest = state["counters"]
        self._counted = list(state["counted"])
        self._initial = HParams.from_flat(state["initial"]) if state["initial"] else None
        self._best_score = state["best_score"]
        self._random.set_state(state["random"])
        self.ring.load_state_dict(state["ring"])
        self.policy.load_state_dict(state["policy"])


def check_memory(config: Config) -> None:
    """Refuse a memory budget that leaves no snapshot old enough to fall back to.

    Errors: `ConfigError`, which names the remedies.
    """
    settings = config.hp_optimizer
    compact = settings.precision != "full"
    each = state_bytes(config) * (0.5 if compact else 1) / _GIGABYTE
    recent = ceil_div(settings.fall_back, settings.snapshot_every) + 1
    most = limited_bytes(settings.memory_gb * _GIGABYTE) / _GIGABYTE
    if settings.spill or (recent + 2) * each <= most:
        return
    limited = most < settings.memory_gb
    raise ConfigError(
        f"hp_optimizer.memory_gb = {settings.memory_gb:g}"
        + (f", of which this SLURM job's memory allows {most:.3g}" if limited else "")
        + f": a snapshot takes {each:.3g} GB and "
        f"{recent + 2} are needed (the start, the best, and {recent} to fall back "
        f"{settings.fall_back} steps); "
        + ("give the job more (--mem)" if limited else "raise it")
        + ("" if compact else ", set hp_optimizer.precision = bf16")
        + ", or set hp_optimizer.spill = true"
    )


_POLICIES: Mapping[str, type[Guard] | type[Original]] = {"guard": Guard, "original": Original}


# -- One-line descriptions of rollbacks, for a terminal or a log -------------------------------

_SHOWN = 2


_SMALLEST = 0.02


def event_text(event: RollbackEvent) -> str:
    """Return one line: the step before, the step after, the reason, and the changes."""
    line = f"step {event.from_step} -> {event.to_step}, {event.reason}"
    if event.cause.attempt > 1:
        line += f" (attempt {event.cause.attempt})"
    changes = changed(event.before.flat(), event.after.flat())
    if event.kickstart:
        changes = f"{changes}, kickstart for {event.kickstart} steps".removeprefix(", ")
    return f"{line}; {changes}" if changes else line


def changed(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the changed learning rates and the lambdas that changed most; skip tiny changes."""
    ratios = {n: after[n] / before[n] for n in before if before[n] > 0 and after[n] > 0}
    factors = {n: max(r, 1 / r) for n, r in ratios.items() if max(r, 1 / r) > 1 + _SMALLEST}
    rates = [name for name in factors if name.startswith("lr_")]
    lambdas = sorted((n for n in factors if n not in rates), key=lambda n: -factors[n])
    shown = [*rates, *lambdas[:_SHOWN]]
    words = [f"{name} {before[name]:.3g} -> {after[name]:.3g}" for name in shown]
    left = len(lambdas) - _SHOWN
    return ", ".join(words) + (f" and {left} more" if left > 0 else "")
