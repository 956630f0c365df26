"""Pseudo pairs: real B made to look like A, where what the generator should give back is known.

The gain in decibels is over the best Gaussian filter, so that 0 means: no better than what needs no
training at all. Voxels near the faces don't count: filters and networks see the padding there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cyclegan.score.degrade import (
    Degradation,
    best_gaussian_mse,
    crop,
    fit_degradation,
    fitted_mse,
    to_fine,
)

MSE_FLOOR = 1e-4
"""Mean squared error, relative to the truth's variance, taken as no error at all."""
GAIN_TOLERANCE = 1.25
"""Factor by which a network's contrast on pseudo pairs may be off before it costs gain."""
RIM = 2
"""Voxels of A left out at every face of a patch."""


class PseudoPairs:
    """Degraded patches of B and what restoring them is worth.

    Args:
        inputs_A, inputs_B: (N, C, Z, Y, X) and (M, C', sZ, sY, sX), standardised by domain. Of
            several channels the first of each domain is judged; the others are made one by one.
        factor: s, the ratio of the resolutions.
        seed: of the noise.
        degradation: of the first channel; fitted to the patches if not given.
        noise: (K, 1, Z, Y, X), what the first channel gets in place of the degradation's noise.

    `inputs` (M, C, Z, Y, X) is what G_A gets, `truth` (M, 1, sZ, sY, sX) what it should give.
    """

    def __init__(
        self,
        inputs_A: Tensor,
        inputs_B: Tensor,
        factor: int,
        seed: int,
        degradation: Degradation | None = None,
        noise: Tensor | None = None,
    ) -> None:
        self.truth = inputs_B[:, :1]
        self.rim = RIM * factor
        self.degradation = degradation or fit_degradation(inputs_A[:, :1], self.truth, factor)
        if noise is None:
            self.pseudo_A = self.degradation.apply(self.truth, seed)
        else:
            turns = torch.arange(len(self.truth), device=noise.device) % len(noise)
            self.pseudo_A = self.degradation.signal(self.truth) + noise[turns]
        self.inputs = self._all_channels(inputs_A, inputs_B, seed)
        self.variance = float(self.truth.var())
        self.baseline_mse, self.baseline_sigma = best_gaussian_mse(
            to_fine(self.pseudo_A, factor), self.truth, self.rim, factor
        )

    def _all_channels(self, inputs_A: Tensor, inputs_B: Tensor, seed: int) -> Tensor:
        """Pseudo A with all channels of A, each from B's channel of the same number or its last."""
        channels = [self.pseudo_A]
        for a in range(1, inputs_A.shape[1]):
            b = min(a, inputs_B.shape[1] - 1)
            source = inputs_B[:, b : b + 1]
            model = fit_degradation(inputs_A[:, a : a + 1], source, self.degradation.factor)
            channels.append(model.apply(source, seed + a))
        return torch.cat(channels, dim=1)

    def parts(self, restored: Tensor) -> dict[str, float]:
        """The gain over the Gaussian, and what tells its faults apart: slope, and gain when fitted.

        The Gaussian knows nothing of B's units, so it gets its best sigma and a free affine fit to
        the truth. The network was trained to speak B's units and gets no offset and a slope only
        within `GAIN_TOLERANCE`, because the degradation's own gain is not known better than that.
        """
        truth, image = crop(self.truth, self.rim), crop(restored, self.rim)
        slope, mse = tolerant_mse(image, truth)
        floor = MSE_FLOOR * self.variance
        return {
            "pseudo_pair_gain_db": ratio_db(self.baseline_mse, mse, floor),
            "pseudo_pair_fitted_gain_db": ratio_db(
                self.baseline_mse, fitted_mse(image, truth), floor
            ),
            "pseudo_pair_slope": slope,
        }


def tolerant_mse(image: Tensor, truth: Tensor) -> tuple[float, float]:
    """The best slope of `image` to `truth`, and the error with as much of it as is allowed."""
    slope = float((image * truth).mean() / image.square().mean().clamp_min(1e-30))
    allowed = min(max(slope, 1 / GAIN_TOLERANCE), GAIN_TOLERANCE)
    return slope, float((allowed * image - truth).square().mean())


def ratio_db(baseline_mse: float, mse: float, floor: float) -> float:
    """How much smaller `mse` is than that of the baseline, in dB; errors below `floor` are one."""
    return 10 * math.log10((baseline_mse + floor) / (mse + floor))
