"""Noise for the score's pseudo pairs: fitted, or what total variation removes from real A."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclegan.score.degrade import Degradation, fit_degradation
from cyclegan.score.parts import MIN_ADVANTAGE_DB, PseudoPairs, Texture
from cyclegan.score.residual_noise import residual_noise
from cyclegan.simulate import SLOW, ScanSettings, fibre_composite, scan

SIZE = 24
FEW_ANGLES = ScanSettings(angles=16, photons=20_000)
FEW_PHOTONS = ScanSettings(angles=180, photons=200)


def patches(volume: np.ndarray) -> Tensor:
    """A slab cut into 16 patches, (16, 1, 24, 24, 24), standardised."""
    whole = torch.from_numpy((volume - volume.mean()) / volume.std()).float()
    blocks = whole.unfold(1, SIZE, SIZE).unfold(2, SIZE, SIZE)
    return blocks.permute(1, 2, 0, 3, 4).reshape(-1, 1, SIZE, SIZE, SIZE)


@functools.cache
def fitted(settings: ScanSettings) -> tuple[Tensor, Tensor, Degradation]:
    """A fast scan of one fibre composite, a slow scan of another, and the degradation."""
    seeds = np.random.SeedSequence(1).spawn(4)
    one, other = (fibre_composite((SIZE, 112, 112), s, fibre_diameter=11) for s in seeds[:2])
    real_B, real_A = patches(scan(other, SLOW, seeds[2])), patches(scan(one, settings, seeds[3]))
    return real_A, real_B, fit_degradation(real_A, real_B)


def test_noise_that_the_fit_describes_is_drawn_from_the_fit() -> None:
    assert residual_noise(*fitted(FEW_PHOTONS), seed=0) is None


def test_streaks_are_taken_from_the_scan(caplog: pytest.LogCaptureFixture) -> None:
    real_A, real_B, model = fitted(FEW_ANGLES)
    with caplog.at_level(logging.INFO):
        noise = residual_noise(real_A, real_B, model, seed=0)
    assert noise is not None
    assert "the noise that total variation removes from A" in caplog.text
    assert noise.shape == real_A.shape
    assert float(noise.std()) == pytest.approx(model.noise_std, rel=0.05)
    assert float(noise.mean(dim=(1, 2, 3, 4)).abs().max()) < 1e-5
    again = residual_noise(real_A, real_B, model, seed=0)
    assert again is not None
    assert torch.equal(noise, again)
    texture, signal = Texture(real_A, seed=0), model.signal(real_B)
    drawn = texture.distance(signal + model.noise(len(signal), 0))
    assert texture.distance(signal + noise) < drawn - MIN_ADVANTAGE_DB


def test_more_pairs_than_noise_take_it_in_turn() -> None:
    real_A, real_B, model = fitted(FEW_PHOTONS)
    noise = torch.randn((3, 1, SIZE, SIZE, SIZE), generator=torch.Generator().manual_seed(5))
    pairs = PseudoPairs(real_A, real_B[:8], 1, 0, model, noise)
    added = pairs.pseudo_A - model.signal(real_B[:8])
    torch.testing.assert_close(added, noise[[0, 1, 2, 0, 1, 2, 0, 1]], atol=1e-5, rtol=0)
