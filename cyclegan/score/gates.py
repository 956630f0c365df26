"""The hard gates: what makes a generator unusable, whatever its numbers say.

Each returns why, in words, or None.
"""

from __future__ import annotations

import math

from torch import Tensor

MAX_VOXEL = 1e4
"""Standardised intensity beyond which an output has diverged; keeps all sums finite."""
MIN_CONTRAST = 0.05
"""Standard deviation of fake B, relative to real B's, below which it is flat."""
MIN_VARIETY = 0.05
"""How much of the variety between its inputs a generator's outputs must keep."""
MIN_CORRELATION = 0.1
"""Low-pass correlation of real A and fake B below which the contrast is inverted or lost."""


def non_finite(fake: Tensor) -> str | None:
    """Why `fake` (N, 1, Z, Y, X) is not usable as numbers, or None."""
    bad = int((~fake.isfinite()).sum())
    if bad:
        return f"{bad} of {fake.numel()} voxels of the output are not finite"
    largest = float(fake.abs().max())
    if largest > MAX_VOXEL:
        return f"the output has diverged: a voxel of {largest:.2g} standard deviations"
    return None


def collapsed(fake_B: Tensor, real_A: Tensor, real_B: Tensor) -> str | None:
    """Why `fake_B` = G_A(`real_A`) does not show its input, or None.

    Flat: hardly any contrast, measured against `real_B`. The same for all: the outputs of the N
    different patches vary far less from patch to patch than the inputs do.
    """
    contrast = math.sqrt(float(fake_B.var()) / max(float(real_B.var()), 1e-30))
    if contrast < MIN_CONTRAST:
        return f"the output is flat: its contrast is {contrast:.2g} of real B's"
    kept = _variety(fake_B) / max(_variety(real_A), 1e-30)
    if kept < MIN_VARIETY:
        return f"different inputs give the same output: {kept:.2g} of their variety is left"
    return None


def inverted(correlation: float) -> str | None:
    """Why a `low_pass_correlation` of input and output is no good, or None."""
    if correlation >= MIN_CORRELATION:
        return None
    what = "inverted" if correlation < -MIN_CORRELATION else "lost"
    return f"the contrast is {what}: low-pass correlation of real A and fake B {correlation:.2f}"


def _variety(volumes: Tensor) -> float:
    """Share of the variance that lies between volumes, voxel by voxel."""
    return float(volumes.var(dim=0).mean()) / max(float(volumes.var()), 1e-30)
