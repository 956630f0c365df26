"""When a study ends, and what it leaves on disk."""

from __future__ import annotations

from pydantic import Field

from cyclegan.config import Count, Section


class StopRules(Section):
    """What ends a study before it has all its trials; running trials are finished."""

    hours: float | None = Field(default=None, gt=0.0)
    """Wall-clock hours of running, over all its calls together."""
    iterations: int | None = Field(default=None, ge=1)
    """Optimisation steps of all trials together."""
    no_improvement: int | None = Field(default=None, ge=1)
    """Finished trials in a row without a new best."""


class Checkpoints(Section):
    """Which trials keep the checkpoints they can be promoted or revived from."""

    keep_trials: Count = 5
    """Of the complete ones so many best, and of the pruned ones so many best."""
    disk_gb: float | None = Field(default=None, gt=0.0)
    """The study stops before its results take more than this many GB."""
