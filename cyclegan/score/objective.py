"""The score of a generator: hard gates, parts, and the one number computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cyclegan.errors import DataError, UsageError
from cyclegan.metrics.spectrum import low_pass_correlation
from cyclegan.score.checkerboard import Checkerboard
from cyclegan.score.deferred import Deferred, combined
from cyclegan.score.degrade import Degradation
from cyclegan.score.parts import CrossHalves, Generator, PseudoPairs, Reverse, Shells, Texture, run

GATED = -100.0
"""Value of a generator that failed a gate; every other value lies above it."""
SPECTRUM_WEIGHT = 0.25
"""Cost of one dB of spectrum distance, in dB of gain. The best possible estimate of the truth lacks
texture; a random sample of what the truth might be has all the texture but twice the squared error,
hence 3 dB less gain. At 0.25 both score the same if the first is 12 dB short of texture."""
WASSERSTEIN_WEIGHT = 5.0
"""Cost of a sliced Wasserstein distance of 1, B's whole spread in every octave, in dB of gain. The
distance sees what a radial spectrum can't: frequencies beyond its sphere, and the distribution of
grey values."""
SHELL_WEIGHT = 20.0
"""Value of a shell gain of 1, in dB of gain. The mean squared error mostly depends on the strong
low frequencies; the shell gain depends as much on the faint high ones, in which structure is lost
first. Twelve trainings with known truth determined this weight and the one above: docs/score.md."""
CHECKERBOARD_WEIGHT = 40.0
"""Cost of a checkerboard whose amplitude is B's standard deviation, in dB of gain. An amplitude of
0.01 is just visible where grey values are smooth and costs 0.4 dB, less than the difference between
one good training and the next; 0.09, seen after 3,000 steps, is visible everywhere and costs
3.6 dB, as much as failing to denoise. The squared error of the former is 0.0001 of B's variance,
too little to change the gain."""


@dataclass(frozen=True)
class ScoreReport:
    """Score of a generator.

    `value` is the score, always finite. `parts` are its components, all finite; after a failed gate
    those not yet computed are missing. `gate` is the reason why a hard gate failed, or None; if one
    failed, the value is `GATED`.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    gate: str | None = None

    def metrics(self) -> dict[str, float]:
        """Return all numbers under their names in logs: `score`, `score/<part>`."""
        parts = {"gated": float(self.gate is not None), **self.parts}
        return {"score": self.value} | {f"score/{name}": part for name, part in parts.items()}


Result = Callable[[], Any]
_Judged = tuple[str | None, dict[str, float]]
"""The reason why a hard gate failed, or None, and the parts that are known."""


def _answers_at_once(tensor: Tensor) -> bool:
    """Return True if reading numbers of the tensor costs nothing, because it is on the host."""
    return tensor.device.type == "cpu"


def _number(
    name: str, tensor: Tensor, of: Callable[[float], float] = float
) -> Deferred[dict[str, float]]:
    return Deferred([tensor], lambda found: {name: of(float(found))})


class Score:
    """Judge generators on fixed held-out patches of both domains.

    Args:
        patches_A: (N, C, Z, Y, X), N >= 2, standardised by domain A's mean and standard deviation.
        patches_B: (M, C', sZ, sY, sX), M >= 2, standardised by domain B's; unpaired with A's.
        super_resolution: s, the ratio of B's resolution to A's.
        seed: seed of the noise in the pseudo pairs and of the draws for nulls and distances. The
            global random state does not change.
        halves: patches of two half scans of A, aligned with each other, (K, C, Z, Y, X) each.
        degradation: model of the pseudo pairs; by default it is fitted to the patches. A
            validation fits it to more patches than it judges.
        noise: (K, 1, Z, Y, X), noise for the pseudo pairs' first channel instead of the model's.

    The degradation model and the Gaussian baseline are computed once, here. A call then costs
    N + M generator forwards (M + 2N more with G_B, 2K with halves) and a few Fourier transforms,
    and gives the same numbers every time. It runs on the device of the patches, and waits for a GPU
    once. Errors: `DataError` if the patches' shapes don't match.
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
        """Score the generator A -> B; with `G_B` also report G_B's parts, which don't change the
        value.

        A generator maps (n, C, Z, Y, X) to (n, C', sZ, sY, sX) (G_B the reverse) on the patches'
        device. A module is in eval mode during the call; then each layer gets its mode back.
        """
        outputs = self._enhanced(G_A, self._inputs_A)
        fake_B = outputs[:, :1]
        first = self._of_fake(fake_B)
        if _answers_at_once(outputs) and first.result()[0] is not None:
            later = None  # a gate has failed already, and the rest takes time
        else:
            later = self._of_pairs(G_A, fake_B)
        reverse = None if G_B is None else self._of_reverse(outputs, G_B)
        parts = [part for part in (first, later, reverse) if part is not None]

        def finish(first: Result, *rest: Result) -> ScoreReport:
            gate, parts = first()
            others = list(rest)
            if later is not None:
                of_pairs = others.pop(0)
                if gate is None:
                    gate, more = of_pairs()
                    parts |= more
            for of_reverse in others:
                parts |= of_reverse()
            if gate is not None:
                return ScoreReport(GATED, parts, gate)
            return ScoreReport(max(value_of(parts), GATED + 1.0), parts)

        return combined(parts, finish).result()

    def _of_fake(self, fake_B: Tensor) -> Deferred[_Judged]:
        """Return the gate that `fake_B` fails, and its parts; none if it is not finite."""
        variance = self.pairs.variance

        def finish(finite: Result, flat: Result, *measured: Result) -> _Judged:
            if reason := finite():
                return reason, {}
            parts = {name: value for part in measured for name, value in part().items()}
            return flat() or inverted(parts["lowpass_correlation"]), parts

        return combined(
            [
                _non_finite(fake_B),
                _collapsed(fake_B, self.real_A, self.real_B),
                _number("contrast", fake_B.var(), lambda found: math.sqrt(found / variance)),
                _number("lowpass_correlation", low_pass_correlation(self.real_A, fake_B)),
                self.texture.deferred(fake_B),
                self.checkerboard.deferred(fake_B),
            ],
            finish,
        )

    def _of_pairs(self, G_A: Generator, fake_B: Tensor) -> Deferred[_Judged]:
        """Return the gate that the output for pseudo A fails, and all parts that need it."""
        restored = self._enhanced(G_A, self.pairs.inputs)[:, :1]
        measured = [self.pairs.deferred(restored), self.shells.deferred(fake_B, restored)]
        if self.halves is not None:
            halves = self.halves.deferred(lambda inputs: self._enhanced(G_A, inputs)[:, :1])
            measured.append(halves)

        def finish(finite: Result, *measured: Result) -> _Judged:
            if reason := finite():
                return reason, {}
            return None, {name: value for part in measured for name, value in part().items()}

        return combined([_non_finite(restored), *measured], finish)

    def _of_reverse(self, outputs: Tensor, G_B: Generator) -> Deferred[dict[str, float]]:
        """Return the parts of G_B; none if what it got, or what it gave, is not finite."""
        fake_A = self._fitting(run(G_B, self._inputs_B), self.real_A.shape[2:], "G_B")

        def finish(given: Result, made: Result, measured: Result) -> dict[str, float]:
            return {} if given() or made() else measured()

        gates = [_non_finite(outputs), _non_finite(fake_A)]
        return combined([*gates, self.reverse.deferred(fake_A[:, :1], outputs, G_B)], finish)

    def _enhanced(self, G_A: Generator, inputs: Tensor) -> Tensor:
        """Return the outputs with all their channels."""
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
    """Return the score of a generator that passed all gates, from its parts."""
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
                f"patches_{name} has shape {tuple(patches.shape)}; it must be (N, C, Z, Y, X) with"
                " at least 2 patches"
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
        raise DataError(
            f"patches_A has volumes of {tuple(patches_A.shape[2:])}; give 8 voxels or more an axis"
        )


# -- The hard gates: faults that make a generator unusable, whatever its numbers say -----------
#
# Each gate returns the reason as text, or None.

MAX_VOXEL = 1e4
"""Standardised intensity beyond which an output has diverged; this limit keeps all sums finite."""


MIN_CONTRAST = 0.05
"""Standard deviation of fake B, relative to real B's, below which it is flat."""
MIN_VARIETY = 0.05
"""Smallest allowed ratio of the variety of a generator's outputs to that of its inputs."""
MIN_CORRELATION = 0.1
"""Low-pass correlation of real A and fake B below which the contrast is inverted or lost."""


def non_finite(fake: Tensor) -> str | None:
    """Return the reason why the numbers in `fake` (N, 1, Z, Y, X) are unusable, or None."""
    return _non_finite(fake).result()


def _non_finite(fake: Tensor) -> Deferred[str | None]:
    voxels = fake.numel()

    def finish(bad: Tensor, largest: Tensor) -> str | None:
        if int(bad):
            return f"{int(bad)} of {voxels} voxels of the output are not finite"
        if float(largest) > MAX_VOXEL:
            return f"the output has diverged: a voxel of {float(largest):.2g} standard deviations"
        return None

    return Deferred([(~fake.isfinite()).sum(), fake.abs().max()], finish)


def collapsed(fake_B: Tensor, real_A: Tensor, real_B: Tensor) -> str | None:
    """Return the reason why `fake_B` = G_A(`real_A`) does not show its input, or None.

    It is flat if it has hardly any contrast in comparison with `real_B`. It is the same for all
    inputs if the outputs vary far less from patch to patch than the N different inputs do.
    """
    return _collapsed(fake_B, real_A, real_B).result()


def _collapsed(fake_B: Tensor, real_A: Tensor, real_B: Tensor) -> Deferred[str | None]:
    def finish(fake: Tensor, real: Tensor, *varieties: Tensor) -> str | None:
        contrast = math.sqrt(float(fake) / max(float(real), 1e-30))
        if contrast < MIN_CONTRAST:
            return f"the output is flat: its contrast is {contrast:.2g} of real B's"
        kept = _share(*varieties[:2]) / max(_share(*varieties[2:]), 1e-30)
        if kept < MIN_VARIETY:
            return f"different inputs give the same output: {kept:.2g} of their variety is left"
        return None

    tensors = [fake_B.var(), real_B.var(), *_variety(fake_B), *_variety(real_A)]
    return Deferred(tensors, finish)


def _variety(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance between volumes, voxel by voxel, and the whole variance."""
    return volumes.var(dim=0).mean(), volumes.var()


def _share(between: Tensor, whole: Tensor) -> float:
    return float(between) / max(float(whole), 1e-30)


def inverted(correlation: float) -> str | None:
    """Return the reason why a `low_pass_correlation` of input and output is too low, or None."""
    if correlation >= MIN_CORRELATION:
        return None
    what = "inverted" if correlation < -MIN_CORRELATION else "lost"
    return f"the contrast is {what}: low-pass correlation of real A and fake B {correlation:.2f}"
