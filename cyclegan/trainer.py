"""The trainer: one loop, its events, and the complete state of a training.

The loop with its events is drawn in `cyclegan/callbacks.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cyclegan import state as states
from cyclegan.callbacks import Callback
from cyclegan.checkpoints import Cadence, CheckpointFolder
from cyclegan.config import Config, parse_config
from cyclegan.errors import CheckpointError, ConfigError
from cyclegan.generator import load_pretrained
from cyclegan.history import MetricHistory
from cyclegan.hparams import HParams
from cyclegan.model import CycleGAN
from cyclegan.precision import choose_device, choose_precision
from cyclegan.training_data import TrainingData
from cyclegan.validation import ValidationReport, Validator

Outcome = Literal["completed", "pruned", "stopped", "interrupted"]

# A pruned training is over; an interrupted one goes on later. Asked for both, the first wins.
_PRECEDENCE: tuple[Outcome, ...] = ("pruned", "stopped", "interrupted")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training ended. A stopped or pruned training is an outcome, not an error."""

    outcome: Outcome
    reason: str
    """In words; empty if completed."""
    step: int
    iteration: int
    score: float | None
    """The last validation's, or None if there was none."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Training state in host memory: networks, optimizers, hyperparameters, step."""

    step: int
    iteration: int
    """When it was taken."""
    hparams: HParams
    training: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RollbackEvent:
    """A rollback that happened."""

    from_step: int
    to_step: int
    iteration: int
    reason: str
    before: HParams
    """In force when the fault was found."""
    after: HParams
    """In force now."""


@dataclass(frozen=True, kw_only=True)
class HParamChange:
    """One entry of the log that `set_hparams` keeps."""

    iteration: int
    step: int
    reason: str
    changes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class _RollbackRequest:
    snapshot: Snapshot
    reason: str
    changes: Mapping[str, float]


class Trainer:
    """Trains a `CycleGAN` as a `Config` says, with callbacks watching.

    Args:
        config: what to train. `precision: auto` is resolved here; `trainer.config` is the outcome.
        callbacks: see `cyclegan.callbacks`; their order changes nothing.
        folder: where checkpoints go (see `cyclegan.checkpoints`); without it none is written.

    Errors: `ConfigError` and `DataError` for what can't work, before anything is computed.
    """

    def __init__(
        self, config: Config, callbacks: Iterable[Callback] = (), folder: Path | None = None
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = choose_device(config.device)
        self.folder = folder
        self.data = TrainingData(config, self.device)
        self.validator = Validator(config, self.data, self.device)
        self.config = choose_precision(config, self.device)
        self.model = CycleGAN(self.config, self.device)
        self.history = MetricHistory()
        self.hparam_log: list[HParamChange] = []
        self.step = 0
        """The training step, which a rollback rewinds."""
        self.iteration = 0
        """Optimisation steps executed, which nothing rewinds."""
        self.images: dict[str, Tensor] = {}
        """The six images of the last step's batch, on the device."""
        self.last_report: ValidationReport | None = None
        self._last_score: float | None = None
        self._best_score: float | None = None
        self._best_is_new = False
        self._restored_random: Mapping[str, Any] | None = None
        self._checkpoints = CheckpointFolder(folder, config.keep_checkpoints) if folder else None
        self._cadence = Cadence(config.checkpoint_every, config.checkpoint_minutes)
        self._stop_requests: list[tuple[Outcome, str]] = []
        self._rollback_requests: list[_RollbackRequest] = []
        self.callbacks: list[Callback] = []
        for callback in callbacks:
            self.add_callback(callback)

    # -- what callbacks may use ---------------------------------------------------------------

    @property
    def hparams(self) -> HParams:
        """The hyperparameters in force."""
        return self.model.hparams

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of the last step: those in force times the schedule's factor."""
        factor = self.model.rate_factor
        return {"lr_g": factor * self.hparams.lr_g, "lr_d": factor * self.hparams.lr_d}

    @property
    def best_score(self) -> float | None:
        """The highest of all usable validations, also of those rolled back; None before one."""
        return self._best_score

    def add_callback(self, callback: Callback) -> None:
        """Let one more callback watch. Errors: `ConfigError` if its name is taken."""
        if any(callback.name == other.name for other in self.callbacks):
            raise ConfigError(f"two callbacks are called '{callback.name}'; rename one of them")
        self.callbacks.append(callback)

    def set_hparams(self, changes: Mapping[str, float], *, reason: str = "") -> None:
        """Change lambdas and learning rates, by dotted name; the only way to change them."""
        changed = self.hparams.changed(changes)
        for group, weights in changed.lambdas.items():
            if group not in self.model.terms and any(weights):
                raise ConfigError(
                    f"lambdas.{group} was 0 at the start, which leaves its terms out of the whole "
                    "training; start with a small value to raise it later"
                )
        self.model.apply_hparams(changed)
        self.hparam_log.append(
            HParamChange(
                iteration=self.iteration, step=self.step, reason=reason, changes=dict(changes)
            )
        )

    def request_stop(self, reason: str, *, outcome: Outcome = "stopped") -> None:
        """Ask to end the training at this step's boundary. Also safe from a signal handler."""
        self._stop_requests.append((outcome, reason))

    def request_rollback(
        self, snapshot: Snapshot, *, reason: str, changes: Mapping[str, float] | None = None
    ) -> None:
        """Ask to go back to `snapshot` at this step's boundary and change hyperparameters there."""
        self._rollback_requests.append(
            _RollbackRequest(snapshot=snapshot, reason=reason, changes=changes or {})
        )

    def snapshot(self) -> Snapshot:
        """The training state now, copied to host memory."""
        return Snapshot(
            step=self.step,
            iteration=self.iteration,
            hparams=self.hparams,
            training=states.to_host(self.model.training_state()),
        )

    # -- the loop -----------------------------------------------------------------------------

    def fit(self, resume: Path | None = None) -> TrainResult:
        """Train to `config.steps`, from scratch or from the checkpoint `resume`.

        PyTorch's global random numbers, which a user's own loss may draw, come from the seed or the
        checkpoint meanwhile; afterwards the caller's go on where they were.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            return self._fit(resume)

    def _fit(self, resume: Path | None) -> TrainResult:
        try:
            if resume is not None:
                self.load_checkpoint(resume)
            if self._restored_random is None:
                torch.manual_seed(self.config.seed)
                self.load_pretrained()
            else:
                states.load_random_state(self._restored_random, self.device)
            self._emit("on_train_start")
            result = self._loop()
            self.save_checkpoint()
            self._emit("on_train_end", result)
        except BaseException as error:
            self._emit("on_exception", error)
            raise
        finally:
            self._close()
        return result

    def load_pretrained(self) -> None:
        """Take the networks of `config.pretrained`, if there is one; `fit` does so at step 0.

        A resumed training doesn't need that file any more. Errors: `CheckpointError`.
        """
        if self.config.pretrained is not None:
            load_pretrained(self.model, Path(self.config.pretrained))

    def _loop(self) -> TrainResult:
        while self.step < self.config.steps:
            stopped = self._act_on_stop()
            if stopped:
                return stopped
            metrics = self._train_one_step()
            self._emit("on_step_end", metrics)
            if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                self._validate()
            if not self._stop_requests:
                self._act_on_rollback()
            if not self._stop_requests:
                self._save_if_due()
        return self._act_on_stop() or self._result("completed", "")

    def _save_if_due(self) -> None:
        if self._cadence.due(self.step):
            self.save_checkpoint()
        if self._best_is_new and self._checkpoints and self.config.keep_best_checkpoint:
            self._checkpoints.save_best(self.state_dict())
        self._best_is_new = False

    def _train_one_step(self) -> dict[str, Tensor]:
        self.model.schedule(self.config.lr_schedule.factor(self.step, self.config.steps))
        real_A, real_B = (b.to(self.device, non_blocking=True) for b in self.data.next())
        metrics, self.images = self.model.training_step(real_A, real_B, self._kickstart())
        self.step += 1
        self.iteration += 1
        self.model.update_mean(self.step)
        self.history.append(self.iteration, self.step, metrics)
        return metrics

    def _kickstart(self) -> tuple[bool, bool]:
        if not self.config.kickstart or self.step >= self.config.kickstart_steps:
            return False, False
        drawn = torch.rand(2, generator=self.model.random)
        a, b = (drawn < self.config.kickstart_probability).tolist()
        return a, b

    def _validate(self) -> None:
        report = self.validator(self.model, step=self.step, iteration=self.iteration)
        self.last_report = report
        self._last_score = report.score
        if report.gate is None and (self._best_score is None or report.score > self._best_score):
            self._best_score, self._best_is_new = report.score, True
        self._emit("on_validation_end", report)

    def _act_on_stop(self) -> TrainResult | None:
        if not self._stop_requests:
            return None
        outcome, reason = min(self._stop_requests, key=lambda r: (_PRECEDENCE.index(r[0]), r[1]))
        # A training that has all its steps is complete, even if somebody wanted to interrupt it.
        if outcome == "interrupted" and self.step >= self.config.steps:
            return self._result("completed", "")
        return self._result(outcome, reason)

    def _act_on_rollback(self) -> None:
        if not self._rollback_requests:
            return
        # The oldest snapshot wins: it satisfies the others as well.
        request = min(self._rollback_requests, key=lambda r: (r.snapshot.step, r.reason))
        self._rollback_requests.clear()
        before, from_step = self.hparams, self.step
        self.model.load_training_state(request.snapshot.training)
        self.step = request.snapshot.step
        self.history.discard_after(self.step)
        self._best_is_new = False  # the state it belonged to is gone
        self.set_hparams(
            {**request.snapshot.hparams.flat(), **request.changes}, reason=request.reason
        )
        event = RollbackEvent(
            from_step=from_step,
            to_step=self.step,
            iteration=self.iteration,
            reason=request.reason,
            before=before,
            after=self.hparams,
        )
        self._emit("on_rollback", event)

    def _result(self, outcome: Outcome, reason: str) -> TrainResult:
        return TrainResult(
            outcome=outcome,
            reason=reason,
            step=self.step,
            iteration=self.iteration,
            score=self._last_score,
        )

    def _emit(self, event: str, *arguments: object) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)

    def _close(self) -> None:
        self.data.close()
        for callback in self.callbacks:
            callback.close()

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The complete state: resumed from it, a training continues bit for bit."""
        return {
            "format": states.CHECKPOINT_FORMAT,
            "config": self.config.to_dict(),
            "step": self.step,
            "iteration": self.iteration,
            "score": self._last_score,
            "best_score": self._best_score,
            "hparams": self.hparams.flat(),
            "hparam_log": [
                {
                    "iteration": c.iteration,
                    "step": c.step,
                    "reason": c.reason,
                    "changes": dict(c.changes),
                }
                for c in self.hparam_log
            ],
            "training": self.model.training_state(),
            "history": self.history.state_dict(),
            "random": {
                "global": states.random_state(self.device),
                "own": self.model.random.get_state(),
            },
            "samplers": self.data.state_dict(),
            "grey_scales": self.data.grey_scales(),
            "statistics": self.data.statistics(),
            "callbacks": {c.name: c.state_dict() for c in self.callbacks},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a complete state.

        Errors: `CheckpointError` if it belongs to networks of another shape.
        """
        self.model.apply_hparams(self.hparams.changed(state["hparams"]))
        try:
            self.model.load_training_state(state["training"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                "the checkpoint's networks differ from the configuration's (net_A, net_B, filters, "
                "depth, channels_A, filters_D, layers_D, ...); continue with the configuration it "
                "was made with"
            ) from error
        self.step, self.iteration = int(state["step"]), int(state["iteration"])
        self._last_score, self._best_score = state["score"], state["best_score"]
        self.hparam_log = [HParamChange(**change) for change in state["hparam_log"]]
        self.history.load_state_dict(state["history"])
        self._restored_random = state["random"]["global"]
        self.model.random.set_state(state["random"]["own"])
        self.data.load_state_dict(state["samplers"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])

    def save_checkpoint(self) -> Path | None:
        """Write the complete state to `folder`; the path, or None without a folder."""
        if self._checkpoints is None:
            return None
        self._cadence.written()
        return self._checkpoints.save(self.state_dict())

    def load_checkpoint(self, path: Path) -> Config:
        """Read a checkpoint and take it over; the configuration it was made with."""
        state = states.load(path, formats=(states.CHECKPOINT_FORMAT,))
        self.load_state_dict(state)
        if self._checkpoints and path == self._checkpoints.newest:
            self._checkpoints.continued_at(self.iteration)
        return parse_config(state["config"], source=str(path))
