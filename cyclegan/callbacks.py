"""The callback interface: the events of a training, and the requests that a callback can make.

The training loop with its events, as `Trainer.fit` runs it; `trainer` is always the first argument:

```
if resumed: load the checkpoint               load_state_dict(state) of every callback in it
on_train_start(trainer)                       the state is complete, whether new or resumed
while step < config.steps:
    if a stop was requested: leave the loop
    train on one batch                        step += 1, iteration += 1
    on_step_end(trainer, metrics)             metrics: scalars on the device, not synchronised
    every validate_every steps, and at step config.steps: validate
        on_validation_end(trainer, report)    score, gate and the six images of held-out patches
    unless a stop was requested:              all callbacks have seen the step: the boundary
        if a rollback was requested: restore the snapshot, set the hyperparameters
            on_rollback(trainer, event)       step goes back, iteration does not
        every checkpoint_every steps, or after checkpoint_minutes: save a checkpoint
                                              with the state_dict() of every callback
save the last checkpoint
on_train_end(trainer, result)                 also if stopped, pruned or interrupted

on_exception(trainer, error)                  if anything above failed; then error is raised again
close()                                       last, in every case
```

Callbacks request (`trainer.request_stop`, `trainer.request_rollback`), the trainer acts at the
boundary. A stop takes precedence over a rollback, and the oldest of several snapshots is restored,
so the order of callbacks changes nothing. Read past metrics as floats from `trainer.history`, which
transfers them all at once: a callback that reads a metric's value at every step slows a GPU down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from cyclegan.events import RollbackEvent, TrainResult
    from cyclegan.trainer import Trainer
    from cyclegan.validation import ValidationReport


class Callback:
    """Base class of callbacks. Every event does nothing by default; override those you need."""

    @property
    def name(self) -> str:
        """The key of this callback's state in checkpoints; unique among a trainer's callbacks."""
        return type(self).__name__

    def on_train_start(self, trainer: Trainer) -> None:
        """Run before the first step of this process."""

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Run after every step; `metrics` are scalars on the device."""

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Run after every validation, which follows `on_step_end` of the same step."""

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """Run after every rollback; `trainer.step` is already that of the restored snapshot."""

    def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
        """Run after the last step, unless the training ended with an error."""

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Run when the training has failed; the trainer then raises `error`."""

    def close(self) -> None:
        """Release all resources; the trainer calls this once, after everything else."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed training needs.

        It may hold tensors, numbers, strings, and lists and dicts of them.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state` from a checkpoint."""
