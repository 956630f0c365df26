"""Fault detectors as tables: what is a fault, what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cyclegan.history import MetricHistory
from search.faults import exploding, flat, inverted, judge, non_finite, only_finite

RNG = np.random.default_rng(0)
HEALTHY = 1 + 0.2 * RNG.normal(size=400)
FALLING = np.linspace(3, 1, 400) + 0.1 * RNG.normal(size=400)
SPIKE = HEALTHY.copy()
SPIKE[-3] = 1000.0
JUMP = HEALTHY.copy()
JUMP[-50:] *= 8
SLOW_RISE = np.linspace(1, 2, 400)
LATE_NAN = HEALTHY.copy()
LATE_NAN[-1] = np.nan
OLD_NAN = HEALTHY.copy()
OLD_NAN[10] = np.nan


@pytest.mark.parametrize(
    ("values", "found"),
    [(HEALTHY, False), (LATE_NAN, True), (OLD_NAN, False), (LATE_NAN * np.inf, True)],
)
def test_non_finite(values: np.ndarray, found: bool) -> None:
    fault = non_finite({"G_A_bce": values}, window=50)
    assert bool(fault) == found
    if fault:
        assert fault.severity == np.inf
        assert "G_A_bce" in fault.reason
        assert fault.networks == ("G_A",)


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
    assert bool(exploding({"C_A_l1": values, "calm": HEALTHY}, window=50)) == found


def test_exploding_names_the_worst_loss_and_its_network() -> None:
    worse = HEALTHY.copy()
    worse[-50:] *= 30
    fault = exploding({"C_A_l1": JUMP, "D_B_bce": worse}, window=50)
    assert fault
    assert fault.networks == ("D_B",)
    assert fault.severity > 1


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
    assert inverted(images) is None
    for name, network in (("fake_B", "C_A"), ("fake_A", "C_B")):
        fault = inverted(images | {name: -images[name]})
        assert fault
        assert name in fault.reason
        assert network in fault.networks
        assert fault.severity > 1


@pytest.mark.parametrize(("factor", "found"), [(1.0, False), (0.3, False), (0.01, True)])
def test_flat(factor: float, found: bool) -> None:
    images = fields()
    assert bool(flat(images | {"fake_B": factor * images["fake_B"] + 3.0})) == found


def test_judge_takes_the_worst_and_non_finite_beats_all() -> None:
    history = MetricHistory()
    for i in range(200):
        value = float("nan") if i == 199 else 1.0
        history.append(i + 1, i + 1, {"loss/G_A_bce": torch.tensor(value)})
    images = fields()
    images["fake_B"] = -images["fake_B"]
    fault = judge(history, images, window=50)
    assert fault
    assert fault.kind == "non_finite"
    young = only_finite(history, window=50)
    assert young
    assert young.kind == "non_finite"
