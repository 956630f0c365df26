"""The score: gates, parts, and the one number made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cyclegan.errors import DataError, UsageError
from cyclegan.metrics.spectrum import low_pass_correlation
from cyclegan.score.checkerboard import Checkerboard
from cyclegan.score.degrade import Degradation
from cyclegan.score.parts import CrossHalves, Generator, PseudoPairs, Reverse, Shells, Texture, run

GATED = -100.0
"""Value of a generator that failed a gate; every other value lies above it."""
SPECTRUM_WEIGHT = 0.25
"""dB of gain that one dB of spectrum distance costs. The best possible estimate of what is there
lacks texture, and a sample of what could be there has twice its error, hence 3 dB less gain, but
all the texture. At 0.25 they are worth the same when the first is 12 dB short of texture."""
WASSERSTEIN_WEIGHT = 5.0
"""dB of gain that a sliced Wasserstein distance of 1, B's whole spread in every octave, costs. It
sees what a radial spectrum can't: frequencies beyond its sphere, and how grey values are spread."""
SHELL_WEIGHT = 20.0
"""dB of gain that a shell gain of 1 is worth. The mean squared error asks most about the strong low
frequencies; this asks as much about the faint fine ones, where structure is lost first. This weight
and the one above were chosen by twelve trainings whose truth is known: see docs/score.md."""
CHECKERBOARD_WEIGHT = 40.0
"""dB of gain that a checkerboard would cost whose amplitude is B's standard deviation. An amplitude
of 0.01 is just visible where grey values are smooth and costs 0.4 dB, less than what tells a good
training from the next; 0.09, seen after 3,000 steps, shows everywhere and costs 3.6 dB, as much as
failing to denoise. Its own squared error would be 0.0001 of B's variance, which no gain shows."""


@dataclass(frozen=True)
class ScoreReport:
    """What a generator got.

    `value`: the score, always finite. `parts`: its components, all finite; a gate leaves out those
    that were not reached. `gate`: why a hard gate failed, in words; then the value is `GATED`.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    gate: str | None = None

    def metrics(self) -> dict[str, float]:
        """All numbers under the names they are logged by: `score`, `score/<part>`."""
        parts = {"gated": float(self.gate is not None), **self.parts}
        return {"score": self.value} | {f"score/{name}": part for name, part in parts.items()}


class Score:
    """Judges generators on fixed held-out patches of both domains.

    Args:
        patches_A: (N, C, Z, Y, X), N >= 2, standardised by domain A's mean and standard deviation.
        patches_B: (M, C', sZ, sY, sX), M >= 2, standardised by domain B's; unpaired with A's.
        super_resolution: s, the ratio of B's resolution to A's.
        seed: of the noise in the pseudo pairs and of what is drawn for nulls and distances. The
            global random state is never touched.
        halves: patches of two half scans of A, aligned with each other, (K, C, Z, Y, X) each.
        degradation: of the pseudo pairs; fitted to the patches if not given. A validation fits it
            to more patches than it judges.
        noise: (K, 1, Z, Y, X), of the pseudo pairs' first channel in place of the degradation's.

    The degradation model and the Gaussian baseline are made here, once. A call then costs N + M
    generator forwards (M + 2N more with G_B, 2K with halves), a few Fourier transforms, and gives
    the same numbers every time. Works on the device of the patches. Raises `DataError` when the
    patches don't fit.
    """

    def __init__(
        self,
        patches_A: Tensor,
        patches_B: Tensor,
        *,
        super_resolution: int = 1,
        seed: int = 0,
        halves: tuple[Tensor, Tensor] | None = None,
        degradation: Degradation | None = None,
        noise: Tensor | None = None,
    ) -> None:
        _check_patches(patches_A, patches_B, super_resolution)
        self._inputs_A, self._inputs_B = patches_A.detach().float(), patches_B.detach().float()
        self.real_A, self.real_B = self._inputs_A[:, :1], self._inputs_B[:, :1]
        self.super_resolution = super_resolution
        self.pairs = PseudoPairs(
            self._inputs_A, self._inputs_B, super_resolution, seed, degradation, noise
        )
        self.texture = Texture(self.real_B, seed)
        self.checkerboard = Checkerboard(self.real_B, super_resolution)
        self.shells = Shells(self.real_A, self.pairs.pseudo_A, self.real_B, super_resolution, seed)
        self.halves = None
        if halves is not None:
            first, second = (half.detach().float() for half in halves)
            self.halves = CrossHalves(first, second, self._inputs_B, super_resolution)
        self.reverse = Reverse(
            self._inputs_A, self._inputs_B, self.pairs.degradation.noise_std, seed
        )

    def __call__(self, G_A: Generator, G_B: Generator | None = None) -> ScoreReport:
        """Score generator A -> B; with `G_B` its parts are reported as well and
        don't change the value.

        A generator maps (n, C, Z, Y, X) to (n, C', sZ, sY, sX) (G_B the reverse) on the patches'
        device. A module is set to eval mode for the call and then back, layer by layer.
        """
        outputs = self._enhanced(G_A, self._inputs_A)
        fake_B = outputs[:, :1]
        parts: dict[str, float] = {}
        gate = non_finite(fake_B)
        if gate is None:
            parts = self._parts_of_fake(fake_B)
            gate = collapsed(fake_B, self.real_A, self.real_B)
        if gate is None:
            gate = inverted(parts["lowpass_correlation"])
        if gate is None:
            restored = self._enhanced(G_A, self.pairs.inputs)[:, :1]
            gate = non_finite(restored)
            if gate is None:
                parts |= self.pairs.parts(restored) | self.shells.parts(fake_B, restored)
        if gate is None and self.halves is not None:
            parts |= self.halves.parts(lambda inputs: self._enhanced(G_A, inputs)[:, :1])
        if G_B is not None and not non_finite(outputs):
            parts |= self._parts_of_reverse(outputs, G_B)
        if gate is not None:
            return ScoreReport(GATED, parts, gate)
        return ScoreReport(max(value_of(parts), GATED + 1.0), parts)

    def _parts_of_fake(self, fake_B: Tensor) -> dict[str, float]:
        return {
            "contrast": math.sqrt(float(fake_B.var()) / self.pairs.variance),
            "lowpass_correlation": float(low_pass_correlation(self.real_A, fake_B)),
            **self.texture.parts(fake_B),
            **self.checkerboard.parts(fake_B),
        }

    def _parts_of_reverse(self, outputs: Tensor, G_B: Generator) -> dict[str, float]:
        fake_A = self._fitting(run(G_B, self._inputs_B), self.real_A.shape[2:], "G_B")
        return {} if non_finite(fake_A) else self.reverse.parts(fake_A[:, :1], outputs, G_B)

    def _enhanced(self, G_A: Generator, inputs: Tensor) -> Tensor:
        """The outputs with all their channels."""
        return self._fitting(run(G_A, inputs), self.real_B.shape[2:], "G_A")

    def _fitting(self, result: Tensor, shape: torch.Size, name: str) -> Tensor:
        if result.shape[2:] != shape:
            inputs = self.real_A if name == "G_A" else self.real_B
            raise DataError(
                f"{name} gave volumes of shape {tuple(result.shape[2:])} for patches of"
                f" {tuple(inputs.shape[2:])}; at super_resolution {self.super_resolution}"
                f" they must be {tuple(shape)}"
            )
        return result


def value_of(parts: Mapping[str, float]) -> float:
    """The one number of a generator that passed all gates."""
    return (
        parts["pseudo_pair_gain_db"]
        - SPECTRUM_WEIGHT * parts["spectrum_distance_db"]
        - WASSERSTEIN_WEIGHT * parts["sliced_wasserstein"]
        + SHELL_WEIGHT * parts["shell_gain"]
        - CHECKERBOARD_WEIGHT * parts["checkerboard"]
    )


def _check_patches(patches_A: Tensor, patches_B: Tensor, super_resolution: int) -> None:
    if super_resolution < 1:
        raise UsageError(f"super_resolution is {super_resolution}; it must be 1, 2 or 4")
    for name, patches in (("A", patches_A), ("B", patches_B)):
        if patches.dim() != 5 or len(patches) < 2:
            raise DataError(
                f"patches_{name} has shape {tuple(patches.shape)}; at least 2 patches,"
                " (N, C, Z, Y, X), are needed"
            )
        if not bool(patches.isfinite().all()):
            raise DataError(f"patches_{name} has voxels that are not finite; clean the volume")
    expected = tuple(super_resolution * size for size in patches_A.shape[2:])
    if tuple(patches_B.shape[2:]) != expected:
        raise DataError(
            f"patches_B has volumes of {tuple(patches_B.shape[2:])}; at super_resolution"
            f" {super_resolution} they must be {expected}"
        )
    if min(patches_A.shape[2:]) < 8:
        raise DataError(f"patches_A has volumes of {tuple(patches_A.shape[2:])}; 8 voxels or more")


# -- The hard gates: what makes a generator unusable, whatever its numbers say -----------------
#
# Each returns why, in words, or None.

MAX_VOXEL = 1e4
"""Standardised intensity beyond which an output has diverged; keeps all sums finite."""


MIN_CONTRAST = 0.05
"""Standard deviation of fake B, relative to real B's, below which it is flat."""
MIN_VARIETY = 0.05
"""How much of the variety between its inputs a generator's outputs must keep."""
MIN_CORRELATION = 0.1
"""Low-pass correlation of real A and fake B below which the contrast is inverted or lost."""


def non_finite(fake: Tensor) -> str | None:
    """Why `fake` (N, 1, Z, Y, X) is not usable as numbers, or None."""
    bad = int((~fake.isfinite()).sum())
    if bad:
        return f"{bad} of {fake.numel()} voxels of the output are not finite"
    largest = float(fake.abs().max())
    if largest > MAX_VOXEL:
        return f"the output has diverged: a voxel of {largest:.2g} standard deviations"
    return None


def collapsed(fake_B: Tensor, real_A: Tensor, real_B: Tensor) -> str | None:
    """Why `fake_B` = G_A(`real_A`) does not show its input, or None.

    Flat: hardly any contrast, measured against `real_B`. The same for all: the outputs of the N
    different patches vary far less from patch to patch than the inputs do.
    """
    contrast = math.sqrt(float(fake_B.var()) / max(float(real_B.var()), 1e-30))
    if contrast < MIN_CONTRAST:
        return f"the output is flat: its contrast is {contrast:.2g} of real B's"
    kept = _variety(fake_B) / max(_variety(real_A), 1e-30)
    if kept < MIN_VARIETY:
        return f"different inputs give the same output: {kept:.2g} of their variety is left"
    return None


def inverted(correlation: float) -> str | None:
    """Why a `low_pass_correlation` of input and output is no good, or None."""
    if correlation >= MIN_CORRELATION:
        return None
    what = "inverted" if correlation < -MIN_CORRELATION else "lost"
    return f"the contrast is {what}: low-pass correlation of real A and fake B {correlation:.2f}"


def _variety(volumes: Tensor) -> float:
    """Share of the variance that lies between volumes, voxel by voxel."""
    return float(volumes.var(dim=0).mean()) / max(float(volumes.var()), 1e-30)
