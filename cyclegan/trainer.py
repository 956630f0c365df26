"""The trainer: one loop, its events, and the complete state of a training.

`cyclegan/callbacks.py` shows the loop with its events on one page.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan import checkpoints, slurm
from cyclegan.callbacks import Callback
from cyclegan.checkpoints import Cadence, CheckpointFolder
from cyclegan.config import Config, parse_config
from cyclegan.data.training_data import TrainingData
from cyclegan.degrader import degrader_of
from cyclegan.determinism import training_arithmetic
from cyclegan.divergence import divergence
from cyclegan.errors import CheckpointError, ConfigError, DivergedError
from cyclegan.events import Cause, HParamChange, Outcome, RollbackEvent, TrainResult
from cyclegan.footprint import check_memory
from cyclegan.generator import load_pretrained
from cyclegan.history import MetricHistory
from cyclegan.hparams import HParams
from cyclegan.kickstart import Kickstarts
from cyclegan.model import CycleGAN
from cyclegan.precision import choose_precision, use_device
from cyclegan.ranks import Ranks, lost, own_of
from cyclegan.requests import Requests, RollbackRequest
from cyclegan.score import GATED
from cyclegan.snapshot import Precision, Snapshot, take_snapshot
from cyclegan.step_images import StepImages
from cyclegan.validation import ValidationReport, Validator

logger = logging.getLogger(__name__)

NOISE_CHOICES = 8
"""Largest number of times in a training at which it chooses the noise of the pseudo pairs."""


class Trainer:
    """Train a `CycleGAN` according to a `Config`, and call callbacks at its events.

    Args:
        config: what to train. `trainer.config` is the same with `precision: auto` resolved.
        callbacks: see `cyclegan.callbacks`; their order changes nothing.
        folder: where checkpoints go (see `cyclegan.checkpoints`); without it none are written.
        ranks: the processes that train this model together (see `cyclegan.ranks`); by default
            those that torchrun started.

    Errors: `ConfigError` and `DataError` for settings and data that can't work, before training.
    """

    def __init__(
        self,
        config: Config,
        callbacks: Iterable[Callback] = (),
        folder: Path | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        threads = config.threads or slurm.threads()
        if threads:
            torch.set_num_threads(threads)
        self.ranks = Ranks.of_environment() if ranks is None else ranks
        self.ranks.check(config)
        self.device = use_device(self.ranks.device(config.device))
        self.folder = folder
        check_memory(config, self.device)
        self.ranks.join(self.device)
        rank, count = self.ranks.rank, self.ranks.size
        self.data = TrainingData(config, self.device, rank=rank, ranks=count)
        self.validator = Validator(config, self.data, self.device)
        self.config = choose_precision(config, self.device)
        self.ranks.require_same(self._shared_facts())
        with training_arithmetic(self.device, deterministic=config.deterministic):
            self.degrader = degrader_of(config, self.data, self.device)
        self.model = CycleGAN(self.config, self.device, self.degrader, self.ranks)
        self.history = MetricHistory()
        self.hparam_log: list[HParamChange] = []
        self.rollbacks: list[RollbackEvent] = []
        """All rollbacks so far, with their outcomes."""
        self.step = 0
        """The training step; a rollback rewinds it."""
        self.iteration = 0
        """Number of optimisation steps executed; nothing rewinds it."""
        self.images = StepImages()
        """The six images of the last step's batch, on the device."""
        self.last_report: ValidationReport | None = None
        self._last_score: float | None = None
        self._best_score: float | None = None
        self._best_is_new = False
        self._noise_chosen_at = 0
        self._found_finite_at = 0
        """The last iteration at which losses and weights were checked and found finite."""
        self._warned = False
        """True if the user was warned since then that no checkpoint is written."""
        self._kickstarts = Kickstarts(config.kickstart_steps if config.kickstart else 0)
        self._restored_random: Mapping[str, Any] | None = None
        self._checkpoints = CheckpointFolder(folder, config.keep_checkpoints) if folder else None
        self._cadence = Cadence(config.checkpoint_every, config.checkpoint_minutes)
        self._save_now = False
        """True if several ranks agreed that a checkpoint is due."""
        self._requests = Requests(self.ranks, residual_noise=self.model.residual_noise)
        self._of_ranks: list[Any] | None = None
        """State that each rank has for itself, as of the last checkpoint."""
        self.callbacks: list[Callback] = []
        for callback in callbacks:
            self.add_callback(callback)

    # -- interface for callbacks --------------------------------------------------------------

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
        """The highest score of all usable validations, also of those rolled back, or None."""
        return self._best_score

    def add_callback(self, callback: Callback) -> None:
        """Add a callback. Errors: `ConfigError` if its name is taken."""
        if any(callback.name == other.name for other in self.callbacks):
            raise ConfigError(f"two callbacks are called '{callback.name}'; rename one of them")
        self.callbacks.append(callback)

    def set_hparams(
        self, changes: Mapping[str, float], *, reason: str = "", kickstart: int = 0
    ) -> None:
        """Change lambdas and learning rates, by dotted name. This is the only way to change them.

        For the next `kickstart` steps each cycle is closed on the input itself (see
        `CycleGAN.cycle`) with probability `kickstart_probability`.

        Errors: `ConfigError` for changes that this training does not support.
        """
        asked = {"changes": dict(changes), "reason": reason, "kickstart": kickstart}
        self._requests.changed(asked)
        changed = self.hparams.changed(changes)
        for group, weights in changed.lambdas.items():
            if group not in self.model.terms and any(weights):
                raise ConfigError(
                    f"lambdas.{group} was 0 at the start, which leaves its terms out of the whole "
                    "training; start with a small value to raise it later"
                )
        if kickstart:
            self._require_equal_channels()
            self._kickstarts.add(self.step, kickstart)
        self.model.apply_hparams(changed)
        self.hparam_log.append(
            HParamChange(
                iteration=self.iteration,
                step=self.step,
                reason=reason,
                changes=dict(changes),
                kickstart=kickstart,
            )
        )

    def kickstarted(self, step: int) -> bool:
        """Return True if kickstart was, or will be, active in the step that follows `step`."""
        return self._kickstarts.are_active(step)

    def request_stop(self, reason: str, *, outcome: Outcome = "stopped") -> None:
        """Request the end of the training at this step's boundary; safe in a signal handler."""
        self._requests.stop(outcome, reason)

    def request_rollback(
        self,
        snapshot: Snapshot,
        *,
        reason: str,
        changes: Mapping[str, float] | None = None,
        kickstart: int = 0,
        cause: Cause | None = None,
    ) -> None:
        """Request a rollback to `snapshot` at this step's boundary, with new hyperparameters.

        `changes` and `kickstart` are those of `set_hparams`; `cause` is recorded beside `reason`.
        """
        if kickstart:
            self._require_equal_channels()
        self._requests.fall_back(
            RollbackRequest(
                snapshot=snapshot,
                reason=reason,
                changes=changes or {},
                kickstart=kickstart,
                cause=cause or Cause(),
            )
        )

    def conclude_rollback(self, outcome: str) -> None:
        """Record the outcome of the last rollback, unless it has one already."""
        if self.rollbacks and not self.rollbacks[-1].outcome:
            last = self.rollbacks[-1]
            self.rollbacks[-1] = replace(last, outcome=outcome, concluded=self.iteration)

    def snapshot(self, precision: Precision = "full") -> Snapshot:
        """Return a snapshot of the current training state; see `cyclegan.snapshot`."""
        return take_snapshot(
            self.model.training_state(),
            step=self.step,
            iteration=self.iteration,
            hparams=self.hparams,
            precision=precision,
        )

    # -- the loop -----------------------------------------------------------------------------

    def fit(self, resume: Path | None = None) -> TrainResult:
        """Train to `config.steps`, from scratch or from the checkpoint `resume`.

        During the training PyTorch's global random numbers, which a user's own loss may draw, come
        from the seed or the checkpoint; afterwards the caller's continue where they were.
        """
        with (
            torch.random.fork_rng([self.device] if self.device.type == "cuda" else []),
            training_arithmetic(self.device, deterministic=self.config.deterministic),
        ):
            return self._fit(resume)

    def _fit(self, resume: Path | None) -> TrainResult:
        try:
            if resume is not None:
                self.load_checkpoint(resume)
            if self._restored_random is None:
                torch.manual_seed(self.config.seed)
                self.load_pretrained()
            else:
                checkpoints.load_random_state(self._restored_random, self.device)
            self._emit("on_train_start")
            self._agree()
            result = self._loop()
            self.save_checkpoint()
            self._emit("on_train_end", result)
        except BaseException as error:
            self._emit("on_exception", error)
            gone = None if self.ranks.is_alone else lost(error)
            if gone is not None:
                raise gone from error
            raise
        finally:
            self._close()
        return result

    def load_pretrained(self) -> None:
        """Load the networks of `config.pretrained`, if it is set; `fit` does so at step 0.

        A resumed training does not need that file. Errors: `CheckpointError`.
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
            self._agree()
            if not self._requests.stopping():
                self._act_on_rollback()
            if not self._requests.stopping():
                self._save_if_due()
        stopped = self._act_on_stop()
        if stopped and stopped.outcome != "completed":
            return stopped
        self._require_finite()
        return self._result("completed", "")

    def _agree(self) -> None:
        """Do on every rank what callbacks asked for on the first; a stop of any stops all."""
        if self.ranks.is_alone:
            return
        agreed = self._requests.agree(
            save=self._cadence.due(self.step), residual_noise=self.model.residual_noise
        )
        self._save_now, self.model.residual_noise = agreed.save, agreed.residual_noise
        if not self.ranks.is_first:
            for change in agreed.changes:
                self.set_hparams(**change)
            self._requests.all_know()

    def _shared_facts(self) -> dict[str, Any]:
        """Return what must be the same on all ranks."""
        own, config = ("device", "threads", "memory_budget_gb"), self.config
        return {
            "the version of PyTorch": torch.__version__,
            "the configuration": {k: v for k, v in config.to_dict().items() if k not in own},
            "the data": {
                domain: [{k: v for k, v in one.items() if k != "volume"} for one in volumes]
                for domain, volumes in self.data.statistics().items()
            },
        }

    def _save_if_due(self) -> None:
        if self._cadence.due(self.step) if self.ranks.is_alone else self._save_now:
            if not self._may_fall_back:
                self._require_finite()
            self.save_checkpoint()
        if self._best_is_new and self._checkpoints and self.config.keep_best_checkpoint:
            self._checkpoints.save_best(self.state_dict())
        self._best_is_new = False

    @property
    def _may_fall_back(self) -> bool:
        """True if a rollback could still repair values that are not finite; a replay has none."""
        optimizer = self.config.hp_optimizer
        return optimizer.enabled and optimizer.policy != "replay"

    def divergence(self) -> str | None:
        """Return a description of the values that are not finite, or None; waits for the device.

        It checks the current weights and moments, and the losses of the accepted steps since the
        last check.
        """
        rows = self.history.rows(after=self._found_finite_at)
        found = divergence(self.model, rows, self.step)
        if found is None:
            self._found_finite_at = self.iteration
            self._warned = False
        return found

    def _require_finite(self) -> None:
        found = self.divergence()
        if found is not None:
            raise DivergedError(
                f"{self.config.run_name} diverged: {found}; lower lr_g, lr_d or the lambdas, or "
                "let hp_optimizer fall back (--hp-optimizer)"
            )

    def _train_one_step(self) -> dict[str, Tensor]:
        self.model.schedule(self.config.lr_schedule.factor(self.step, self.config.steps))
        self.model.lambda_factors = self._lambda_factors()
        real_A, real_B = (b.to(self.device, non_blocking=True) for b in self.data.next())
        metrics, self.images = self.model.training_step(
            real_A, real_B, self._kickstart(), step=self.step, halves=self._halves()
        )
        self.step += 1
        self.iteration += 1
        self.model.update_mean(self.step)
        self.history.append(self.iteration, self.step, metrics)
        return metrics

    def _lambda_factors(self) -> dict[str, float]:
        schedule = self.config.lambda_schedule
        return {g: schedule.factor(g, self.step, self.config.steps) for g in schedule.groups}

    def _halves(self) -> tuple[Tensor, Tensor] | None:
        halves = self.data.next_halves()
        if halves is None:
            return None
        first, second = (half.to(self.device, non_blocking=True) for half in halves)
        return first, second

    def _choose_noise(self) -> None:
        """Choose the noise that now makes pseudo pairs look most like A."""
        degrader, config = self.degrader, self.config
        if degrader is None or config.degradation != "auto" or not any(config.lambdas.P_A):
            return
        every = max(config.steps // NOISE_CHOICES, 1)
        if self.step // every == self._noise_chosen_at // every:
            return
        self._noise_chosen_at = self.step
        chosen = degrader.prefers_residual(self.model.enhance)
        if chosen != self.model.residual_noise:
            self.model.residual_noise = chosen
            source = "what G_A removes from real A" if chosen else "the fitted spectrum"
            logger.info("step %d: pseudo pairs now take their noise from %s", self.step, source)

    def _kickstart(self) -> tuple[bool, bool]:
        if not self.kickstarted(self.step):
            return False, False
        drawn = torch.rand(2, generator=self.model.random)
        a, b = (drawn < self.config.kickstart_probability).tolist()
        return a, b

    def _validate(self) -> None:
        if not self.ranks.is_first:
            self.validator.follow(self.model, self.ranks)
            return
        report = self.validator(
            self.model, step=self.step, iteration=self.iteration, ranks=self.ranks
        )
        found = self.divergence()
        if found is not None and report.gate is None:
            report = replace(report, score=GATED, gate=f"the training diverged: {found}")
        self.last_report = report
        self._last_score = report.score
        if report.beats(self._best_score):
            self._best_score, self._best_is_new = report.score, True
        self._choose_noise()
        self._emit("on_validation_end", report)

    def _act_on_stop(self) -> TrainResult | None:
        asked = self._requests.stopping()
        if asked is None:
            return None
        outcome, reason = asked
        # A training that has all its steps is complete, even if somebody wanted to interrupt it.
        if outcome == "interrupted" and self.step >= self.config.steps:
            return self._result("completed", "")
        return self._result(outcome, reason)

    def _act_on_rollback(self) -> None:
        request = self._requests.rollback()
        if request is None:
            return
        self._requests.done()
        before, from_step = self.hparams, self.step
        self.model.load_training_state(request.snapshot.state())
        self.step = request.snapshot.step
        self.history.discard_after(self.step)
        self._best_is_new = False  # the state it belonged to is gone
        self._kickstarts.rewind(self.step)
        self.set_hparams(
            {**request.snapshot.hparams.flat(), **request.changes},
            reason=request.reason,
            kickstart=request.kickstart,
        )
        self._requests.all_know()  # the other ranks do the same now
        event = RollbackEvent(
            from_step=from_step,
            to_step=self.step,
            iteration=self.iteration,
            snapshot_iteration=request.snapshot.iteration,
            reason=request.reason,
            cause=request.cause,
            kickstart=request.kickstart,
            before=before,
            after=self.hparams,
        )
        self.rollbacks.append(event)
        self._emit("on_rollback", event)

    def _require_equal_channels(self) -> None:
        if self.config.channels_A != self.config.channels_B:
            raise ConfigError(
                "kickstart needs channels_A = channels_B, but they are "
                f"{self.config.channels_A} and {self.config.channels_B}"
            )

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
        self.ranks.leave()
        self.data.close()
        for callback in self.callbacks:
            callback.close()

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, from which a training continues bit for bit."""
        return {
            "format": checkpoints.CHECKPOINT_FORMAT,
            "config": self.config.to_dict(),
            "step": self.step,
            "iteration": self.iteration,
            "score": self._last_score,
            "best_score": self._best_score,
            "hparams": self.hparams.flat(),
            "hparam_log": [change.to_plain() for change in self.hparam_log],
            "rollbacks": [event.to_plain() for event in self.rollbacks],
            "kickstarts": self._kickstarts.state_dict(),
            "training": self.model.training_state(),
            "ranks": self._of_ranks,
            "history": self.history.state_dict(),
            "random": {
                "global": checkpoints.random_state(self.device),
                "own": self.model.random.get_state(),
            },
            "samplers": self.data.state_dict(),
            "grey_scales": self.data.grey_scales(),
            "statistics": self.data.statistics(),
            "scans": self.data.scans(),
            "noise_chosen_at": self._noise_chosen_at,
            "degradation": self.degrader.state_dict() if self.degrader else [],
            "callbacks": {c.name: c.state_dict() for c in self.callbacks},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a complete state.

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
        # Checkpoints only hold finite values. Rows of earlier versions have NaN for metrics that
        # their iterations did not compute.
        self._found_finite_at = self.iteration
        self._last_score, self._best_score = state["score"], state["best_score"]
        self.hparam_log = [HParamChange(**change) for change in state["hparam_log"]]
        # Checkpoints of earlier versions have neither.
        self.rollbacks = [RollbackEvent.from_plain(event) for event in state.get("rollbacks", [])]
        if "kickstarts" in state:
            self._kickstarts.load_state_dict(state["kickstarts"])
        self.history.load_state_dict(state["history"])
        self._restored_random = state["random"]["global"]
        own = own_of(state.get("ranks"), self.ranks)  # else what the first rank had
        if own is not None:
            self._restored_random = own["random"]
            self.model.load_pools(own["pools"])
        self.model.random.set_state(state["random"]["own"])
        if self.data.restore_scans(state.get("scans")):
            self.validator = Validator(self.config, self.data, self.device)
        self.data.load_state_dict(state["samplers"])
        self._noise_chosen_at = int(state.get("noise_chosen_at", 0))
        if self.degrader is not None and state.get("degradation"):
            self.degrader.load_state_dict(state["degradation"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])

    def save_checkpoint(self) -> Path | None:
        """Write a checkpoint to `folder` and return its path.

        Returns None without a folder, or if values are not finite.
        """
        if self._checkpoints is None and self.ranks.is_alone:
            return None
        found = self.divergence()
        if found is not None:
            if not self._warned:
                logger.warning("no checkpoint is written, the last one is kept: %s", found)
            self._warned = True
            return None
        self._cadence.written()
        self._of_ranks = self.ranks.gathered(
            {
                "random": checkpoints.random_state(self.device),
                "pools": self.model.training_state()["pools"],
            }
        )
        return self._checkpoints.save(self.state_dict()) if self._checkpoints else None

    def load_checkpoint(self, path: Path, state: Mapping[str, Any] | None = None) -> Config:
        """Restore a checkpoint and return the configuration of its training.

        `state`: its content, if it is known.
        """
        if state is None:
            state = checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))
        self.load_state_dict(state)
        if self._checkpoints and path == self._checkpoints.newest:
            self._checkpoints.continued_at(self.iteration)
        return parse_config(state["config"], source=str(path))
