"""A training that has ended, as its last checkpoint tells it.

The checkpoint knows all losses, validations and changes of hyperparameters. Where the store does
not, because its disk was full until the process had ended, `TrackingCallback.catch_up` writes them
from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cyclegan import checkpoints
from cyclegan.config import parse_config
from cyclegan.events import HParamChange, RollbackEvent
from cyclegan.history import MetricHistory
from cyclegan.hparams import HParams


class PastTraining:
    """The part of a trainer that `TrackingCallback` reads after the last step.

    Errors: `CheckpointError` if the checkpoint can't be read.
    """

    def __init__(self, checkpoint: Path) -> None:
        state = checkpoints.load(checkpoint, formats=(checkpoints.CHECKPOINT_FORMAT,))
        self.config = parse_config(state["config"], source=str(checkpoint))
        self.step, self.iteration = int(state["step"]), int(state["iteration"])
        self.hparams = HParams.from_config(self.config).changed(state["hparams"])
        self.hparam_log = [HParamChange(**change) for change in state["hparam_log"]]
        self.rollbacks = [RollbackEvent.from_plain(event) for event in state.get("rollbacks", [])]
        self.history = MetricHistory()
        self.history.load_state_dict(state["history"])
        self.callbacks: Mapping[str, Any] = state["callbacks"]
        self.images: Mapping[str, Tensor] = {}
        self.rates: Mapping[str, float] = {}
        """Empty: a checkpoint does not hold the factor of the schedule."""
        self.ended_at = checkpoint.stat().st_mtime
        """Time of the checkpoint in seconds since 1970."""
