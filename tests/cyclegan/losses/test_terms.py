"""Terms: their formulas, weights, roles, channels, names, and the truth tables."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from cyclegan.errors import ConfigError
from cyclegan.losses import (
    GROUPS,
    ResolvedTerm,
    Role,
    Term,
    adversarial_loss,
    by_channels,
    channel_sets,
    check_function,
    default_name,
    functions_for,
    image_loss,
    only_channels,
    resolve,
    resolve_terms,
    truth_table,
)


def resolved(group: str, *functions: str) -> tuple[ResolvedTerm, ...]:
    return resolve_terms(group, [Term(default_name(group, f), f) for f in functions])


SOFTPLUS_2 = math.log(1 + math.exp(2))
BY_HAND: list[tuple[str, Role, float]] = [
    ("bce", "real", (math.log(2) + SOFTPLUS_2 - 2) / 2),
    ("bce", "generator", (math.log(2) + SOFTPLUS_2 - 2) / 2),
    ("bce", "generated", (math.log(2) + SOFTPLUS_2) / 2),
    ("lsgan", "real", (1 + 1) / 2),
    ("lsgan", "generator", (1 + 1) / 2),
    ("lsgan", "generated", (0 + 4) / 2),
    ("hinge", "real", (1 + 0) / 2),
    ("hinge", "generated", (1 + 3) / 2),
    ("hinge", "generator", -1.0),
    ("kl", "generator", -1.0),
]


@pytest.mark.parametrize(("function", "role", "expected"), BY_HAND)
def test_adversarial_losses_by_hand(function: str, role: Role, expected: float) -> None:
    judgements = {None: torch.tensor([0.0, 2.0])}
    _, values = adversarial_loss(resolved("G_A", function), [1.0], judgements, role)
    assert float(values[f"G_A_{function}"]) == pytest.approx(expected)


def test_terms_are_weighted_and_summed() -> None:
    judgements = {None: torch.tensor([0.0, 2.0])}
    total, values = adversarial_loss(
        resolved("G_A", "bce", "lsgan"), [10.0, 0.5], judgements, "generator"
    )
    assert float(total) == pytest.approx(10 * float(values["G_A_bce"]) + 0.5)
    x, y = torch.tensor([0.0, 3.0]), torch.tensor([0.0, 1.0])
    total, values = image_loss(resolved("C_A", "l1", "mse", "smooth_l1"), [1.0, 10.0, 100.0], x, y)
    assert [float(v) for v in values.values()] == pytest.approx([1.0, 2.0, 0.75])
    assert float(total) == pytest.approx(1 + 20 + 75)


@pytest.mark.parametrize("function", ["bce", "lsgan", "hinge"])
def test_adversarial_gradients_push_the_right_way(function: str) -> None:
    sign = {"real": -1, "generated": 1, "generator": -1}
    for role in ("real", "generated", "generator"):
        judgement = torch.tensor([0.4, 0.6], requires_grad=True)
        terms = resolved("D_A", function)
        total, _ = adversarial_loss(terms, [1.0], {None: judgement}, role)
        total.backward()
        assert judgement.grad is not None
        assert (judgement.grad.sign() == sign[role]).all(), role


def test_bce_on_logits_stays_finite_where_a_sigmoid_saturates() -> None:
    judgements = {None: torch.tensor([1e4])}
    _, values = adversarial_loss(resolved("D_A", "bce"), [1.0], judgements, "generated")
    assert float(values["D_A_bce"]) == pytest.approx(1e4)


@pytest.mark.parametrize("function", ["bce", "lsgan", "hinge", "kl"])
def test_adversarial_losses_are_single_precision_under_autocast(function: str) -> None:
    judgement = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    terms = resolved("G_A", function)
    half = judgement.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = adversarial_loss(terms, [1.0], {None: half}, "generator")
    plain, _ = adversarial_loss(terms, [1.0], {None: half.float()}, "generator")
    assert total.dtype == torch.float32
    assert torch.equal(total, plain)


def test_kl_estimates_the_divergence_from_the_best_discriminator() -> None:
    # p_data = N(0, 1), p_G = N(1, 1): the best logit is log p_data - log p_G = 1/2 - x.
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) + 1
    _, values = adversarial_loss(resolved("G_A", "kl"), [1.0], {None: 0.5 - x}, "generator")
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(1.0, 1.0), normal(0.0, 1.0))
    assert float(values["G_A_kl"]) == pytest.approx(float(exact), abs=0.01)


@pytest.mark.filterwarnings("ignore:reduction")
def test_torch_s_kl_divergence_to_a_map_of_ones_is_minus_the_mean() -> None:
    sigmoid = torch.rand(2, 1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    original = torch.nn.KLDivLoss()(sigmoid, torch.ones_like(sigmoid))
    _, values = adversarial_loss(resolved("G_A", "kl"), [1.0], {None: sigmoid}, "generator")
    assert float(original) == pytest.approx(float(values["G_A_kl"]))


@pytest.mark.parametrize(("function", "offset"), [("bce", 0.0), ("lsgan", 0.5), ("hinge", 0.0)])
def test_truth_table_counts_at_the_function_s_threshold(function: str, offset: float) -> None:
    real = torch.tensor([0.2, 0.3, -0.1]) + offset
    fake = torch.tensor([0.1, -0.3, -0.2, -0.4]) + offset
    table = truth_table(resolved("D_A", function), real, fake)
    assert {k: int(v) for k, v in table.items()} == {"TP": 2, "FN": 1, "FP": 1, "TN": 3}


def test_functions_belong_to_groups() -> None:
    for group in GROUPS:
        for function in functions_for(group):
            check_function(group, function)
            resolve(group, function)
    with pytest.raises(ConfigError, match=r"lossFuncs\.D_A: loss function 'l1'"):
        check_function("D_A", "l1")
    with pytest.raises(ConfigError, match=r"lossFuncs\.C_A: .*'hinge'.* known: dice"):
        check_function("C_A", "hinge")
    with pytest.raises(ConfigError, match=r"lossFuncs\.C_A: .*'simm'.* did you mean 'ssim'"):
        check_function("C_A", "simm")


@pytest.mark.parametrize("group", ["D_A", "D_B"])
def test_kl_of_a_discriminator_is_refused_with_the_reason(group: str) -> None:
    assert "kl" not in functions_for(group)
    with pytest.raises(ConfigError, match=rf"lossFuncs\.{group}.*no lower bound; take bce"):
        resolve(group, "kl")


def test_names_of_metrics() -> None:
    assert default_name("G_A", "bce") == "G_A_bce"
    assert default_name("C_B", "my.losses:Sobel") == "C_B_Sobel"


def test_image_terms_compare_their_channels_only() -> None:
    random = torch.Generator().manual_seed(0)
    image, target = (torch.randn(2, 3, 4, 5, 6, generator=random) for _ in range(2))
    terms = resolve_terms(
        "C_A", [Term("all", "l1"), Term("one", "l1", (1,)), Term("two", "mse", (2, 0))]
    )
    _, values = image_loss(terms, [1.0, 1.0, 1.0], image, target)
    difference = image - target
    assert torch.equal(values["all"], difference.abs().mean())
    assert torch.equal(values["one"], difference[:, 1:2].abs().mean())
    assert torch.allclose(values["two"], difference[:, [0, 2]].square().mean())


def test_adversarial_terms_see_other_channels_as_zero() -> None:
    image = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    shown = only_channels(image, (0, 2))
    assert torch.equal(shown[:, [0, 2]], image[:, [0, 2]])
    assert not shown[:, 1].any()
    assert torch.equal(image[:, 1], only_channels(image, None)[:, 1])


def test_one_pass_for_each_distinct_channel_set() -> None:
    calls: Counter[tuple[bool, ...]] = Counter()

    def judge(image: Tensor) -> Tensor:
        calls[tuple(bool(channel.any()) for channel in image[0])] += 1
        return image.mean(dim=1, keepdim=True)

    image = torch.rand(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    terms = [
        Term("a", "bce"),
        Term("b", "lsgan"),
        Term("c", "bce", (1,)),
        Term("d", "lsgan", (1,)),
        Term("e", "bce", (1, 0)),
        Term("f", "bce", (0, 1)),
    ]
    assert channel_sets(terms) == (None, (1,), (0, 1))
    judgements = by_channels(terms, judge, image)
    assert calls == {(True, True): 2, (False, True): 1}
    _, values = adversarial_loss(resolve_terms("G_A", terms), [1.0] * 6, judgements, "generator")
    half = image[:, 1:].mean(dim=1, keepdim=True) / 2
    assert torch.allclose(values["d"], (half - 1).square().mean())


def test_with_all_channels_the_discriminator_is_shown_the_image_itself() -> None:
    image = torch.zeros(1, 2, 2, 2, 2)
    terms = resolved("G_A", "bce", "kl")
    assert by_channels(terms, lambda i: i, image)[None] is image


@pytest.mark.parametrize("channels", [(), (-1,), (1, 1)])
def test_impossible_channels_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="channels of the loss term 'x'"):
        Term("x", "l1", channels)
