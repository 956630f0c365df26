"""Losses on a discriminator's patch map, and gradient penalties.

A patch map is logits (B, 1, z, y, x), large where a patch looks real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.losses.precision import widened

Role = Literal["real", "generated", "generator"]
"""Owner of a loss: the discriminator on a real or a generated image, or the generator."""
AdversarialFunction = Callable[[Tensor, Role], Tensor]


@dataclass(frozen=True)
class Adversarial:
    """A loss of a patch map for each role."""

    function: AdversarialFunction
    threshold: float
    """Judgement above which a truth table counts a patch as called real."""
    no_discriminator: str = ""
    """Reason for which it can't train a discriminator; empty if it can."""
    relativistic: bool = False
    """True if the function takes the judgement minus that of the opposite image."""


def target_like(judgement: Tensor, role: Role) -> Tensor:
    """Return the target of `judgement`: 0 for the discriminator on a generated image, else 1."""
    return torch.full_like(judgement, 0.0 if role == "generated" else 1.0)


def bce(judgement: Tensor, role: Role) -> Tensor:
    """Return binary cross entropy on logits, non-saturating for the generator (Goodfellow 2014)."""
    # Sigmoid and logarithm in one: finite where a sigmoid has rounded to 0 or 1.
    return functional.binary_cross_entropy_with_logits(judgement, target_like(judgement, role))


def lsgan(judgement: Tensor, role: Role) -> Tensor:
    """Return the mean squared distance from targets 1 and 0, without a factor 1/2 (Mao 2017)."""
    target = 0.0 if role == "generated" else 1.0
    return (judgement - target).square().mean()


def hinge(judgement: Tensor, role: Role) -> Tensor:
    """Return the hinge loss (Lim 2017, Miyato 2018).

    The discriminator has a margin of 1; the generator's loss is minus the mean logit.
    """
    if role == "generator":
        return -judgement.mean()
    sign = -1.0 if role == "real" else 1.0
    return functional.relu(1.0 + sign * judgement).mean()


def kl(judgement: Tensor, role: Role) -> Tensor:
    """Return minus the mean logit, an estimate of KL(p_G || p_data).

    `bce` must train the discriminator: the best such discriminator's logit is log p_data - log p_G,
    whose mean over generated images is -KL(p_G || p_data). Sources: Sonderby 2017 (AffGAN,
    arXiv:1610.04490), Nowozin 2016 (f-GAN). Raises `ValueError` for a discriminator's role.
    """
    if role != "generator":
        raise ValueError(f"kl is a generator's loss, asked for as '{role}'")
    return -judgement.mean()


def relativistic(difference: Tensor, role: Role) -> Tensor:
    """Return the mean softplus(-`difference`) over pairs of a real and a generated image.

    The discriminator wants the real image above the generated one, the generator the reverse.
    `difference` is the judgement minus that of the opposite image; the discriminator's pair counts
    once, for the real image. Sources: Jolicoeur-Martineau 2018 (relativistic), Huang 2024 (R3GAN,
    which also needs R1 and R2: `penalty_R1` and `penalty_R2`).
    """
    return functional.softplus(-difference).mean() * (0.0 if role == "generated" else 1.0)


ADVERSARIAL: Final[Mapping[str, Adversarial]] = {
    "bce": Adversarial(bce, 0.0),
    "lsgan": Adversarial(lsgan, 0.5),
    "hinge": Adversarial(hinge, 0.0),
    "kl": Adversarial(
        kl,
        0.0,
        no_discriminator="'kl' estimates a divergence from a discriminator that another loss "
        "trains, and its mean logit has no lower bound; take bce there",
    ),
    "relativistic": Adversarial(relativistic, 0.0, relativistic=True),
}
"""Adversarial functions by name."""


# -- Zero-centred gradient penalties of discriminators -----------------------------------------


def gradient_penalty(judge: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return the mean over voxels of the squared gradient of the summed patch map.

    `judge` maps `image` (B, C, Z, Y, X) to logits (B, 1, z, y, x). A voxel's gradient collects all
    patches that see it, so the mean does not depend on the size of the image, except for its rim,
    which fewer patches see. It is computed in single precision whatever the caller's autocast says,
    because squares of small gradients vanish in half precision. At real images this is R1, at
    generated ones R2, both without their factor weight / 2. Source: Mescheder 2018
    (arXiv:1801.04406).
    """
    with torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        inputs = widened(image.detach()).requires_grad_()
        judged = judge(inputs).sum()
        (gradient,) = torch.autograd.grad(judged, inputs, create_graph=True)
        return gradient.square().sum(dim=1).mean()
