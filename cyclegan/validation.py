"""Validation: the score and the six images on fixed held-out patches, with the mean generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cyclegan.config import Config
from cyclegan.data import PatchSampler
from cyclegan.data.training_data import TrainingData
from cyclegan.degrader import fit_count
from cyclegan.errors import DataError
from cyclegan.model import IMAGES, CycleGAN
from cyclegan.ranks import ALONE, Ranks
from cyclegan.score import Generator
from cyclegan.score.deferred import to_host
from cyclegan.score.shared import shared_score
from cyclegan.shared_validation import following, leading, over

# Independent of the training's seed: all trials of a study are judged on the same patches, and
# their pictures show the same patches.
_PATCH_SEED = 2_024


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """Result of a validation."""

    step: int
    iteration: int
    score: float
    """Score without a reference; higher is better, always finite."""
    gate: str | None
    """Reason why the result is unusable (not finite, collapsed, inverted), or None."""
    metrics: Mapping[str, float]
    """The score and its parts, by their names in charts, e.g. `score/spectrum_distance_db`."""
    images: Mapping[str, Tensor]
    """Images `real_A fake_B rec_A real_B fake_A rec_B`, each (2, C, Z, Y, X), on the host."""

    def beats(self, best: float | None) -> bool:
        """Return True if the result is usable and better than the best score so far.

        The one rule for which generators, checkpoints, volumes and snapshots of a training are the
        best. `best`: None if there was no usable result yet.
        """
        return self.gate is None and (best is None or self.score > best)


class Validator:
    """Judge generators on held-out patches, which are drawn once."""

    def __init__(self, config: Config, data: TrainingData, device: torch.device) -> None:
        domains = (
            data.volumes(config, "A", data.spec_A.validate),
            data.volumes(config, "B", data.spec_B.validate),
        )
        self.voxel_size_A = domains[0][0].voxel_size_um
        """Voxel size (z, y, x) of the first volume in micrometres; None if it is unknown."""
        patches: list[Tensor] = []
        fitted: list[Tensor] = []
        for number, size in enumerate((config.imsize_A, config.imsize_B)):
            seed = (_PATCH_SEED, number)
            sampler = PatchSampler(domains[number], size, seed=seed, flips=False)
            patches.append(sampler.draw(config.validation_patches).to(device))
            # The few validation patches say too little about the blur between the domains.
            more = sampler.draw(max(fit_count(config.imsize_B) - config.validation_patches, 0))
            fitted.append(torch.cat([patches[number][:, :1], more[:, :1].to(device)]))
        self.patches_A, self.patches_B = patches
        halves = _halves(config, data, device)
        factor = config.super_resolution
        self.score = shared_score(self.patches_A, self.patches_B, fitted, factor, halves)

    def __call__(
        self, model: CycleGAN, *, step: int, iteration: int, ranks: Ranks = ALONE
    ) -> ValidationReport:
        """Judge the model's mean generators; training state and random numbers do not change.

        Of several `ranks` the first one calls this, and the others `follow`.
        """
        G_A, G_B = (
            leading(name, generator, ranks) for name, generator in _generators(model).items()
        )
        scored = self.score(G_A, G_B)
        images = self._images(G_A, G_B)
        over(ranks)
        return ValidationReport(
            step=step,
            iteration=iteration,
            score=scored.value,
            gate=scored.gate,
            metrics=scored.metrics(),
            images=images,
        )

    def follow(self, model: CycleGAN, ranks: Ranks) -> None:
        """Compute this rank's part of a validation of the first one."""
        following(_generators(model), ranks, self.patches_A.device)

    def images(self, model: CycleGAN) -> dict[str, Tensor]:
        """Return the six images as in a report, without judging them."""
        return self._images(*_generators(model).values())

    def _images(self, G_A: Generator, G_B: Generator) -> dict[str, Tensor]:
        real_A, real_B = self.patches_A[:2], self.patches_B[:2]
        with torch.no_grad():
            fake_B, fake_A = G_A(real_A), G_B(real_B)
            cycle = (real_A, fake_B, G_B(fake_B), real_B, fake_A, G_A(fake_A))
        return dict(zip(IMAGES, to_host(cycle), strict=True))


def _halves(
    config: Config, data: TrainingData, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Return the same patches from both half scans of A, or None unless all volumes have halves."""
    entries = data.spec_A.validate
    if not all(entry.halves for entry in entries):
        return None
    volumes = [data.volumes(config, "A", [e.half(number) for e in entries]) for number in (0, 1)]
    shapes = [[volume.shape for volume in half] for half in volumes]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{data.spec_A.source}: the halves have shapes {shapes[0]} and {shapes[1]};"
            " give halves of one scan"
        )
    seed = (_PATCH_SEED, 0)
    first, second = (
        PatchSampler(half, config.imsize_A, seed=seed, flips=False).draw(config.validation_patches)
        for half in volumes
    )
    return first.to(device), second.to(device)


def _generators(model: CycleGAN) -> dict[str, Generator]:
    """Return the mean generators G_A and G_B by name."""
    return {
        "G_A": _applied(model, model.mean_G_A),
        "G_B": _applied(model, model.mean_G_B),
    }


def _applied(model: CycleGAN, generator: nn.Module) -> Generator:
    """Return the generator in the training's precision, with outputs in fp32 for the metrics."""

    def apply(patches: Tensor) -> Tensor:
        with model.autocast():
            result: Tensor = generator(patches).float()
        return result

    return apply
