"""Noise of the score's pseudo pairs that no spectrum describes: the residual of a filter on real A.

A fitted degradation draws stationary noise. A scan with few angles also has streaks, and a network
that has learned the fitted noise looks better on pseudo pairs than it is on real A. The residual of
total-variation denoising on real A has these streaks. It also has some of A's structure, which
matters little because it lies over other structures in B. The residual replaces the fitted noise
only if it makes degraded B look clearly more like A. This does not depend on the networks, so all
trials of a study are judged on the same pairs.

Source of the filter: Rudin 1992, as implemented in `skimage.restoration.denoise_tv_chambolle`.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from cyclegan.score.degrade import Degradation
from cyclegan.score.parts import MIN_ADVANTAGE_DB, Texture

logger = logging.getLogger(__name__)

WEIGHTS = (0.1, 10.0)
"""Smallest and largest weight of the filter, in standard deviations of the noise."""
HALVINGS = 8
"""Number of halvings of that range on a logarithmic scale: the weight is wrong by 3 % at most."""
FEW = 8
"""Number of patches on which the weight is chosen."""


def residual_noise(
    patches_A: Tensor, patches_B: Tensor, model: Degradation, seed: int
) -> Tensor | None:
    """Return what total variation removes from A, or None if the noise of `model` is as good.

    `patches_A` (N, 1, Z, Y, X) and `patches_B` (M, 1, sZ, sY, sX) are held out, `model` is fitted
    to them. The filter's weight is the one that removes noise of the fitted standard deviation. The
    result is (N, 1, Z, Y, X), each patch with mean 0 and mirrored along X.
    """
    texture = Texture(patches_A, seed)
    signal = model.signal(patches_B)
    fitted = texture.distance(signal + model.noise(len(signal), seed, signal.device))
    if fitted < MIN_ADVANTAGE_DB:
        return None
    noise = _removed(patches_A, _weight(patches_A[:FEW], model.noise_std))
    count = min(len(noise), len(signal))
    found = texture.distance(signal[:count] + noise[:count])
    if found > fitted - MIN_ADVANTAGE_DB:
        return None
    logger.info(
        "the score's pseudo pairs take the noise that total variation removes from A: with it,"
        " degraded B is %.2f dB off real A; with fitted noise, %.2f dB",
        found,
        fitted,
    )
    return noise


def _weight(patches: Tensor, noise_std: float) -> float:
    """Return the weight at which the filter removes as much as the fitted noise."""
    low, high = (np.log(weight * noise_std + 1e-6) for weight in WEIGHTS)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        weak = float(_removed(patches, float(np.exp(middle))).std()) < noise_std
        low, high = (middle, high) if weak else (low, middle)
    return float(np.exp((low + high) / 2))


def _removed(patches: Tensor, weight: float) -> Tensor:
    from skimage.restoration import denoise_tv_chambolle

    images = patches[:, 0].cpu().numpy()
    smooth = np.stack(
        [denoise_tv_chambolle(image, weight) for image in images]  # type: ignore[no-untyped-call]
    )
    removed = torch.from_numpy(images - smooth)[:, None].to(patches).flip(-1)
    return removed - removed.mean(dim=(2, 3, 4), keepdim=True)
