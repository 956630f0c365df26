"""What may watch a training and ask things of it.

The training loop with its events; `trainer` is always the first argument:

```
on_train_start(trainer)                      state is complete: fresh, or restored from a checkpoint
while step < config.steps:
    batch, losses, optimizers                step += 1, iteration += 1
    on_step_end(trainer, metrics)            metrics: scalar tensors on the device, not synchronised
    every validate_every steps, and at the last one:
        on_validation_end(trainer, report)   score, gate and the six images of held-out patches
    --- boundary: every callback has seen the step; now the trainer acts on what was asked ---
    a stop was requested     -> leave the loop
    a rollback was requested -> restore the snapshot, apply hyperparameters,
                                on_rollback(trainer, event)
    every checkpoint_every steps: checkpoint (callbacks' state in it)
last checkpoint
on_train_end(trainer, result)                also for stopped and pruned trainings: see result
```

An error inside calls `on_exception(trainer, error)` and is raised again; `close()` is called last
in every case. Callbacks ask (`trainer.request_stop`, `trainer.request_rollback`), the trainer acts;
the order of callbacks changes nothing. Floats of past metrics come from `trainer.history`, one
transfer a report: a callback that reads a metric's value at every step slows a GPU down.
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
    """Base of callbacks: every event does nothing. Override what is needed."""

    @property
    def name(self) -> str:
        """The key of this callback's state in checkpoints; unique among a trainer's callbacks."""
        return type(self).__name__

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """After a step; `metrics` are scalars on the device."""

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """After a validation, which follows `on_step_end` of the same step."""

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        """After a snapshot was restored; `trainer.step` is the snapshot's already."""

    def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
        """After the last step, however the training ended, but for errors."""

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """The training failed; `error` is raised after this."""

    def close(self) -> None:
        """Release what is held; called last, once."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: tensors, numbers, strings, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over `state` from a checkpoint."""
