"""The guard: the policy that falls back from faults and leaves healthy trainings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cyclegan.config import HPOptimizer
from cyclegan.hparams import HParams
from search.rollback import moves
from search.rollback.detectors import WINDOW, Evidence, flat, inverted, judge, non_finite
from search.rollback.policy import Fault, Move, Retry

if TYPE_CHECKING:
    from cyclegan.trainer import Trainer


class Guard:
    """Judges by `detectors`, moves by `moves`."""

    def __init__(self, settings: HPOptimizer) -> None:
        self.settings = settings
        self._scores: list[tuple[int, float]] = []
        self._kickstart_steps = 0

    def signs(self, trainer: Trainer) -> frozenset[str]:
        """Whether the images are flat or inverted now."""
        evidence = Evidence(images=trainer.images)
        return frozenset(fault.kind for fault in (flat(evidence), inverted(evidence)) if fault)

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        """The worst fault; of a young training, values that are not finite."""
        known = self._scores if self.settings.score else []
        scores = [(trainer.step - step, score) for step, score in known]
        evidence = Evidence.of(trainer, scores)
        if young:
            return non_finite(evidence)
        return judge(evidence)

    def further_back(self, attempt: int) -> int:
        """The seed of a fault may lie before it shows: a snapshot more at each attempt."""
        return (attempt - 1) * self.settings.snapshot_every

    def move(self, retry: Retry, random: torch.Generator) -> Move:
        """See `moves.move`."""
        return moves.move(retry, random, kickstart_steps=self._kickstart_steps)

    def healthy(self, trainer: Trainer, random: torch.Generator) -> Mapping[str, float]:
        """Nothing, unless corrections are wanted."""
        if not self.settings.corrections:
            return {}
        initial = HParams.from_config(trainer.config)
        return moves.correction(_accuracy(trainer), trainer.hparams, initial)

    def on_train_start(self, trainer: Trainer) -> None:
        """What this training can have."""
        config = trainer.config
        # Kickstart closes a cycle on the input itself, which must have as many channels.
        self._kickstart_steps = (
            config.kickstart_steps if config.channels_A == config.channels_B else 0
        )

    def on_validation(self, score: float, step: int) -> None:
        """Remember it."""
        self._scores.append((step, score))

    def on_rollback(self, step: int) -> None:
        """Forget the scores of the abandoned path."""
        self._scores = [(at, score) for at, score in self._scores if at <= step]

    def state_dict(self) -> dict[str, Any]:
        """The scores along the accepted path."""
        return {"scores": [list(pair) for pair in self._scores]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the scores."""
        self._scores = [(int(step), float(score)) for step, score in state["scores"]]


def _accuracy(trainer: Trainer) -> float:
    """Of both discriminators together, over the last steps."""
    right = total = 0.0
    for name in trainer.history.names:
        if name.startswith("truth/"):
            patches = float(np.nansum(trainer.history.column(name)[-WINDOW:]))
            total += patches
            right += patches if name.endswith(("_TP", "_TN")) else 0.0
    return right / max(total, 1e-9)
