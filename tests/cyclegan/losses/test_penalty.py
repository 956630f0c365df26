"""Gradient penalties, and the loss that compares real with generated images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cyclegan.losses import (
    Term,
    adversarial_loss,
    gradient_penalty,
    needs_both,
    resolve_terms,
    truth_table,
)
from cyclegan.networks import PatchDiscriminator


def test_of_a_linear_judge_it_is_the_square_of_its_weight() -> None:
    judge = nn.Conv3d(1, 1, 1)
    nn.init.constant_(judge.weight, 3.0)
    for size in (4, 8):
        value = gradient_penalty(judge, torch.randn(2, 1, size, size, size)).detach()
        assert float(value) == pytest.approx(9.0)


def test_it_depends_on_the_size_of_the_patch_by_its_rim_alone() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(filters=4, layers=1, norm="none")
    values = [
        float(gradient_penalty(judge, torch.randn(2, 1, size, size, size)).detach())
        for size in (48, 64)
    ]
    # A mean over voxels differs by a few percent; a sum would differ by a factor of 2.4.
    assert values[0] == pytest.approx(values[1], rel=0.2)


def test_it_trains_the_judge_in_single_precision() -> None:
    judge = PatchDiscriminator(filters=4, layers=1, norm="none", spectral_norm=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = gradient_penalty(judge, torch.randn(1, 1, 8, 8, 8, dtype=torch.bfloat16))
    assert value.dtype == torch.float32
    value.backward()
    gradients = [p.grad for p in judge.parameters() if p.grad is not None]
    assert any(bool(g.abs().sum() > 0) for g in gradients)


def test_relativistic_losses_see_nothing_but_the_difference() -> None:
    terms = resolve_terms("D_A", [Term("d", "relativistic")])
    assert needs_both(terms)
    torch.manual_seed(0)
    real, fake = torch.randn(1, 1, 3, 3, 3), torch.randn(1, 1, 3, 3, 3)

    def total(shift: float) -> float:
        first, second = {None: real + shift}, {None: fake + shift}
        parts = (
            adversarial_loss(terms, (1.0,), first, "real", second),
            adversarial_loss(terms, (1.0,), second, "generated", first),
        )
        return sum(float(loss) for loss, _ in parts)

    assert total(0.0) == pytest.approx(total(50.0), rel=1e-4)
    expected = torch.nn.functional.softplus(fake - real).mean()
    assert total(0.0) == pytest.approx(float(expected))
    tables = [truth_table(terms, real + s, fake + s) for s in (0.0, 50.0)]
    assert {k: int(v) for k, v in tables[0].items()} == {k: int(v) for k, v in tables[1].items()}


def test_a_relativistic_generator_wants_its_image_above_the_real_one() -> None:
    terms = resolve_terms("G_A", [Term("g", "relativistic")])
    low, high = {None: torch.zeros(1, 1, 2, 2, 2)}, {None: torch.ones(1, 1, 2, 2, 2)}
    better, _ = adversarial_loss(terms, (1.0,), high, "generator", low)
    worse, _ = adversarial_loss(terms, (1.0,), low, "generator", high)
    assert float(better) < float(worse)
    with pytest.raises(ValueError, match="give both"):
        adversarial_loss(terms, (1.0,), low, "generator")
