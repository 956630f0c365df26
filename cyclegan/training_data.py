"""Both domains of a training: volumes, the batches drawn from them, and their grey values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cyclegan.config import Config
from cyclegan.data import (
    DatasetSpec,
    MemoryBudget,
    PatchSampler,
    Prefetcher,
    Volume,
    open_volumes,
)
from cyclegan.degrader import fit_count
from cyclegan.errors import DataError

Domain = Literal["A", "B"]

# Not the training's seed: trials of a study differ in nothing but what is searched.
_FIT_SEED = 2_025


@dataclass(frozen=True)
class GreyScale:
    """What standardised values of a domain mean: value x std + mean, in the files' units."""

    mean: float
    std: float


class TrainingData:
    """Opens what a configuration names, within one memory budget, and hands out batches.

    Errors: `DataError` for files that can't be used and patches that don't fit.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.budget = MemoryBudget(config.memory_budget_gb * 1e9)
        self.spec_A = DatasetSpec.load(Path(config.data_A))
        self.spec_B = DatasetSpec.load(Path(config.data_B))
        self._volumes = {
            "A": self.volumes(config, "A", self.spec_A.train),
            "B": self.volumes(config, "B", self.spec_B.train),
        }
        self._batches: dict[str, Prefetcher] = {}
        for number, (domain, size) in enumerate((("A", config.imsize_A), ("B", config.imsize_B))):
            sampler = PatchSampler(
                self._volumes[domain],
                size,
                seed=(config.seed, number),
                flips=config.flips,
                rotations=config.rotations,
            )
            pin = device.type == "cuda"
            self._batches[domain] = Prefetcher(sampler, config.batch_size, pin=pin)
        if any(config.lambdas.H_A):
            self._batches |= self._half_batches(config, device)

    def volumes(self, config: Config, domain: Domain, entries: Sequence[Any]) -> list[Volume]:
        """Volumes of a domain, read as the configuration says, from the shared budget."""
        channels = config.channels_A if domain == "A" else config.channels_B
        return open_volumes(
            entries, channels=channels, standardise=config.standardise, budget=self.budget
        )

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batches of A and B, (B, C, Z, Y, X), on the host."""
        return self._batches["A"].next(), self._batches["B"].next()

    def next_halves(self) -> tuple[Tensor, Tensor] | None:
        """Return batches of both half scans of A, the same places; None where they aren't used."""
        if "half 1" not in self._batches:
            return None
        return self._batches["half 1"].next(), self._batches["half 2"].next()

    def _half_batches(self, config: Config, device: torch.device) -> dict[str, Prefetcher]:
        entries = self.spec_A.train
        if not all(entry.halves for entry in entries):
            raise DataError(
                f"lambdas.H_A: {self.spec_A.source} names no half scans of some volumes to train "
                'on; add "halves": [file, file] there, or set lambdas.H_A to 0'
            )
        batches = {}
        halves = [self.volumes(config, "A", [e.half(n) for e in entries]) for n in (0, 1)]
        shapes = [[volume.shape for volume in half] for half in halves]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{self.spec_A.source}: the halves to train on have shapes {shapes[0]} and "
                f"{shapes[1]}; give halves of one scan"
            )
        for number, half in enumerate(halves, start=1):
            sampler = PatchSampler(  # one seed for both: the same places, the same flips
                half,
                config.imsize_A,
                seed=(config.seed, 2),
                flips=config.flips,
                rotations=config.rotations,
            )
            pin = device.type == "cuda"
            batches[f"half {number}"] = Prefetcher(sampler, config.batch_size, pin=pin)
        return batches

    def fit_patches(self, config: Config) -> tuple[Tensor, Tensor]:
        """Draw the patches that the degradation is fitted to, the same in every training."""
        count = fit_count(config.imsize_B)
        sizes = {"A": config.imsize_A, "B": config.imsize_B}
        samplers = (
            PatchSampler(self._volumes[d], sizes[d], seed=(_FIT_SEED, n), flips=False)
            for n, d in enumerate(("A", "B"))
        )
        first, second = (sampler.draw(count) for sampler in samplers)
        return first, second

    def grey_scales(self) -> dict[str, dict[str, float]]:
        """The grey scale of each domain that was standardised on load, over all its volumes."""
        scales = {domain: _grey_scale(volumes) for domain, volumes in self._volumes.items()}
        return {d: {"mean": s.mean, "std": s.std} for d, s in scales.items() if s}

    def statistics(self) -> dict[str, list[dict[str, Any]]]:
        """What was measured of each volume that is trained on, by domain."""
        return {
            domain: [{"volume": v.name, **asdict(v.statistics)} for v in volumes]
            for domain, volumes in self._volumes.items()
        }

    def close(self) -> None:
        """End the threads that draw ahead; the next batch starts them again."""
        for batches in self._batches.values():
            batches.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the samplers stand after the last batches handed out."""
        return {domain: batches.state_dict() for domain, batches in self._batches.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batches after those handed out when `state` was taken."""
        for domain, batches in self._batches.items():
            batches.load_state_dict(state[domain])


def _grey_scale(volumes: Sequence[Volume]) -> GreyScale | None:
    """Means over the volumes, weighted by their voxels; None where one was left as it is."""
    if any((v.mean, v.std) == (0.0, 1.0) for v in volumes):
        return None
    counts = [v.statistics.count for v in volumes]
    total = sum(counts)
    mean = sum(n * v.mean for n, v in zip(counts, volumes, strict=True)) / total
    # Each volume has its own mean taken off, so theirs don't add to the spread.
    variance = sum(n * v.std**2 for n, v in zip(counts, volumes, strict=True)) / total
    return GreyScale(mean, math.sqrt(variance))
