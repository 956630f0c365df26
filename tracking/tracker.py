"""The protocol between a training and its tracker: records go in, and what is there can be asked.

`TrackingCallback` knows a tracker by these methods only. `BackgroundWriter` is the one for MLflow;
another one needs no more than this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tracking.downsampling import Sample
    from tracking.outbox.records import Record


class Tracker(Protocol):
    """Takes the records of one training without making it wait.

    Only the last three methods may raise, and only before the training starts (`CycleGANError`).
    """

    @property
    def name(self) -> str:
        """Name of the training's run, for messages."""

    def put(self, *new: Record) -> None:
        """Take records, to be written in this order; return at once."""

    def flush(self) -> None:
        """Have what was put written now rather than later; return at once."""

    def drain(self, timeout: float = 30.0) -> bool:
        """Wait until everything put so far was tried; return True if nothing is left."""

    def close(self) -> bool:
        """Write what is left; return True if everything was written."""

    def unsent(self) -> Sequence[Sample]:
        """Return the metrics that would be lost if the process died now."""

    def last_iteration(self) -> int:
        """Return the last iteration whose metrics are stored or wait on the disk; 0 if none."""

    def image_steps(self, key: str) -> set[int]:
        """Return the steps at which the series `key` has a picture already."""

    def artifact_names(self, folder: str) -> Sequence[str]:
        """Return the paths of the files that lie in `folder` of the run."""
