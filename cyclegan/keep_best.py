"""A callback that keeps the generators of the best validation, not merely those of the last step.

An adversarial training does not improve all the time: its score rises, falls and rises again.
Volumes are enhanced with the generators that scored best.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclegan.callbacks import Callback
from cyclegan.events import TrainResult
from cyclegan.generator import save_generators
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport


class KeepBest(Callback):
    """Write the mean generators to `path` whenever a validation beats all before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score: float | None = None
        """Score of the generators in the file; None before the first usable validation."""
        self.step = 0
        self.gain_db: float | None = None
        """Their gain over the best Gaussian filter on pseudo pairs in dB, if it was measured."""

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Save the generators if they are usable and better than all before."""
        if report.beats(self.score):
            self.score, self.step = report.score, report.step
            self.gain_db = report.metrics.get("score/pseudo_pair_gain_db")
            self._save(trainer, report.score)

    def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
        """Save the last generators if none were usable: a user may still want to look at them."""
        usable = result.outcome != "interrupted" and not trainer.model.broken_networks()
        if self.score is None and usable:
            self.step = trainer.step
            self._save(trainer, result.score)

    def _save(self, trainer: Trainer, score: float | None) -> None:
        data = trainer.data
        save_generators(
            trainer.model,
            self.path,
            step=self.step,
            score=score,
            grey_scales=data.grey_scales(),
            scans=data.scans(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return score, step and gain of the generators in the file."""
        return {"score": self.score, "step": self.step, "gain_db": self.gain_db}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue to compare with the generators in the file, if it still exists."""
        if self.path.is_file():
            self.score, self.step = state["score"], state["step"]
            self.gain_db = state.get("gain_db")  # not in checkpoints of earlier versions
