"""Fourier shell correlations (FSC) of patches: is the structure there, and is it the input's?

On the pseudo pairs the truth is known. No filter, however good, changes how well a shell of spatial
frequency correlates with the truth, because it multiplies signal and noise there alike: the *shell
gain* of every filter is 0. Above 0 a network knows more than a filter can; below it invents or
loses structure.

On real A no truth is known, but the FSC of input and output is, and for pseudo A as well. If
pseudo A looks to the network like real A the two curves are one, up to chance. The *shell gap* is
how far they lie apart, beyond its null (disjoint halves of the same patches): where it is large,
what was seen on the pseudo pairs does not hold for real A.

Source: Koho 2019 judges restoration by FSC; the gap between two domains is this project's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cyclegan.metrics.spectrum import NULL_SPLITS, ShellSums, shell_sums
from cyclegan.score.degrade import to_fine


class Shells:
    """Keeps what doesn't change: inputs on B's grid and how pseudo A correlates with the truth."""

    def __init__(
        self, real_A: Tensor, pseudo_A: Tensor, truth: Tensor, factor: int, seed: int
    ) -> None:
        self.real_A, self.pseudo_A = to_fine(real_A, factor), to_fine(pseudo_A, factor)
        self.truth, self.seed = truth, seed
        self.input_correlation = shell_sums(self.pseudo_A, truth).correlation()

    def parts(self, fake_B: Tensor, restored: Tensor) -> dict[str, float]:
        """Gain and gap, both means over the shells up to Nyquist, without unit."""
        restored_correlation = shell_sums(restored, self.truth).correlation()
        real, pseudo = shell_sums(self.real_A, fake_B), shell_sums(self.pseudo_A, restored)
        gap = _distance(real.correlation(), pseudo.correlation())
        null = math.hypot(_null(real, self.seed), _null(pseudo, self.seed)) / math.sqrt(2)
        return {
            "shell_gain": float((restored_correlation - self.input_correlation).mean()),
            "shell_gap": max(0.0, gap - null),
        }


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def _null(sums: ShellSums, seed: int) -> float:
    """Distance of the curves of two sets as large as this one, of the same kind."""
    generator = torch.Generator().manual_seed(seed)
    half = len(sums.cross) // 2
    distances = []
    for _ in range(NULL_SPLITS):
        order = torch.randperm(len(sums.cross), generator=generator).numpy()
        distances.append(
            _distance(sums.correlation(order[:half]), sums.correlation(order[half : 2 * half]))
        )
    return sum(distances) / len(distances) / math.sqrt(2)
