"""What the other generator, B -> A, tells: its own quality, and whether fake B hides information.

An honest fake B no longer has A's noise, so no G_B can give it back, and the cycle's mean squared
error is at least the noise's variance. A cycle that does better reads the noise off fake B, where
it stands openly (it was passed on) or hidden at low amplitude: Chu 2017 showed that a low cycle
loss rewards this. What is hidden breaks under a little noise, which honest structure survives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cyclegan.metrics.spectrum import low_pass_correlation, radial_power, spectrum_distance_db
from cyclegan.score.degrade import SEED_STREAM
from cyclegan.score.running import Generator, run
from cyclegan.score.texture import SPECTRUM_FLOOR

PERTURBATION = 0.1
"""Standard deviation, relative to fake B's, of the white noise that breaks what is hidden."""


class Reverse:
    """Judges G_B on the same patches as G_A.

    `inputs_A` (N, C, Z, Y, X), `inputs_B` (M, C', sZ, sY, sX); `noise_std` of A's noise in A's
    units, from the degradation model.
    """

    def __init__(self, inputs_A: Tensor, inputs_B: Tensor, noise_std: float, seed: int) -> None:
        self._inputs_B, self.noise_std = inputs_B, noise_std
        self._real_A, self._real_B = inputs_A[:, :1], inputs_B[:, :1]
        self._power_A = radial_power(self._real_A)[1].mean(dim=0)
        generator = torch.Generator().manual_seed(SEED_STREAM + seed)
        shape = (len(inputs_A), *inputs_B.shape[1:])
        noise = torch.randn(shape, generator=generator) * PERTURBATION
        self._noise = noise.to(inputs_B)

    def parts(self, fake_A: Tensor, outputs: Tensor, G_B: Generator) -> dict[str, float]:
        """Of `fake_A` = G_B(inputs_B) and of the cycle over `outputs` = G_A(inputs_A)."""
        power = radial_power(fake_A)[1].mean(dim=0)
        floor = SPECTRUM_FLOOR * float(self._real_A.var())
        closed = self._cycle_mse(outputs, G_B)
        shaken = self._cycle_mse(outputs + self._noise * outputs.std(), G_B)
        tiny = 1e-6 * float(self._real_A.var())
        honest = max(self.noise_std**2, tiny)
        return {
            "lowpass_correlation_B": float(low_pass_correlation(fake_A, self._real_B)),
            "spectrum_distance_A_db": spectrum_distance_db(power, self._power_A, floor),
            "noise_in_cycle_db": max(0.0, 10 * math.log10(honest / max(closed, tiny))),
            "cycle_fragility_db": 10 * math.log10((shaken + tiny) / (closed + tiny)),
        }

    def _cycle_mse(self, outputs: Tensor, G_B: Generator) -> float:
        closed = (
            run(G_B, outputs)[:, :1].nan_to_num(nan=0.0, posinf=1e4, neginf=-1e4).clamp(-1e4, 1e4)
        )
        return float((closed - self._real_A).square().mean())
