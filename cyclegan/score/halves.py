"""Cross-half gain: the one part of the score that knows real A's own truth, where halves exist.

Two half scans (every other projection) show the same structure under independent noise. The
generator enhances one; made as blurred as A again it is compared with the *other*, whose noise it
can't know. What the noise adds to that error is the same for every image and known from the
difference of the halves, so it is taken off: what remains estimates the error against the
noise-free A. Noise and rings that the fitted degradation lacks count here.

Source: Marcos-Morales 2023 (unsupervised mean squared error, uMSE and uPSNR, from noisy copies).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cyclegan.errors import DataError
from cyclegan.score.degrade import best_gaussian_mse, crop, fit_degradation
from cyclegan.score.pairs import MSE_FLOOR, RIM, ratio_db, tolerant_mse


class CrossHalves:
    """Judges generators on two halves (N, C, Z, Y, X) of the same patches of A.

    `patches_B` (M, C', sZ, sY, sX) tells how B is blurred into a half. The halves are noisier than
    the scan that a network was trained on. Errors: `DataError` for halves that differ in shape.
    """

    def __init__(self, first: Tensor, second: Tensor, patches_B: Tensor, factor: int) -> None:
        if first.shape != second.shape:
            raise DataError(
                f"the halves' patches have shapes {tuple(first.shape)} and {tuple(second.shape)};"
                " give halves of one scan"
            )
        self.inputs = torch.cat([first, second])
        self._targets = crop(torch.cat([second, first])[:, :1], RIM)
        images = self.inputs[:, :1]
        self._degradation = fit_degradation(images, patches_B[:, :1], factor)
        self.noise = float((crop(images, RIM) - self._targets).square().mean()) / 2
        self._floor = MSE_FLOOR * float(self._targets.var())
        baseline, self.baseline_sigma = best_gaussian_mse(
            images, torch.cat([second, first])[:, :1], RIM
        )
        self.baseline_mse = max(baseline - self.noise, 0.0)

    def parts(self, enhance: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The gain over the best Gaussian; `enhance` maps `inputs` to (2N, 1, sZ, sY, sX)."""
        image = crop(self._degradation.signal(enhance(self.inputs)), RIM)
        _, mse = tolerant_mse(image, self._targets)
        error = max(mse - self.noise, 0.0)
        return {"cross_half_gain_db": ratio_db(self.baseline_mse, error, self._floor)}
