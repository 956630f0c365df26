"""The data of a training, both domains: volumes, batches drawn from them, and grey scales."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    Scan,
    Size,
    Volume,
    open_volumes,
)
from cyclegan.data.fingerprint import check_unchanged
from cyclegan.data.scan import by_place, find_scan, fingerprint_of
from cyclegan.degrader import fit_count
from cyclegan.errors import DataError
from cyclegan.slurm import limited_bytes

logger = logging.getLogger(__name__)

Domain = Literal["A", "B"]

# Not the training's seed: trials of a study must differ only in what is searched.
_FIT_SEED = 2_025


@dataclass(frozen=True)
class GreyScale:
    """Meaning of a domain's standardised values: value x std + mean, in the files' units."""

    mean: float
    std: float


class TrainingData:
    """Opens the files that a configuration names, in one memory budget, and hands out batches.

    The regions that are trained on define the grey scale of their scan; its other regions, such as
    those of the validation, get the same one.

    With `loads` off, volumes are opened to check them, and none is loaded into memory. `rank` and
    `ranks` tell which part of each batch is wanted (see `cyclegan.ranks`).

    Errors: `DataError` for files that can't be used or have changed since they were prepared, and
    for patches that don't fit.
    """

    hash_cache: Path | None = None
    """File that stores the hashes of large files, see `cyclegan.data.fingerprint`."""

    def __init__(
        self,
        config: Config,
        device: torch.device,
        *,
        loads: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._part = {"rank": rank, "ranks": ranks}
        self.budget = MemoryBudget(limited_bytes(config.memory_budget_gb * 1e9), loads=loads)
        self.spec_A = DatasetSpec.load(Path(config.data_A))
        self.spec_B = DatasetSpec.load(Path(config.data_B))
        for spec in (self.spec_A, self.spec_B):
            check_unchanged((*spec.train, *spec.validate), spec.source)
        self._scans: dict[Domain, tuple[Scan, ...]] = {"A": (), "B": ()}
        self._fingerprinted = False
        self._rescaled: set[str] = set()
        self._volumes: dict[Domain, list[Volume]] = {
            "A": self.volumes(config, "A", self.spec_A.train),
            "B": self.volumes(config, "B", self.spec_B.train),
        }
        for domain, volumes in self._volumes.items():
            self._scans[domain] = tuple(by_place((), known=(v.scan for v in volumes)).values())
        self._batches: dict[str, Prefetcher] = {}
        sizes: dict[Domain, Size] = {"A": config.imsize_A, "B": config.imsize_B}
        for number, (domain, size) in enumerate(sizes.items()):
            sampler = PatchSampler(
                self._volumes[domain],
                size,
                seed=(config.seed, number),
                flips=config.flips,
                rotations=config.rotations,
            )
            pin = device.type == "cuda"
            self._batches[domain] = Prefetcher(sampler, config.batch_size, pin=pin, **self._part)
        if any(config.lambdas.H_A):
            self._batches |= self._half_batches(config, device)

    def volumes(self, config: Config, domain: Domain, entries: Sequence[Any]) -> list[Volume]:
        """Open volumes of a domain as the configuration says, within the shared memory budget.

        Volumes of a scan that is trained on get its grey scale.
        """
        volumes = open_volumes(
            entries,
            channels=config.channels_A if domain == "A" else config.channels_B,
            standardise=config.standardise,
            budget=self.budget,
            scans=self._scans[domain],
        )
        self._rescaled |= {f"{v.name}{v.limits}" for v in volumes if not v.has_own_scale}
        return volumes

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next batches of A and B, (B, C, Z, Y, X), on the host."""
        return self._batches["A"].next(), self._batches["B"].next()

    def next_halves(self) -> tuple[Tensor, Tensor] | None:
        """Return batches of both half scans of A, the same places; None if they aren't used."""
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
            batches[f"half {number}"] = Prefetcher(
                sampler, config.batch_size, pin=pin, **self._part
            )
        return batches

    def fit_patches(self, config: Config) -> tuple[Tensor, Tensor]:
        """Draw the patches to which the degradation is fitted, the same in every training."""
        count = fit_count(config.imsize_B)
        sizes: dict[Domain, Size] = {"A": config.imsize_A, "B": config.imsize_B}
        first, second = (
            PatchSampler(self._volumes[d], size, seed=(_FIT_SEED, n), flips=False).draw(count)
            for n, (d, size) in enumerate(sizes.items())
        )
        return first, second

    def grey_scales(self) -> dict[str, dict[str, float]]:
        """Return the grey scale, over all volumes, of each domain that was standardised on load."""
        scales = {domain: _grey_scale(volumes) for domain, volumes in self._volumes.items()}
        return {d: {"mean": s.mean, "std": s.std} for d, s in scales.items() if s}

    def scans(self) -> dict[str, list[dict[str, Any]]]:
        """Return the scans that are trained on, by domain, as plain data to store with networks."""
        if not self._fingerprinted:  # only when it is needed: large files take a second
            for domain, scans in self._scans.items():
                self._scans[domain] = tuple(self._hashed(scan) for scan in scans)
            self._fingerprinted = True
        return {domain: [s.to_plain() for s in scans] for domain, scans in self._scans.items()}

    def restore_scans(self, stored: Mapping[str, Sequence[Mapping[str, Any]]] | None) -> bool:
        """Take the grey scales of a checkpoint's `scans`; return True if they change any here.

        They differ in the last digits if another version or machine measured them. Files that have
        changed, and other files, keep the scales measured here. `stored` is None if the checkpoint
        comes from a version that standardised every region separately.
        """
        if stored is None:
            self._warn_of_old_rule()
            return False
        changed = False
        for domain, scans in self._scans.items():
            before = [Scan.from_plain(plain) for plain in stored[domain]]
            restored = tuple(self._restored(scan, before) for scan in scans)
            if restored == scans:
                continue
            changed, self._scans[domain] = True, restored
            by_dataset = by_place((), known=restored)
            for volume in self._volumes[domain]:
                volume.standardise_as(by_dataset[volume.scan.place])
        return changed

    def _hashed(self, scan: Scan) -> Scan:
        return replace(scan, fingerprint=fingerprint_of(scan.place, self.hash_cache))

    def _restored(self, scan: Scan, before: Sequence[Scan]) -> Scan:
        measured = [(old.regions, old.statistics) for old in before]
        if (scan.regions, scan.statistics) in measured:
            return scan
        old, _ = find_scan(before, scan.place, self.hash_cache)
        if old is None or old.regions != scan.regions:
            return scan
        return replace(scan, statistics=old.statistics)

    def _warn_of_old_rule(self) -> None:
        if self._rescaled:
            logger.warning(
                "the checkpoint comes from a version that standardised every region separately; "
                "from here on, %s shares one grey scale with all training regions of its scan, so "
                "scores before and after can't be compared",
                ", ".join(sorted(self._rescaled)),
            )

    def statistics(self) -> dict[str, list[dict[str, Any]]]:
        """Return the measured statistics of each volume that is trained on, by domain."""
        return {
            domain: [{"volume": v.name, **v.statistics.to_plain()} for v in volumes]
            for domain, volumes in self._volumes.items()
        }

    def close(self) -> None:
        """End the threads that draw batches ahead; the next batch starts them again."""
        for batches in self._batches.values():
            batches.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the samplers after the last batches handed out."""
        return {domain: batches.state_dict() for domain, batches in self._batches.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batches that followed when `state` was taken."""
        for domain, batches in self._batches.items():
            batches.load_state_dict(state[domain])


def _grey_scale(volumes: Sequence[Volume]) -> GreyScale | None:
    """Return the volumes' mean grey scale, weighted by voxels; None if one was left as it is."""
    if any((v.mean, v.std) == (0.0, 1.0) for v in volumes):
        return None
    counts = [v.statistics.count for v in volumes]
    total = sum(counts)
    mean = sum(n * v.mean for n, v in zip(counts, volumes, strict=True)) / total
    # Each volume's own mean is subtracted, so the means don't add to the spread.
    variance = sum(n * v.std**2 for n, v in zip(counts, volumes, strict=True)) / total
    return GreyScale(mean, math.sqrt(variance))
