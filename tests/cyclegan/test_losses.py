"""Losses: their formulas, their weights, and the truth tables."""

from __future__ import annotations

import math

import pytest
import torch

from cyclegan.errors import ConfigError
from cyclegan.losses import Term, adversarial_loss, check_function, image_loss, truth_table


def test_adversarial_losses_by_hand() -> None:
    judgement = torch.tensor([0.0, 2.0])
    terms = [Term("a", "bce"), Term("b", "lsgan")]
    total, values = adversarial_loss(terms, [10.0, 0.5], judgement, 1.0)
    bce = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    least_squares = (1 + 1) / 2
    assert float(values["a"]) == pytest.approx(bce)
    assert float(values["b"]) == pytest.approx(least_squares)
    assert float(total) == pytest.approx(10 * bce + 0.5 * least_squares)


def test_bce_on_logits_stays_finite_where_a_sigmoid_saturates() -> None:
    _, values = adversarial_loss([Term("a", "bce")], [1.0], torch.tensor([1e4]), 0.0)
    assert float(values["a"]) == pytest.approx(1e4)


def test_image_losses_by_hand() -> None:
    x, y = torch.tensor([0.0, 3.0]), torch.tensor([0.0, 1.0])
    terms = [Term("a", "l1"), Term("b", "mse"), Term("c", "smooth_l1")]
    total, values = image_loss(terms, [1.0, 10.0, 100.0], x, y)
    assert [float(v) for v in values.values()] == pytest.approx([1.0, 2.0, 0.75])
    assert float(total) == pytest.approx(1 + 20 + 75)


@pytest.mark.parametrize(("function", "offset"), [("bce", 0.0), ("lsgan", 0.5)])
def test_truth_table_counts_at_the_function_s_threshold(function: str, offset: float) -> None:
    real = torch.tensor([0.2, 0.3, -0.1]) + offset
    fake = torch.tensor([0.1, -0.3, -0.2, -0.4]) + offset
    table = truth_table([Term("t", function)], real, fake)
    assert {k: int(v) for k, v in table.items()} == {"TP": 2, "FN": 1, "FP": 1, "TN": 3}


def test_functions_belong_to_groups() -> None:
    check_function("D_A", "lsgan")
    check_function("I_B", "l1")
    with pytest.raises(ConfigError, match=r"lossFuncs\.D_A: loss function 'l1'"):
        check_function("D_A", "l1")
