"""Parts of the score beyond gain and spectrum: shells, half scans, the cycle's hidden noise."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import gaussian_low_pass
from cyclegan.score import Score
from cyclegan.score.degrade import fit_degradation, to_coarse, to_fine
from cyclegan.score.parts import CrossHalves, Reverse, Shells

SIZE = 24
COUNT = 8
NOISE = 0.8


def white(seed: int, count: int = COUNT, size: int = SIZE) -> Tensor:
    return torch.randn((count, 1, size, size, size), generator=torch.Generator().manual_seed(seed))


def structure(seed: int, size: int = SIZE) -> Tensor:
    """Blobs with walls, standard deviation 1."""
    smooth = gaussian_low_pass(white(seed, size=size), 1.5 * size / SIZE)
    walls = torch.tanh(2 * smooth / smooth.std())
    return walls / walls.std()


def scanned(clean: Tensor, seed: int, noise: float = NOISE) -> Tensor:
    """Add white noise and rescale to a standard deviation of 1."""
    return (clean + noise * white(seed, len(clean), clean.shape[-1])) / (1 + noise**2) ** 0.5


GAIN = 1 / (1 + NOISE**2) ** 0.5
"""Share of structure in the result of `scanned`."""


@functools.cache
def shells(factor: int = 1) -> tuple[Shells, Tensor, Tensor]:
    """Shells of unpaired domains, real A and pseudo A."""
    truth = structure(1, SIZE * factor)
    real_A, pseudo_A = (
        scanned(to_coarse(structure(seed, SIZE * factor), factor), seed + 1) for seed in (10, 20)
    )
    pseudo_A = scanned(to_coarse(truth, factor), 3)
    return Shells(real_A, pseudo_A, truth, factor, 0), real_A, pseudo_A


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_filter_gains_nothing_on_the_shells_at_any_resolution(factor: int) -> None:
    judge, real_A, pseudo_A = shells(factor)
    images = [2 * gaussian_low_pass(to_fine(a, factor), 0.7) for a in (real_A, pseudo_A)]
    parts = judge.parts(*images)
    assert parts["shell_gain"] == pytest.approx(0.0, abs=0.03)


def test_shells_reward_what_no_filter_knows_and_punish_invention_and_loss() -> None:
    judge, real_A, pseudo_A = shells()
    filtered = judge.parts(real_A, pseudo_A)["shell_gain"]
    nearly_true = judge.truth + 0.3 * white(70)
    assert judge.parts(real_A, nearly_true)["shell_gain"] > filtered + 0.1
    invented = pseudo_A + structure(71)
    assert judge.parts(real_A, invented)["shell_gain"] < filtered - 0.03
    lost = pseudo_A.roll(1, dims=0)
    assert judge.parts(real_A, lost)["shell_gain"] < filtered - 0.2


def test_the_gap_is_about_nothing_for_what_treats_both_domains_alike_and_large_else() -> None:
    judge, real_A, pseudo_A = shells()
    alike = judge.parts(gaussian_low_pass(real_A, 1.0), gaussian_low_pass(pseudo_A, 1.0))
    assert alike["shell_gap"] < 0.02
    other = judge.parts(real_A, pseudo_A + 0.5 * white(72))
    assert other["shell_gap"] > alike["shell_gap"] + 0.1


@functools.cache
def halves() -> tuple[CrossHalves, Tensor]:
    """The judge of half scans, and the structure that both halves show."""
    clean = structure(30)
    return CrossHalves(scanned(clean, 31), scanned(clean, 32), structure(33), 1), clean


def gain(image: Tensor) -> float:
    """Return the cross-half gain of an output (N, 1, ...) made from both halves in the same way."""
    return halves()[0].parts(lambda _: torch.cat([image, image]))["cross_half_gain_db"]


def test_halves_know_the_noise_and_the_error_without_a_truth() -> None:
    judge, clean = halves()
    assert judge.noise == pytest.approx((NOISE * GAIN) ** 2, rel=0.03)
    # The estimated error of the Gaussian filter, against the truth that the judge never sees.
    filtered = gaussian_low_pass(judge.inputs, judge.baseline_sigma)
    target = GAIN * torch.cat([clean, clean])
    slope = (filtered * target).mean() / filtered.square().mean()
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    error = float((slope * filtered - target)[inner].square().mean())
    assert judge.baseline_mse == pytest.approx(error, rel=0.15)


def test_halves_rank_the_truth_before_a_filter_before_noise_and_invention() -> None:
    judge, clean = halves()
    noisy = judge.parts(lambda inputs: inputs / GAIN)["cross_half_gain_db"]
    filtered = judge.parts(lambda x: gaussian_low_pass(x, judge.baseline_sigma) / GAIN)
    assert gain(clean) > filtered["cross_half_gain_db"] + 3
    assert filtered["cross_half_gain_db"] == pytest.approx(0.0, abs=0.7)
    assert noisy < filtered["cross_half_gain_db"] - 3
    assert gain(clean + structure(77)) < gain(clean) - 5
    assert gain(-clean) < gain(clean) - 5


def test_halves_that_differ_in_shape_are_refused() -> None:
    with pytest.raises(DataError, match="halves of one scan"):
        CrossHalves(white(1), white(2)[1:], white(3), 1)


STEP, DEPTH = 0.2, 0.01
"""Grey levels of an output that hides the rest between them, and how faint that is."""


def hiding(x: Tensor) -> Tensor:
    """A generator whose output looks filtered, but hides its input in the last decimals."""
    levels = STEP * torch.round(gaussian_low_pass(x, 1.0) / STEP)
    return levels + DEPTH * (x - levels)


def finding(x: Tensor) -> Tensor:
    """The generator that recovers what `hiding` has hidden."""
    levels = STEP * torch.round(x / STEP)
    return levels + (x - levels) / DEPTH


def test_noise_in_the_cycle_and_its_fragility_tell_hidden_from_open_and_from_none() -> None:
    truth, real_A = structure(40), scanned(structure(41), 42)
    judge = Reverse(real_A, truth, fit_degradation(real_A, truth).noise_std, 0)
    fake_A = scanned(truth, 43)
    hidden = judge.parts(fake_A, hiding(real_A), finding)
    passed_on = judge.parts(fake_A, real_A, lambda x: x)
    honest = judge.parts(fake_A, gaussian_low_pass(real_A, 1.0), lambda x: x)
    assert float((hiding(real_A) - gaussian_low_pass(real_A, 1.0)).abs().max()) < 0.15
    assert hidden["noise_in_cycle_db"] > 10
    assert passed_on["noise_in_cycle_db"] > 10
    assert honest["noise_in_cycle_db"] < 1.5
    assert hidden["cycle_fragility_db"] > 20
    assert honest["cycle_fragility_db"] < 1


def test_the_score_uses_halves_where_they_are_given_and_keeps_its_value() -> None:
    real_A, real_B, clean = scanned(structure(50), 51), structure(52), structure(53)
    pair = scanned(clean, 54), scanned(clean, 55)
    without, with_halves = Score(real_A, real_B), Score(real_A, real_B, halves=pair)

    def enhance(x: Tensor) -> Tensor:
        return gaussian_low_pass(x, 1.0) / GAIN

    first, second = without(enhance), with_halves(enhance)
    assert first.value == second.value
    assert set(second.parts) - set(first.parts) == {"cross_half_gain_db"}
    assert second == with_halves(enhance)
