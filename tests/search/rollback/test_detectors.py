"""Fault detectors as tables: what is a fault, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search.rollback.detectors import (
    Evidence,
    drifting,
    exploding,
    flat,
    fooled,
    inverted,
    judge,
    non_finite,
    rising,
    score_fell,
    won,
)

RNG = np.random.default_rng(0)
HEALTHY = 1 + 0.1 * RNG.normal(size=400)
FALLING = np.linspace(3, 1, 400) + 0.1 * RNG.normal(size=400)
SPIKE = HEALTHY.copy()
SPIKE[-3] = 1000.0
JUMP = HEALTHY.copy()
JUMP[-50:] *= 12
SLOW_RISE = np.linspace(1, 2, 400)
LATE_NAN = HEALTHY.copy()
LATE_NAN[-30] = np.nan


FALLEN = ((300, -2.0), (200, -2.5), (100, -3.0))
"""(steps ago, score)"""
RISEN = ((300, -3.0), (200, -2.5), (100, -2.0))


def of(scores: tuple[tuple[int, float], ...] = (), **losses: np.ndarray) -> Evidence:
    return Evidence(losses=losses, scores=scores)


@pytest.mark.parametrize(
    ("values", "found"),
    [(HEALTHY, False), (SPIKE, False), (LATE_NAN, True), (LATE_NAN * np.inf, True)],
)
def test_non_finite(values: np.ndarray, found: bool) -> None:
    for evidence in (of(G_A_bce=values), Evidence(gradient=values)):
        fault = non_finite(evidence)
        assert bool(fault) == found
        if fault:
            assert fault.severity == np.inf


def test_the_first_value_that_was_not_finite_tells_how_old_the_fault_is() -> None:
    older = HEALTHY.copy()
    older[-80:] = np.inf
    fault = non_finite(of(G_A_bce=LATE_NAN, C_A_l1=older))
    assert fault
    assert (fault.age, fault.networks) == (80, ("C_A",))
    assert "C_A_l1" in fault.reason


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (HEALTHY, False),
        (FALLING, False),
        (SPIKE, False),
        (SLOW_RISE, False),
        (JUMP, True),
        (JUMP[-90:], False),  # too young to compare
        (np.zeros(400), False),
    ],
)
def test_exploding(values: np.ndarray, found: bool) -> None:
    assert bool(exploding(of(C_A_l1=values, calm=HEALTHY))) == found
    assert bool(exploding(Evidence(gradient=values))) == found


@pytest.mark.parametrize(("level", "found"), [(0.05, False), (0.9, False), (2.0, True)])
def test_an_adversarial_loss_may_come_back_to_chance(level: float, found: bool) -> None:
    """A winning discriminator has tiny losses; eight times as much is no fault."""
    assert bool(exploding(of(D_A_bce=JUMP * level))) == found


def test_exploding_names_the_worst_loss_and_its_network() -> None:
    worse = HEALTHY.copy()
    worse[-50:] *= 30
    fault = exploding(of(C_A_l1=JUMP, D_B_bce=worse * 3))
    assert fault
    assert fault.networks == ("D_B",)
    assert fault.severity > 1
    assert 50 <= fault.age <= 61  # at least half of a median's steps must be in it


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (HEALTHY, False),
        (FALLING, False),
        (np.r_[HEALTHY, np.linspace(1, 1.6, 200)], True),
        (np.r_[HEALTHY, np.linspace(1, 1.1, 200)], False),
        (np.r_[HEALTHY, np.linspace(1, 2, 100), np.linspace(2, 1.2, 100)], False),  # already over
        (np.linspace(1, 2, 200), False),  # too young
    ],
)
def test_rising(values: np.ndarray, found: bool) -> None:
    assert bool(rising(of(FALLEN, C_A_l1=values, I_B_l1=values))) == found
    assert not rising(of(FALLEN, G_A_bce=values))
    assert not rising(of(RISEN, C_A_l1=values, I_B_l1=values))


def drifted(factor: float) -> np.ndarray:
    """Fall to 1 at step 400, then rise slowly to `factor` at step 1400."""
    rise = np.geomspace(1, factor, 1000)
    return np.r_[FALLING, rise * (1 + 0.1 * RNG.normal(size=1000))]


@pytest.mark.parametrize(("factor", "found"), [(1.0, False), (1.2, False), (1.6, True)])
def test_drifting(factor: float, found: bool) -> None:
    losses = {name: drifted(factor) for name in ("C_A_l1", "C_B_l1")}
    fault = drifting(of(FALLEN, **losses))
    assert bool(fault) == found
    assert not drifting(of(RISEN, **losses))
    assert not drifting(of(**losses))  # nobody knows
    if fault:
        assert 200 < fault.age < 600  # counted from the passing of the limit, not from the best
        assert fault.networks == ("C_A", "C_B")


def test_a_long_way_is_a_fault_whatever_the_score_says() -> None:
    losses = {name: drifted(2.2) for name in ("C_A_l1", "C_B_l1")}
    assert drifting(of(RISEN, **losses))
    assert drifting(of(**losses))
    steep = np.r_[HEALTHY, np.linspace(1, 2.5, 200)]
    assert rising(of(RISEN, C_A_l1=steep))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((), False),
        (((100, -9.0),), False),
        (FALLEN, True),
        (RISEN, False),
        (((300, -2.0), (200, -2.0), (100, -2.4)), False),  # noise
        (((300, -2.0), (200, -9.0), (100, -2.1)), False),  # already over
        (((300, -2.0), (200, -2.0), (100, -100.0)), True),  # a gate failed
        (((300, -100.0), (100, -5.0)), False),
        (((900, -2.0), (500, -9.0)), False),  # long ago
    ],
)
def test_the_score_worsens(scores: tuple[tuple[int, float], ...], expected: bool) -> None:
    assert of(scores).worsens(100) == expected


def test_one_cycle_loss_alone_may_double() -> None:
    """No generator can restore noise: as the other learns to remove it, that cycle must rise."""
    still = drifted(1.0)
    losses = {"C_A_l1": drifted(1.9), "C_B_l1": still, "I_A_l1": still, "I_B_l1": still}
    assert not drifting(of(FALLEN, **losses))


def test_steps_with_kickstart_are_no_measure_for_those_without() -> None:
    values = np.r_[0.3 * HEALTHY[:150], HEALTHY[:300]]
    kickstarted = np.arange(450) < 150
    plain = of(FALLEN, C_A_l1=values, C_B_l1=values)
    assert drifting(plain)
    masked = Evidence(losses=plain.losses, scores=FALLEN, kickstarted=kickstarted)
    assert judge(masked) is None


def tables(*, fooled_share: float = 0.2, accuracy: float = 0.7, steps: int = 1200) -> Evidence:
    """Truth tables of D_A with these rates, and of D_B with harmless ones."""

    def table(name: str, share: float, right: float) -> dict[str, np.ndarray]:
        ones = np.ones(steps)
        # Of 100 generated patches; the real ones make up for the requested accuracy.
        positive = np.clip(200 * right - (100 - 100 * share), 0, 100)
        return {
            f"{name}_FP": 100 * share * ones,
            f"{name}_TN": (100 - 100 * share) * ones,
            f"{name}_TP": positive * ones,
            f"{name}_FN": (100 - positive) * ones,
        }

    return Evidence(truth=table("D_A", fooled_share, accuracy) | table("D_B", 0.2, 0.7))


@pytest.mark.parametrize(("share", "found"), [(0.2, False), (0.5, False), (0.8, True)])
def test_fooled(share: float, found: bool) -> None:
    fault = fooled(tables(fooled_share=share, accuracy=0.5))
    assert bool(fault) == found
    if fault:
        assert "D_A takes 80 %" in fault.reason
    assert not fooled(tables(fooled_share=share, steps=150))  # too short to say


@pytest.mark.parametrize(("scores", "found"), [(RISEN, False), (FALLEN, True), ((), False)])
def test_a_generator_held_by_pseudo_pairs_may_fool_as_long_as_the_score_does_not_fall(
    scores: tuple[tuple[int, float], ...], found: bool
) -> None:
    truth = tables(fooled_share=0.9, accuracy=0.5).truth
    evidence = Evidence(truth=truth, losses={"P_A_l1": HEALTHY}, scores=scores)
    assert bool(fooled(evidence)) == found


@pytest.mark.parametrize(
    ("share", "accuracy", "found"), [(0.2, 0.5, False), (0.01, 0.995, False), (0.0, 1.0, True)]
)
def test_won(share: float, accuracy: float, found: bool) -> None:
    fault = won(tables(fooled_share=share, accuracy=accuracy))
    assert bool(fault) == found
    if fault:
        assert fault.networks == ("G_A",)
    assert not won(tables(fooled_share=share, accuracy=accuracy, steps=900))  # too short to say


def fields(scale: int = 1) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, 4, 4, 4, generator=random)
    size = 16 * scale
    real_A = torch.nn.functional.interpolate(coarse, size=(16,) * 3, mode="trilinear")
    fake_B = torch.nn.functional.interpolate(coarse, size=(size,) * 3, mode="trilinear")
    noise = torch.randn(real_A.shape, generator=random)
    return {
        "real_A": real_A + 0.5 * noise,
        "fake_B": fake_B,
        "real_B": fake_B.flip(2),
        "fake_A": real_A.flip(2) + 0.5 * noise.flip(3),
    }


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_inversion_is_found_in_either_direction_at_any_resolution(scale: int) -> None:
    images = fields(scale)
    assert inverted(Evidence(images=images)) is None
    for name, network in (("fake_B", "C_A"), ("fake_A", "C_B")):
        fault = inverted(Evidence(images=images | {name: -images[name]}))
        assert fault
        assert name in fault.reason
        assert network in fault.networks
        assert fault.severity > 1


@pytest.mark.parametrize(("factor", "found"), [(1.0, False), (0.3, False), (0.01, True)])
def test_flat(factor: float, found: bool) -> None:
    images = fields()
    changed = images | {"fake_B": factor * images["fake_B"] + 3.0}
    assert bool(flat(Evidence(images=changed))) == found


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ((), False),
        ((1.0, -19.0), False),
        ((0.0, 5.0, -9.0, 4.5), False),  # one bad validation
        ((0.0, 5.0, 0.2, 0.1), False),  # as deep as in healthy trainings
        ((0.0, 5.0, -9.0, -8.0), True),
        ((-100.0, 5.0, -100.0, -100.0), True),  # gates that fail again
        ((-100.0, -100.0, -100.0), False),  # no validation was usable yet
        ((-5.0, -1.0, 0.0, 1.0), False),
    ],
)
def test_a_fallen_score(scores: tuple[float, ...], found: bool) -> None:
    ages = range(100 * len(scores), 0, -100)
    evidence = Evidence(scores=tuple(zip(ages, scores, strict=True)))
    fault = score_fell(evidence)
    assert bool(fault) == found
    assert bool(judge(evidence)) == found
    if fault:
        assert fault.age == 200  # no snapshot since the first validation that was so low


def test_a_burst_that_is_over_is_found_and_its_beginning() -> None:
    burst = HEALTHY.copy()
    burst[-80:-40] *= 30
    fault = exploding(of(C_A_l1=burst))
    assert fault
    assert 80 <= fault.age <= 91
    burst = HEALTHY.copy()
    burst[-80:-75] *= 30  # five steps
    assert not exploding(of(C_A_l1=burst))


def test_judge_takes_the_worst_and_non_finite_beats_all() -> None:
    images = fields()
    images["fake_B"] = -images["fake_B"]
    both = Evidence(gradient=JUMP * np.r_[np.ones(350), np.full(50, 1e9)], images=images)
    worst = judge(both)
    assert worst
    assert worst.kind == "exploding"
    broken = judge(Evidence(losses={"G_A_bce": LATE_NAN}, gradient=both.gradient, images=images))
    assert broken
    assert broken.kind == "non_finite"
    assert judge(of(C_A_l1=HEALTHY, G_A_bce=FALLING)) is None
