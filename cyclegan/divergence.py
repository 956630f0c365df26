"""Divergence: losses, weights or optimizer moments that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

from cyclegan.history import Row
from cyclegan.model import CycleGAN


def divergence(model: CycleGAN, rows: Iterable[Row], step: int) -> str | None:
    """Return a description of the first values that are not finite, or None; waits for the device.

    Args:
        rows: metrics of the steps to check.
        step: the training step of the weights and moments.
    """
    for row in rows:
        for name, value in row.values.items():
            if (
                row.accepted
                and name.startswith(("loss/", "grad_norm"))
                and not math.isfinite(value)
            ):
                return f"at step {row.step} {name} was {value}"
    broken = model.broken_networks()
    if broken:
        return f"at step {step} weights of {', '.join(broken)} were not finite"
    frozen = model.broken_moments()
    if frozen:
        return f"at step {step} Adam's moments of {', '.join(frozen)} were not finite"
    return None
