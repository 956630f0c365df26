"""The losses of the four networks as lists of weighted, named terms.

Groups: `G_A G_B` (adversarial, generators), `D_A D_B` (adversarial, discriminators), `C_A C_B`
(cycle consistency) and, beyond the original's six, `I_A I_B` (identity: a generator should leave
an image of its own target domain as it is; Zhu 2017, section 5.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.errors import ConfigError, nearest

GROUPS: Final = ("G_A", "G_B", "D_A", "D_B", "C_A", "C_B", "I_A", "I_B")
"""Every group of loss terms, in the order of reports."""

AdversarialFunction = Callable[[Tensor, float], Tensor]
ImageFunction = Callable[[Tensor, Tensor], Tensor]


def _bce(judgement: Tensor, target: float) -> Tensor:
    # On logits: sigmoid and logarithm in one, safe in half precision.
    return functional.binary_cross_entropy_with_logits(
        judgement, torch.full_like(judgement, target)
    )


def _least_squares(judgement: Tensor, target: float) -> Tensor:
    return (judgement - target).square().mean()


@dataclass(frozen=True)
class Adversarial:
    """A loss on a discriminator's patch map against the target 1 (real) or 0 (generated)."""

    function: AdversarialFunction
    threshold: float
    """Judgements above it call the patch real: where a truth table cuts."""


ADVERSARIAL: Final[Mapping[str, Adversarial]] = {
    "bce": Adversarial(_bce, 0.0),
    "lsgan": Adversarial(_least_squares, 0.5),
}
IMAGE: Final[Mapping[str, ImageFunction]] = {
    "l1": functional.l1_loss,
    "mse": functional.mse_loss,
    "smooth_l1": functional.smooth_l1_loss,
}


@dataclass(frozen=True)
class Term:
    """One loss function in a group; its lambda is a hyperparameter and lives with the trainer."""

    name: str
    """What metrics call it, e.g. `G_A_bce`; unique over all groups."""
    function: str
    """A key of `ADVERSARIAL` or `IMAGE`."""
    channels: tuple[int, ...] | None = None
    """Image channels it looks at; None: all."""


def functions_for(group: str) -> tuple[str, ...]:
    """Names of the loss functions that make sense in `group`."""
    return tuple(ADVERSARIAL) if group[0] in "GD" else tuple(IMAGE)


def check_function(group: str, function: str) -> None:
    """Raise `ConfigError` if `function` is not known in `group`."""
    known = functions_for(group)
    if function not in known:
        raise ConfigError(
            f"lossFuncs.{group}: loss function '{function}' is not known there; "
            f"{nearest(function, known)}"
        )


def adversarial_loss(
    terms: Sequence[Term], lambdas: Sequence[float], judgement: Tensor, target: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over `terms` of a patch map (B, 1, z, y, x), and each term unweighted."""
    values = {t.name: ADVERSARIAL[t.function].function(judgement, target) for t in terms}
    return weighted_sum(values, lambdas), values


def image_loss(
    terms: Sequence[Term], lambdas: Sequence[float], image: Tensor, target: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over `terms` between images (B, C, Z, Y, X), and each term unweighted."""
    values = {t.name: IMAGE[t.function](image, target) for t in terms}
    return weighted_sum(values, lambdas), values


def weighted_sum(values: Mapping[str, Tensor], lambdas: Sequence[float]) -> Tensor:
    """Sum of lambda_i * value_i."""
    parts = [value * weight for value, weight in zip(values.values(), lambdas, strict=True)]
    return torch.stack(parts).sum()


TRUTH: Final = ("TP", "FN", "FP", "TN")


def truth_table(terms: Sequence[Term], real: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """Counts of patches a discriminator judged right and wrong, as tensors on its device.

    TP: real called real. FN: real called generated. FP: generated called real (the generator won).
    TN: generated called generated. The first term's threshold cuts.
    """
    threshold = ADVERSARIAL[terms[0].function].threshold
    true_positive = (real > threshold).sum()
    false_positive = (generated > threshold).sum()
    return {
        "TP": true_positive,
        "FN": real.numel() - true_positive,
        "FP": false_positive,
        "TN": generated.numel() - false_positive,
    }
