"""The score of a process: built once for all trainings that are judged on the same patches.

All trials of a study have the same held-out patches, and what the score computes from them, a
fitted degradation and a few baselines, takes seconds. The last one built is kept, so a study that
searches the patch size holds no more of them than one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from cyclegan.score.degrade import fit_degradation
from cyclegan.score.objective import Score
from cyclegan.score.residual_noise import residual_noise

Made = TypeVar("Made")


def shared_score(
    patches_A: Tensor,
    patches_B: Tensor,
    fitted: Sequence[Tensor],
    super_resolution: int,
    halves: tuple[Tensor, Tensor] | None = None,
) -> Score:
    """Return the score that judges on these patches, with a model fitted to more of them.

    Args:
        patches_A, patches_B, super_resolution, halves: those of `Score`.
        fitted: patches (N, 1, Z, Y, X) of A and of B for the fit; few say too little about the blur
            between the domains.

    Errors: `DataError` if the patches' shapes don't match.
    """

    def build() -> Score:
        degradation = fit_degradation(fitted[0], fitted[1], super_resolution)
        return Score(
            patches_A,
            patches_B,
            super_resolution=super_resolution,
            halves=halves,
            degradation=degradation,
            noise=residual_noise(fitted[0], fitted[1], degradation, seed=0),
        )

    given = [patches_A, patches_B, *fitted, *(halves or ())]
    return _last.get(_fingerprint(given, super_resolution), build)


@dataclass
class _Last:
    """The last object that was made, and what it was made of."""

    key: str = ""
    made: object = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: str, build: Callable[[], Made]) -> Made:
        """Return the object of `key`; make it if it is not the last one."""
        with self.lock:
            if self.key != key:
                self.key, self.made = "", None  # before another one takes memory of the device
                self.made = build()
                self.key = key
            made: Made = self.made  # type: ignore[assignment]
            return made


_last = _Last()


def _fingerprint(tensors: Sequence[Tensor], super_resolution: int) -> str:
    """Return a hash of all values, and of every setting of PyTorch that may change a result."""
    found = hashlib.blake2b(digest_size=16)
    settings = (
        super_resolution,
        torch.get_num_threads(),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.are_deterministic_algorithms_enabled(),
    )
    found.update(repr(settings).encode())
    for tensor in tensors:
        found.update(repr((tuple(tensor.shape), tensor.dtype, tensor.device)).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
