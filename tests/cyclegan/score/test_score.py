import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cyclegan.errors import DataError, UsageError
from cyclegan.metrics.spectrum import cylindrical_index, cylindrical_power, gaussian_low_pass
from cyclegan.score import GATED, Score, collapsed, inverted, non_finite
from cyclegan.score.degrade import Degradation, to_coarse, to_fine

SIZES = {1: 24, 2: 20, 4: 16}
"""Voxels of A's patches along each axis, by resolution: 40 and 64 of B's."""
COUNT = 8
GAIN = 0.75
BLUR = 0.5


def white(count: int, size: int, seed: int) -> Tensor:
    return torch.randn((count, 1, size, size, size), generator=torch.Generator().manual_seed(seed))


def field(factor: int, seed: int) -> Tensor:
    """A smooth random field, standard deviation 1."""
    smooth = gaussian_low_pass(white(COUNT, SIZES[factor] * factor, seed), 1.5 * factor)
    return smooth / smooth.std()


def scanner(factor: int) -> Degradation:
    """The true degradation: ramp noise within a slice, white between slices."""
    size = SIZES[factor]
    shape = (size, size, size)
    _, (n_z, n_r) = cylindrical_index(shape)
    k_r = np.minimum(np.arange(n_r) / size, 0.5)
    power = np.broadcast_to(0.05 + 6 * k_r * np.cos(np.pi * k_r) ** 2, (n_z, n_r)).copy()
    return Degradation(GAIN, BLUR, factor, shape, torch.from_numpy(power))


class Domains:
    """Unpaired, standardised patches of both domains, and generators A -> B made with the truth."""

    def __init__(self, factor: int, seed: int = 0) -> None:
        self.factor = factor
        real_B = field(factor, seed) + 0.1 * white(COUNT, SIZES[factor] * factor, seed + 1)
        scanned = scanner(factor).apply(field(factor, seed + 2), seed=seed + 3)
        self.std_A, self.std_B = float(scanned.std()), float(real_B.std())
        self.real_A, self.real_B = scanned / self.std_A, real_B / self.std_B
        self.score = Score(self.real_A, self.real_B, super_resolution=factor, seed=seed)
        self._wiener = self._wiener_gain()

    def _wiener_gain(self) -> Tensor:
        """Return the best linear filter, from the true spectra of field, blur and noise."""
        scan = scanner(self.factor)
        k_z, k_r, power = cylindrical_power(to_coarse(field(self.factor, 777), self.factor))
        transfer = GAIN * torch.exp(
            -2 * (math.pi * BLUR) ** 2 * (k_z[:, None] ** 2 + k_r[None, :] ** 2)
        )
        signal = power.mean(dim=0)
        gain = transfer * signal / (transfer**2 * signal + scan.noise_power)
        index, _ = cylindrical_index(scan.shape)
        return gain.reshape(-1)[torch.from_numpy(index)].float()

    def wiener(self, x: Tensor) -> Tensor:
        axes = (2, 3, 4)
        spectrum = torch.fft.rfftn(x * self.std_A, dim=axes) * self._wiener
        return to_fine(torch.fft.irfftn(spectrum, x.shape[2:], dim=axes), self.factor) / self.std_B

    def identity(self, x: Tensor) -> Tensor:
        return to_fine(x, self.factor)

    def blur(self, x: Tensor) -> Tensor:
        scale = self.std_A / GAIN / self.std_B
        return scale * gaussian_low_pass(self.identity(x), 3.0 * self.factor)

    def hallucination(self, x: Tensor) -> Tensor:
        """A good estimate with the detail of other patches of B on top."""
        other = self.real_B.roll(3, dims=0)[: len(x)]
        return self.wiener(x) + other - gaussian_low_pass(other, 1.5 * self.factor)


@functools.cache
def domains(factor: int = 1) -> Domains:
    return Domains(factor)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_best_estimate_beats_noise_blur_and_invention_at_every_resolution(factor: int) -> None:
    world = domains(factor)
    generators = {
        name: getattr(world, name) for name in ("wiener", "identity", "blur", "hallucination")
    }
    reports = {name: world.score(generator) for name, generator in generators.items()}
    best = reports.pop("wiener")
    assert best.gate is None
    # At 4x the patches have 16 voxels, and the filter loses a little by wrap-around.
    assert best.parts["pseudo_pair_gain_db"] > (-0.8 if factor == 4 else 0.0)
    for name, report in reports.items():
        assert report.gate is None, name
        assert report.value < best.value - 0.5, name
        assert report.parts["pseudo_pair_gain_db"] < best.parts["pseudo_pair_gain_db"] - 1, name


def test_the_two_parts_catch_different_faults() -> None:
    world = domains()
    best, blurred, invented = (
        world.score(generator).parts
        for generator in (world.wiener, world.blur, world.hallucination)
    )
    assert blurred["spectrum_distance_db"] > best["spectrum_distance_db"] + 2
    assert invented["spectrum_distance_db"] < best["spectrum_distance_db"] - 1


def test_a_checkerboard_hides_from_the_radial_spectrum_and_not_from_the_cubes() -> None:
    world = domains()
    n = torch.arange(SIZES[1])
    board = 1.0 - 2.0 * ((n[:, None, None] + n[:, None] + n) % 2)
    good = world.score(world.wiener)
    bad = world.score(lambda x: world.wiener(x) + 0.4 * board)
    difference = {name: bad.parts[name] - good.parts[name] for name in good.parts}
    assert abs(difference["spectrum_distance_db"]) < 0.05
    assert difference["sliced_wasserstein"] > 0.1
    assert difference["checkerboard"] == pytest.approx(0.4 / float(world.real_B.std()), rel=0.02)
    assert bad.value < good.value - 1


def test_the_value_is_the_gain_less_weighted_distances_and_checkerboard_plus_shell_gain() -> None:
    n = torch.arange(SIZES[1])
    report = domains().score(lambda x: domains().hallucination(x) + 0.05 * (1.0 - 2.0 * (n % 2)))
    parts = report.parts
    assert min(parts["spectrum_distance_db"], parts["sliced_wasserstein"]) > 0
    assert parts["shell_gain"] < -0.02
    assert parts["checkerboard"] > 0.03
    texture = 0.25 * parts["spectrum_distance_db"] + 5 * parts["sliced_wasserstein"]
    expected = parts["pseudo_pair_gain_db"] - texture + 20 * parts["shell_gain"]
    expected -= 40 * parts["checkerboard"]
    assert report.value == pytest.approx(expected, abs=1e-12)


def test_a_gaussian_filter_with_the_right_units_gains_nothing_over_the_gaussian() -> None:
    world = domains()
    sigma = world.score.pairs.baseline_sigma
    filtered = gaussian_low_pass(world.score.pairs.pseudo_A, sigma)
    slope = float((filtered * world.real_B).sum() / filtered.square().sum())
    parts = world.score(lambda x: slope * gaussian_low_pass(x, sigma)).parts
    assert parts["pseudo_pair_gain_db"] == pytest.approx(0.0, abs=0.05)
    assert parts["pseudo_pair_fitted_gain_db"] == pytest.approx(0.0, abs=1e-6)
    assert parts["pseudo_pair_slope"] == pytest.approx(1.0, abs=0.05)


def test_a_wrong_contrast_costs_gain_and_an_offset_does_too() -> None:
    world = domains()
    right = world.score(world.wiener).parts
    faint = world.score(lambda x: 0.4 * world.wiener(x)).parts
    bright = world.score(lambda x: world.wiener(x) + 0.7).parts
    for wrong in (faint, bright):
        assert wrong["pseudo_pair_gain_db"] < right["pseudo_pair_gain_db"] - 1
        assert wrong["pseudo_pair_fitted_gain_db"] == pytest.approx(
            right["pseudo_pair_fitted_gain_db"], abs=1e-4
        )
    assert faint["contrast"] == pytest.approx(0.4 * right["contrast"], rel=1e-4)


def test_the_spectrum_of_b_lies_no_distance_from_itself() -> None:
    world = domains()
    parts = world.score(lambda x: world.real_B[: len(x)] * 0.5 + 0.5 * world.real_B[: len(x)]).parts
    assert parts["spectrum_distance_db"] == 0.0
    assert world.score.texture.spectrum_null > 0


def test_other_patches_of_the_same_domain_lie_about_no_distance_away() -> None:
    world = domains()
    other = field(1, 500) + 0.1 * white(COUNT, SIZES[1], 501)
    batches = iter(torch.split(other / other.std(), 4))
    report = world.score(lambda x: next(batches))
    assert report.parts["spectrum_distance_db"] < 0.3


BROKEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "inverted": (lambda x: -domains().wiener(x), "inverted"),
    "constant": (lambda x: torch.full_like(x, 0.3), "flat"),
    "faint": (lambda x: 0.01 * x, "flat"),
    "nan": (lambda x: torch.where(x > 4, math.nan, x), "not finite"),
    "infinite": (lambda x: x / 0.0, "not finite"),
    "diverged": (lambda x: 1e30 * x, "diverged"),
    "same for all": (lambda x: domains().real_B[:1].repeat(len(x), 1, 1, 1, 1), "same output"),
    "unrelated": (lambda x: domains().real_B.roll(1, 0)[: len(x)], "lost"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_generator_is_gated_with_the_reason(name: str) -> None:
    generator, reason = BROKEN[name]
    report = domains().score(generator)
    assert report.value == GATED
    assert report.gate is not None
    assert reason in report.gate
    assert all(math.isfinite(value) for value in report.metrics().values())
    assert report.metrics()["score/gated"] == 1.0


@pytest.mark.parametrize("factor", [2, 4])
def test_the_inverted_generator_is_gated_at_super_resolution(factor: int) -> None:
    world = domains(factor)
    report = world.score(lambda x: -world.wiener(x))
    assert report.gate is not None
    assert "inverted" in report.gate


@pytest.mark.parametrize(
    ("correlation", "word"),
    [(1.0, None), (0.1, None), (0.05, "lost"), (-0.05, "lost"), (-0.2, "inverted")],
)
def test_the_contrast_gate_as_a_table(correlation: float, word: str | None) -> None:
    reason = inverted(correlation)
    assert (reason is None) if word is None else (reason is not None and word in reason)


def test_the_other_gates_as_tables() -> None:
    a, b = white(4, 8, 1), white(4, 8, 2)
    one_bad = b.clone()
    one_bad[2, 0, 3, 4, 5] = math.inf
    assert non_finite(b) is None
    assert non_finite(one_bad) == "1 of 2048 voxels of the output are not finite"
    assert "diverged" in str(non_finite(-1e5 * b))
    assert collapsed(b, a, b) is None
    assert collapsed(0.1 * b, a, b) is None
    assert "flat" in str(collapsed(0.01 * b, a, b))
    assert "same output" in str(collapsed(b[:1].expand(4, -1, -1, -1, -1), a, b))
    assert "same output" in str(collapsed(b[:1] + 0.1 * b, a, b))


def test_a_bad_but_living_generator_scores_above_every_gated_one() -> None:
    world = domains()
    report = world.score(lambda x: 500 * (x + 5))
    assert report.gate is None
    assert GATED < report.value < -20


class Restless(nn.Module):
    """Dropout, batch statistics and random numbers: all that could make a score irreproducible."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(1)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm3d(1).eval()

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return x + 0.1 * self.drop(self.frozen(self.norm(x))) + 0.01 * torch.randn_like(x)


def test_the_same_call_gives_the_same_bits_and_leaves_no_trace() -> None:
    score, network = domains().score, Restless()
    torch.manual_seed(4)
    state = torch.get_rng_state()
    buffers = {name: value.clone() for name, value in network.state_dict().items()}
    first, second = score(network, network), score(network, network)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert (network.training, network.norm.training, network.drop.training) == (True, True, True)
    assert not network.frozen.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, buffers[name]), name


def test_building_the_score_leaves_the_global_state_and_repeats() -> None:
    world = domains()
    state = torch.get_rng_state()
    again = Score(world.real_A, world.real_B, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert again(world.wiener) == world.score(world.wiener)
    assert Score(world.real_A, world.real_B, seed=1)(world.wiener) != world.score(world.wiener)


def test_the_training_mode_comes_back_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    network = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        domains().score(network)
    assert network.training


@pytest.mark.parametrize("factor", [1, 2])
def test_the_reverse_generator_is_reported_and_does_not_change_the_value(factor: int) -> None:
    world = domains(factor)
    alone = world.score(world.wiener)
    good = world.score(world.wiener, lambda x: scanner(factor).apply(x, seed=9) / world.std_A)
    bad = world.score(world.wiener, lambda x: -to_coarse(x, factor))
    assert alone.value == good.value == bad.value
    assert good.parts["lowpass_correlation_B"] > 0.8
    assert bad.parts["lowpass_correlation_B"] < -0.8
    assert good.parts["spectrum_distance_A_db"] < 1 < bad.parts["spectrum_distance_A_db"]


def test_domains_of_equal_quality_give_finite_numbers() -> None:
    real_B = domains().real_B
    report = Score(real_B, real_B)(lambda x: x)
    assert report.gate is None
    assert -1 < report.value < 1


def test_patches_and_outputs_that_do_not_fit_are_refused() -> None:
    a, b = white(2, 16, 1), white(2, 32, 2)
    with pytest.raises(DataError, match=r"super_resolution 1 they must be \(16, 16, 16\)"):
        Score(a, b)
    with pytest.raises(DataError, match="at least 2 patches"):
        Score(a[:1], a)
    with pytest.raises(DataError, match="patches_B has voxels that are not finite"):
        Score(a, a * math.nan)
    with pytest.raises(DataError, match="8 voxels or more"):
        Score(a[..., :6], a[..., :6])
    with pytest.raises(UsageError, match="super_resolution is 0"):
        Score(a, a, super_resolution=0)
    score = Score(a, b, super_resolution=2)
    with pytest.raises(DataError, match=r"G_A gave volumes of shape \(16, 16, 16\)"):
        score(lambda x: x)


def test_of_several_channels_the_first_is_judged_and_the_networks_see_all() -> None:
    one = domains()
    other = white(COUNT, SIZES[1], 50)
    score = Score(torch.cat([one.real_A, other], 1), torch.cat([one.real_B, other.flip(0)], 1))
    seen = []

    def two_channels(x: Tensor) -> Tensor:
        seen.append(x.shape[1])
        return torch.cat([one.wiener(x[:, :1]), torch.zeros_like(x[:, 1:])], 1)

    assert score(two_channels).value == one.score(one.wiener).value
    assert set(seen) == {2}
