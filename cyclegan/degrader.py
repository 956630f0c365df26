"""Pseudo pairs for training: batches of real B, degraded to look like A, whose truth is known.

```
P_A   G_A(degraded real B)         against  real B
P_B   G_B(real B)                  against  real B with A's gain and blur, without A's noise
H_A   G_A(half 1), blurred like A  against  half 2, where half scans of A exist
```
The degradation (`cyclegan.score.degrade`) is fitted once, when a training begins, to many unpaired
patches of both training sets. Its noise is either drawn from the fitted spectrum (`gaussian`), or
it is what a generator removes from real A (`residual`), including the streaks and rings that no
spectrum describes; while the generator learns, the trainer measures which of the two makes degraded
B look more like A. P_A is supervised restoration on such pairs. H_A follows Noise2Inverse
(Hendriksen 2020): the noise of one half scan can't be predicted from the other, so the noise-free
volume has the smallest mean squared error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cyclegan.errors import DataError
from cyclegan.ranks import WHOLE, Part
from cyclegan.score.degrade import Degradation, fit_degradation
from cyclegan.score.parts import MIN_ADVANTAGE_DB, Texture

if TYPE_CHECKING:
    from cyclegan.config import Config
    from cyclegan.data.training_data import TrainingData

logger = logging.getLogger(__name__)

FIT_PATCHES = 64
"""Patches of each domain to which the degradation is fitted, if memory allows."""
FIT_VOXELS = 1 << 27
"""Limit on the voxels of these patches in the finer domain; `FEWEST_PATCHES` are always drawn."""
FEWEST_PATCHES = 8
SPREAD_PARTS = 4
"""Number of disjoint parts of the patches, fitted separately to estimate the fit's uncertainty."""
MIN_GAIN = 0.05
"""Contrast of B's structures in A, in units of A's spread, below which A shows none of them."""
LARGE_SPREAD = 0.25
"""Spread of the gain, relative to the gain, above which the user is warned."""
FAR_DB, FAR_CUBES = 2.0, 0.1
"""Distances between degraded B and real A, in spectrum (dB) and in 5^3 cubes (in units of A's
spread), in excess of those between two sets of real A. Above them the user is warned that the model
does not match."""


def fit_count(imsize_B: Sequence[int]) -> int:
    """Return the number of patches of each domain to which the degradation is fitted."""
    return max(FEWEST_PATCHES, min(FIT_PATCHES, FIT_VOXELS // math.prod(imsize_B)))


@dataclass(frozen=True)
class FitReport:
    """Uncertainty of a fitted degradation and its match with A, for the first channel.

    `gain`, `sigma` (voxels of A) and `noise_std` come with their standard deviations over disjoint
    parts of the patches; `spectrum_db` and `cubes` are distances between degraded B and real A.
    """

    gain: float
    gain_spread: float
    sigma: float
    sigma_spread: float
    noise_std: float
    noise_spread: float
    spectrum_db: float
    cubes: float

    def __str__(self) -> str:
        """Return one line for the log."""
        return (
            f"degradation B -> A: gain {self.gain:.2f} (+-{self.gain_spread:.2f}), blur "
            f"{self.sigma:.2f} (+-{self.sigma_spread:.2f}) voxels of A, noise {self.noise_std:.2f} "
            f"(+-{self.noise_spread:.2f}); degraded B differs from real A by "
            f"{self.spectrum_db:.2f} dB in its spectrum and {self.cubes:.3f} in its texture"
        )

    def doubts(self) -> str:
        """Return the reasons why the pseudo pairs may mislead; empty if there are none."""
        found = []
        if self.gain_spread > LARGE_SPREAD * self.gain:
            found.append(
                f"parts of the data give gains that differ by {self.gain_spread:.2f} around "
                f"{self.gain:.2f}"
            )
        if self.spectrum_db > FAR_DB:
            found.append(f"its spectrum is {self.spectrum_db:.1f} dB off real A's")
        if self.cubes > FAR_CUBES:
            found.append(f"its texture is {self.cubes:.2f} off real A's")
        return ", ".join(found)


class Degrader:
    """Degrade batches of real B with fitted models, channel by channel.

    Args:
        models: one for each channel of A; each takes B's channel of the same number, or its last.
        report: how well the first one fits; None if nothing was fitted.
        patches: the patches of A and B used in the fit, on which `prefers_residual` decides.
    """

    def __init__(
        self,
        models: Sequence[Degradation],
        report: FitReport | None = None,
        patches: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.report = report
        self._patches = patches

    @classmethod
    def fit(cls, patches_A: Tensor, patches_B: Tensor, factor: int) -> Degrader:
        """Fit one model per channel to patches (N, C, Z, Y, X) and (M, C', sZ, sY, sX).

        Errors: `DataError` if the patches' shapes don't match or A shows none of B's structure.
        """
        models = [
            _fitted(patches_A[:, c : c + 1], _channel(patches_B, c), factor)
            for c in range(patches_A.shape[1])
        ]
        report = _report(models[0], patches_A[:, :1], patches_B[:, :1])
        return cls(models, report, (patches_A, patches_B))

    @classmethod
    def stand_in(cls, channels: int, factor: int, shape: tuple[int, int, int]) -> Degrader:
        """Return a degrader with white noise, for measuring speed without data."""
        white = torch.ones(1, 1, dtype=torch.float64)
        return cls([Degradation(1.0, 0.5, factor, shape, white.expand_as(_bins(shape)))] * channels)

    def signal(self, real_B: Tensor) -> Tensor:
        """Return `real_B` (B, C', sZ, sY, sX) with A's gain, blur and grid, without noise."""
        parts = [model.signal(_channel(real_B, c)) for c, model in enumerate(self.models)]
        return torch.cat(parts, dim=1)

    def __call__(self, real_B: Tensor, seed: int, part: Part = WHOLE) -> Tensor:
        """Return `real_B` as a fast scan would show it, with noise from `seed`: (B, C, Z, Y, X).

        If `real_B` is only a part of the batch, it gets the noise that it has in the whole batch.
        """
        count = part.size * len(real_B)
        noise = [
            part.of(model.noise(count, seed + c, real_B.device))
            for c, model in enumerate(self.models)
        ]
        return self.signal(real_B) + torch.cat(noise, dim=1)

    def residual(self, real_A: Tensor, fake_B: Tensor) -> Tensor:
        """Return what enhancement removed from `real_A`, minus its mean: an estimate of A's noise.

        `fake_B` is the enhanced `real_A` (B, C, Z, Y, X). The result (B, C, Z, Y, X) is mirrored
        along X, so that it lies over other structures than those it comes from.
        """
        removed = (real_A - self.signal(fake_B.float())).flip(-1)
        return removed - removed.mean(dim=(2, 3, 4), keepdim=True)

    def prefers_residual(self, enhance: Callable[[Tensor], Tensor]) -> bool:
        """Return True if residuals make degraded B look more like A than fitted noise does.

        `enhance` maps patches of A to images of B; it is called on one patch at a time.
        """
        if self._patches is None:
            return False
        real_A, real_B = self._patches
        residuals = torch.cat([self.residual(a[None], enhance(a[None])) for a in real_A])
        if not bool(residuals.isfinite().all()):
            return False
        signal = self.signal(real_B)[:, :1]
        count = min(len(signal), len(residuals))
        texture = Texture(real_A[:, :1], seed=0)
        fitted = texture.distance(signal + self.models[0].noise(len(signal), 0, signal.device))
        found = texture.distance(signal[:count] + residuals[:count, :1])
        return found < fitted - MIN_ADVANTAGE_DB

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the models as plain values and tensors."""
        return [
            {
                "gain": model.gain,
                "sigma": model.sigma,
                "factor": model.factor,
                "shape": list(model.shape),
                "noise_power": model.noise_power,
            }
            for model in self.models
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore the models of a checkpoint: a resumed training degrades as before."""
        self.models = tuple(
            Degradation(
                gain=float(model["gain"]),
                sigma=float(model["sigma"]),
                factor=int(model["factor"]),
                shape=(model["shape"][0], model["shape"][1], model["shape"][2]),
                noise_power=model["noise_power"],
            )
            for model in state
        )


def degrader_of(config: Config, data: TrainingData, device: torch.device) -> Degrader | None:
    """Return the degrader fitted to a training's data, with a warning if it is doubtful.

    Return None if no loss needs it.
    """
    if not config.needs_degradation():
        return None
    patches_A, patches_B = (patches.to(device) for patches in data.fit_patches(config))
    degrader = Degrader.fit(patches_A, patches_B, config.super_resolution)
    logger.info("%s", degrader.report)
    if degrader.report is not None and degrader.report.doubts():
        logger.warning(
            "degraded B does not look like A: %s; what P_A teaches may not hold for real A",
            degrader.report.doubts(),
        )
    return degrader


def _channel(patches: Tensor, number: int) -> Tensor:
    """Return the channel of this number, or the last one if there are fewer: (N, 1, Z, Y, X)."""
    number = min(number, patches.shape[1] - 1)
    return patches[:, number : number + 1]


def _bins(shape: tuple[int, int, int]) -> Tensor:
    from cyclegan.metrics.spectrum import cylindrical_share

    return torch.from_numpy(cylindrical_share(shape))


def _fitted(patches_A: Tensor, patches_B: Tensor, factor: int) -> Degradation:
    model = fit_degradation(patches_A, patches_B, factor)
    if model.gain < MIN_GAIN:
        raise DataError(
            f"lambdas.P_A: no structure of domain B was found in domain A (gain {model.gain:.3f}), "
            "so B can't be degraded to look like A; check data_A and data_B, or set lambdas.P_A, "
            "lambdas.P_B and lambdas.H_A to 0"
        )
    return model


def _report(model: Degradation, patches_A: Tensor, patches_B: Tensor) -> FitReport:
    count = min(len(patches_A), len(patches_B))
    parts = []
    if count >= 2 * SPREAD_PARTS:
        parts = [
            fit_degradation(patches_A[i::SPREAD_PARTS], patches_B[i::SPREAD_PARTS], model.factor)
            for i in range(SPREAD_PARTS)
        ]
    distance = Texture(patches_A, seed=0).parts(model.apply(patches_B, seed=0))
    return FitReport(
        gain=model.gain,
        gain_spread=_spread([part.gain for part in parts]),
        sigma=model.sigma,
        sigma_spread=_spread([part.sigma for part in parts]),
        noise_std=model.noise_std,
        noise_spread=_spread([part.noise_std for part in parts]),
        spectrum_db=distance["spectrum_distance_db"],
        cubes=distance["sliced_wasserstein"],
    )


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 for fewer than two values."""
    return float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else 0.0
