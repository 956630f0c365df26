"""The loss terms of a group: from names to callables, their weighted sums, and truth tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from cyclegan.errors import ConfigError, nearest
from cyclegan.losses import own
from cyclegan.losses.adversarial import ADVERSARIAL, Adversarial, Role
from cyclegan.losses.image import IMAGE, ImageFunction
from cyclegan.losses.precision import widened

GROUPS: Final = (
    *("G_A", "G_B", "D_A", "D_B", "C_A", "C_B", "I_A", "I_B"),
    *("P_A", "P_B", "H_A"),
)
"""All groups of loss terms, in the order of reports."""

Channels = tuple[int, ...] | None
"""Image channels that a term looks at, ascending; None for all."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Term:
    """One loss function in a group; its lambda is a hyperparameter, which the trainer holds.

    Raises `ConfigError` for channels that are negative, given twice, or an empty list.
    """

    name: str
    """Name in metrics, e.g. `G_A_bce`; unique over all groups."""
    function: str
    """Key of `ADVERSARIAL` or `IMAGE`, or a user's own `module:Class`."""
    channels: Channels = None
    """Channels that an image term compares; for an adversarial term all others are set to 0."""

    def __post_init__(self) -> None:
        if self.channels is None:
            return
        channels = tuple(sorted(self.channels))
        if not channels or channels[0] < 0 or len(set(channels)) < len(channels):
            raise ConfigError(
                f"channels of the loss term '{self.name}' are {list(self.channels)}; give "
                "different numbers from 0 on, or null for all channels"
            )
        object.__setattr__(self, "channels", channels)


@dataclass(frozen=True)
class ResolvedTerm:
    """A `Term` with its function as a callable."""

    name: str
    function: Callable[[Tensor, Any], Tensor]
    """Function of (judgement, role) in an adversarial group, of (image, target) in the others."""
    channels: Channels = None
    threshold: float = 0.0
    """Judgement above which a patch is called real; adversarial terms only."""
    relativistic: bool = False
    """True if the function takes the judgement minus that of the opposite image."""


def _adversarial(group: str) -> bool:
    return group[0] in "GD"


def functions_for(group: str) -> tuple[str, ...]:
    """Return the names of the loss functions that make sense in `group`, besides a user's own."""
    if not _adversarial(group):
        return tuple(IMAGE)
    return tuple(f for f, a in ADVERSARIAL.items() if group[0] == "G" or not a.no_discriminator)


def check_function(group: str, function: str) -> None:
    """Raise `ConfigError` if `function` is not known in `group`.

    For a user's own `module:Class` only the form is checked, so that reading a configuration, or a
    stranger's model file, runs no code.
    """
    if own.is_own(function):
        own.check_form(f"lossFuncs.{group}", function)
        return
    known = functions_for(group)
    if function in known:
        return
    if _adversarial(group) and function in ADVERSARIAL:
        why = ADVERSARIAL[function].no_discriminator
        raise ConfigError(f"lossFuncs.{group}: not a loss for a discriminator: {why}")
    raise ConfigError(
        f"lossFuncs.{group}: loss function '{function}' is not known there; "
        f"{nearest(function, known)}"
    )


def default_name(group: str, function: str) -> str:
    """Return the name in metrics of a term without a name of its own: `G_A_bce`, `C_A_Sobel`."""
    return f"{group}_{function.rpartition(':')[2]}"


def resolve(
    group: str, function: str, device: torch.device | str = "cpu"
) -> Adversarial | ImageFunction:
    """Return the function called `function` in `group`; import a user's own, onto `device`.

    Errors: `ConfigError` as in `check_function`, or if a user's own can't be loaded.
    """
    check_function(group, function)
    if not own.is_own(function):
        return ADVERSARIAL[function] if _adversarial(group) else IMAGE[function]
    module = own.load(f"lossFuncs.{group}", function).to(device)
    where = f"lossFuncs.{group}: {function}"
    return own.adversarial(where, module) if _adversarial(group) else own.image(where, module)


def resolve_terms(
    group: str, terms: Iterable[Term], device: torch.device | str = "cpu"
) -> tuple[ResolvedTerm, ...]:
    """Return all terms of a group with their callables; done once per training, not per step."""
    resolved = []
    for term in terms:
        loss = resolve(group, term.function, device)
        if isinstance(loss, Adversarial):
            resolved.append(
                ResolvedTerm(
                    term.name, loss.function, term.channels, loss.threshold, loss.relativistic
                )
            )
        else:
            resolved.append(ResolvedTerm(term.name, loss, term.channels))
    return tuple(resolved)


def channel_sets(terms: Iterable[Term | ResolvedTerm]) -> tuple[Channels, ...]:
    """Return the distinct channel sets of `terms`; a discriminator runs once for each."""
    return tuple(dict.fromkeys(term.channels for term in terms))


def only_channels(image: Tensor, channels: Channels) -> Tensor:
    """Return `image` (B, C, Z, Y, X) with all other channels set to 0, for a discriminator."""
    if channels is None:
        return image
    parts = torch.split(image, 1, dim=1)
    return torch.cat([p if c in channels else torch.zeros_like(p) for c, p in enumerate(parts)], 1)


def by_channels(
    terms: Iterable[Term | ResolvedTerm], judge: Callable[..., _T], *images: Tensor
) -> dict[Channels, _T]:
    """Return the result of `judge` on `images` for each channel set of `terms`, one call each.

    `judge` is a discriminator, or its `pair` for a real and a generated image.
    """
    return {c: judge(*(only_channels(i, c) for i in images)) for c in channel_sets(terms)}


def adversarial_loss(
    terms: Sequence[ResolvedTerm],
    lambdas: Sequence[float],
    judgements: Mapping[Channels, Tensor],
    role: Role,
    opposite: Mapping[Channels, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum over `terms` of patch maps (B, 1, z, y, x), and each term unweighted.

    `judgements` has the patch map of the image for each of `channel_sets(terms)`. `opposite` has
    those of the real image for a generated one and the reverse; only terms for which `needs_both`
    is true look at it.
    """
    wide = {channels: widened(judgement) for channels, judgement in judgements.items()}
    with _no_autocast(wide.values()):
        values = {t.name: t.function(_seen(t, wide, opposite), role) for t in terms}
        return weighted_sum(values, lambdas), values


def needs_both(terms: Iterable[ResolvedTerm]) -> bool:
    """Return True if a term compares the judgements of a real and a generated image."""
    return any(term.relativistic for term in terms)


def _seen(
    term: ResolvedTerm,
    judgements: Mapping[Channels, Tensor],
    opposite: Mapping[Channels, Tensor] | None,
) -> Tensor:
    judgement = judgements[term.channels]
    if not term.relativistic:
        return judgement
    if opposite is None:
        raise ValueError(f"{term.name} compares real with generated images; give both")
    return judgement - widened(opposite[term.channels])


def image_loss(
    terms: Sequence[ResolvedTerm], lambdas: Sequence[float], image: Tensor, target: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum over `terms` between images (B, C, Z, Y, X), and each unweighted."""
    pairs = {c: (_taken(image, c), _taken(target, c)) for c in channel_sets(terms)}
    values = {t.name: t.function(*pairs[t.channels]) for t in terms}
    return weighted_sum(values, lambdas), values


def _taken(image: Tensor, channels: Channels) -> Tensor:
    if channels is None:
        return image
    # Slices, because an index list would have to travel to the image's device first.
    return torch.cat([image[:, c : c + 1] for c in channels], dim=1)


def _no_autocast(tensors: Iterable[Tensor]) -> torch.autocast:
    return torch.autocast(next(iter(tensors)).device.type, enabled=False)


def weighted_sum(values: Mapping[str, Tensor], lambdas: Sequence[float]) -> Tensor:
    """Return the sum of lambda_i * value_i."""
    parts = [value * weight for value, weight in zip(values.values(), lambdas, strict=True)]
    return torch.stack(parts).sum()


TRUTH: Final = ("TP", "FN", "FP", "TN")


def truth_table(
    terms: Sequence[ResolvedTerm], real: Tensor, generated: Tensor
) -> dict[str, Tensor]:
    """Count the patches that a discriminator judged right and wrong, as tensors on its device.

    TP: real called real. FN: real called generated. FP: generated called real (the generator won).
    TN: generated called generated. The first term gives the threshold; with several channel sets,
    `real` and `generated` are the judgements of its set.
    """
    threshold: float | Tensor = terms[0].threshold
    if terms[0].relativistic:  # only differences of such judgements mean something
        threshold = (real.float().mean() + generated.float().mean()) / 2
    true_positive = (real > threshold).sum()
    false_positive = (generated > threshold).sum()
    return {
        "TP": true_positive,
        "FN": real.numel() - true_positive,
        "FP": false_positive,
        "TN": generated.numel() - false_positive,
    }
