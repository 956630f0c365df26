"""The parts of the score: pseudo pairs, half scans, the reverse generator, shells and texture.

Pseudo pairs come first: real B made to look like A, so that the correct output is known. The gain
in decibels is relative to the best Gaussian filter: 0 is no better than a method that needs no
training. Voxels near the faces don't count: filters and networks see the padding there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from cyclegan.errors import DataError
from cyclegan.metrics.spectrum import (
    NULL_SPLITS,
    ShellSums,
    low_pass_correlation,
    null_distance_db,
    radial_power,
    radial_rows,
    shell_rows,
    shell_sums,
    spectrum_distance_db,
)
from cyclegan.metrics.wasserstein import PatchDistance
from cyclegan.score.deferred import Deferred
from cyclegan.score.degrade import (
    SEED_STREAM,
    Degradation,
    best_gaussian_mse,
    crop,
    fit_degradation,
    fitted_mse,
    to_fine,
)

MSE_FLOOR = 1e-4
"""Mean squared error, relative to the truth's variance, that counts as no error."""
GAIN_TOLERANCE = 1.25
"""Factor by which a network's contrast on pseudo pairs may be wrong without a loss of gain."""
RIM = 2
"""Voxels of A left out at every face of a patch."""


class PseudoPairs:
    """Degraded patches of B, and the gain from restoring them.

    Args:
        inputs_A, inputs_B: (N, C, Z, Y, X) and (M, C', sZ, sY, sX), standardised by domain. Only
            the first channel of each domain is judged; the others are degraded one by one.
        factor: s, the ratio of the resolutions.
        seed: seed of the noise.
        degradation: model of the first channel; by default it is fitted to the patches.
        noise: (K, 1, Z, Y, X), noise for the first channel instead of the model's.

    `inputs` (M, C, Z, Y, X) go into G_A, `truth` (M, 1, sZ, sY, sX) is the correct output.
    """

    def __init__(
        self,
        inputs_A: Tensor,
        inputs_B: Tensor,
        factor: int,
        seed: int,
        degradation: Degradation | None = None,
        noise: Tensor | None = None,
    ) -> None:
        self.truth = inputs_B[:, :1]
        self.rim = RIM * factor
        self.degradation = degradation or fit_degradation(inputs_A[:, :1], self.truth, factor)
        if noise is None:
            self.pseudo_A = self.degradation.apply(self.truth, seed)
        else:
            turns = torch.arange(len(self.truth), device=noise.device) % len(noise)
            self.pseudo_A = self.degradation.signal(self.truth) + noise[turns]
        self.inputs = self._all_channels(inputs_A, inputs_B, seed)
        self.variance = float(self.truth.var())
        self.baseline_mse, self.baseline_sigma = best_gaussian_mse(
            to_fine(self.pseudo_A, factor), self.truth, self.rim, factor
        )

    def _all_channels(self, inputs_A: Tensor, inputs_B: Tensor, seed: int) -> Tensor:
        """Return pseudo A with all of A's channels, each from B's same channel or B's last."""
        channels = [self.pseudo_A]
        for a in range(1, inputs_A.shape[1]):
            b = min(a, inputs_B.shape[1] - 1)
            source = inputs_B[:, b : b + 1]
            model = fit_degradation(inputs_A[:, a : a + 1], source, self.degradation.factor)
            channels.append(model.apply(source, seed + a))
        return torch.cat(channels, dim=1)

    def parts(self, restored: Tensor) -> dict[str, float]:
        """Return the gain over the Gaussian, and the slope and fitted gain that explain it.

        The Gaussian knows nothing of B's units, so it gets its best sigma and a free affine fit to
        the truth. The network was trained to give B's units, so it gets no offset and a slope only
        within `GAIN_TOLERANCE`, because the degradation's own gain is not known more precisely.
        """
        return self.deferred(restored).result()

    def deferred(self, restored: Tensor) -> Deferred[dict[str, float]]:
        """Return the same without waiting for the device."""
        truth, image = crop(self.truth, self.rim), crop(restored, self.rim)
        floor = MSE_FLOOR * self.variance

        def finish(slope: Tensor, mse: Tensor, fitted: Tensor) -> dict[str, float]:
            return {
                "pseudo_pair_gain_db": ratio_db(self.baseline_mse, float(mse), floor),
                "pseudo_pair_fitted_gain_db": ratio_db(self.baseline_mse, float(fitted), floor),
                "pseudo_pair_slope": float(slope),
            }

        return Deferred([*tolerant_mse(image, truth), fitted_mse(image, truth)], finish)


def tolerant_mse(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best slope of `image` to `truth`, and the error with the nearest allowed slope."""
    slope = (image * truth).mean() / image.square().mean().clamp_min(1e-30)
    allowed = slope.clamp(1 / GAIN_TOLERANCE, GAIN_TOLERANCE)
    return slope, (allowed * image - truth).square().mean()


def ratio_db(baseline_mse: float, mse: float, floor: float) -> float:
    """Return how much smaller `mse` is than the baseline's, in dB; `floor` is added to both."""
    return 10 * math.log10((baseline_mse + floor) / (mse + floor))


# -- Cross-half gain: the only part that measures errors on real A; it needs half scans --------
#
# Two half scans (every other projection) show the same structure under independent noise. The
# generator enhances one; the result, blurred like A again, is compared with the *other*, whose
# noise it can't know. The noise's share of that error is the same for every image and known from
# the difference of the halves, so it is subtracted: the rest estimates the error against the
# noise-free A. Noise and rings that the fitted degradation lacks count here.
#
# Source: Marcos-Morales 2023 (unsupervised mean squared error, uMSE and uPSNR, from noisy copies).


class CrossHalves:
    """Judge generators on two halves (N, C, Z, Y, X) of the same patches of A.

    `patches_B` (M, C', sZ, sY, sX) serve to fit the blur from B to a half. The halves are noisier
    than the scans of the training. Errors: `DataError` for halves that differ in shape.
    """

    def __init__(self, first: Tensor, second: Tensor, patches_B: Tensor, factor: int) -> None:
        if first.shape != second.shape:
            raise DataError(
                f"the halves' patches have shapes {tuple(first.shape)} and {tuple(second.shape)};"
                " give halves of one scan"
            )
        self.inputs = torch.cat([first, second])
        self._targets = crop(torch.cat([second, first])[:, :1], RIM)
        images = self.inputs[:, :1]
        self._degradation = fit_degradation(images, patches_B[:, :1], factor)
        self.noise = float((crop(images, RIM) - self._targets).square().mean()) / 2
        self._floor = MSE_FLOOR * float(self._targets.var())
        baseline, self.baseline_sigma = best_gaussian_mse(
            images, torch.cat([second, first])[:, :1], RIM
        )
        self.baseline_mse = max(baseline - self.noise, 0.0)

    def parts(self, enhance: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the gain over the best Gaussian; `enhance` maps to (2N, 1, sZ, sY, sX)."""
        return self.deferred(enhance).result()

    def deferred(self, enhance: Callable[[Tensor], Tensor]) -> Deferred[dict[str, float]]:
        """Return the same without waiting for the device."""
        image = crop(self._degradation.signal(enhance(self.inputs)), RIM)

        def finish(mse: Tensor) -> dict[str, float]:
            error = max(float(mse) - self.noise, 0.0)
            return {"cross_half_gain_db": ratio_db(self.baseline_mse, error, self._floor)}

        return Deferred([tolerant_mse(image, self._targets)[1]], finish)


# -- The reverse generator, B -> A: its own quality, and information hidden in fake B ----------
#
# An honest fake B no longer has A's noise, so no G_B can restore it, and the cycle's mean squared
# error is at least the noise's variance. A cycle that does better reads the noise from fake B,
# which shows it openly (G_A passed it on) or hides it at low amplitude: Chu 2017 showed that a low
# cycle loss rewards this. A little noise destroys hidden information; honest structure survives it.

PERTURBATION = 0.1
"""Standard deviation, relative to fake B's, of the noise that destroys hidden information."""


class Reverse:
    """Judge G_B on the same patches as G_A.

    `inputs_A` are (N, C, Z, Y, X), `inputs_B` (M, C', sZ, sY, sX); `noise_std` is the standard
    deviation of A's noise in A's units, from the degradation model.
    """

    def __init__(self, inputs_A: Tensor, inputs_B: Tensor, noise_std: float, seed: int) -> None:
        self._inputs_B, self.noise_std = inputs_B, noise_std
        self._real_A, self._real_B = inputs_A[:, :1], inputs_B[:, :1]
        self._power_A = radial_power(self._real_A)[1].mean(dim=0)
        self._variance_A = float(self._real_A.var())
        generator = torch.Generator().manual_seed(SEED_STREAM + seed)
        shape = (len(inputs_A), *inputs_B.shape[1:])
        noise = torch.randn(shape, generator=generator) * PERTURBATION
        self._noise = noise.to(inputs_B)

    def parts(self, fake_A: Tensor, outputs: Tensor, G_B: Generator) -> dict[str, float]:
        """Return the parts; `fake_A` is G_B(inputs_B), `outputs` are G_A(inputs_A)."""
        return self.deferred(fake_A, outputs, G_B).result()

    def deferred(
        self, fake_A: Tensor, outputs: Tensor, G_B: Generator
    ) -> Deferred[dict[str, float]]:
        """Return the same without waiting for the device."""
        floor, tiny = SPECTRUM_FLOOR * self._variance_A, 1e-6 * self._variance_A
        honest = max(self.noise_std**2, tiny)

        def finish(
            correlation: Tensor, rows: Tensor, closed_mse: Tensor, shaken_mse: Tensor
        ) -> dict[str, float]:
            closed, shaken, power = float(closed_mse), float(shaken_mse), rows.mean(dim=0)
            return {
                "lowpass_correlation_B": float(correlation),
                "spectrum_distance_A_db": spectrum_distance_db(power, self._power_A, floor),
                "noise_in_cycle_db": max(0.0, 10 * math.log10(honest / max(closed, tiny))),
                "cycle_fragility_db": 10 * math.log10((shaken + tiny) / (closed + tiny)),
            }

        tensors = [
            low_pass_correlation(fake_A, self._real_B),
            radial_rows(fake_A),
            self._cycle_mse(outputs, G_B),
            self._cycle_mse(outputs + self._noise * outputs.std(), G_B),
        ]
        return Deferred(tensors, finish)

    def _cycle_mse(self, outputs: Tensor, G_B: Generator) -> Tensor:
        closed = (
            run(G_B, outputs)[:, :1].nan_to_num(nan=0.0, posinf=1e4, neginf=-1e4).clamp(-1e4, 1e4)
        )
        return (closed - self._real_A).square().mean()


# -- Running a generator: in evaluation mode, in small batches, without side effects -----------

Generator = Callable[[Tensor], Tensor]
"""Function that maps (n, C, Z, Y, X) to (n, C', sZ, sY, sX)."""


BATCH = 4
"""Patches that a generator gets at once."""


def run(generator: Generator, inputs: Tensor) -> Tensor:
    """Return the outputs of `generator` for all `inputs`, (N, C', sZ, sY, sX), as float32."""
    with _evaluating(generator), _own_random_state(inputs.device), torch.no_grad():
        outputs = [generator(batch).detach().float() for batch in torch.split(inputs, BATCH)]
    return torch.cat(outputs)


@contextlib.contextmanager
def _evaluating(generator: Generator) -> Iterator[None]:
    """Set every layer to eval mode, and afterwards back to its own mode; modes may be mixed."""
    layers = list(generator.modules()) if isinstance(generator, nn.Module) else []
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Protect the global random state from a generator that draws random numbers."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


# -- Fourier shell correlations (FSC) of patches: correct structure, and real A against pseudo A
#
# On the pseudo pairs the truth is known. No filter, however good, changes the correlation of a
# shell of spatial frequency with the truth, because it multiplies signal and noise there alike: the
# *shell gain* of every filter is 0. Above 0 a network knows more than a filter can; below 0 it
# invents or loses structure.
#
# On real A the truth is unknown, but the FSC of input and output is known, as for pseudo A. If
# pseudo A looks like real A to the network, both curves are the same, up to chance. The *shell gap*
# is the distance between them in excess of its null (disjoint halves of the same patches): if it is
# large, results on the pseudo pairs do not hold for real A.
#
# Source: Koho 2019 judges restoration by FSC; the gap between two domains is this project's.


class Shells:
    """Shell gain and shell gap of generators; what all have in common is computed once."""

    def __init__(
        self, real_A: Tensor, pseudo_A: Tensor, truth: Tensor, factor: int, seed: int
    ) -> None:
        self.real_A, self.pseudo_A = to_fine(real_A, factor), to_fine(pseudo_A, factor)
        self.truth, self.seed = truth, seed
        self.input_correlation = shell_sums(self.pseudo_A, truth).correlation()

    def parts(self, fake_B: Tensor, restored: Tensor) -> dict[str, float]:
        """Return gain and gap, both means over the shells up to Nyquist, without unit."""
        return self.deferred(fake_B, restored).result()

    def deferred(self, fake_B: Tensor, restored: Tensor) -> Deferred[dict[str, float]]:
        """Return the same without waiting for the device."""

        def finish(of_truth: Tensor, of_real: Tensor, of_pseudo: Tensor) -> dict[str, float]:
            gains = ShellSums.of(of_truth).correlation() - self.input_correlation
            real, pseudo = ShellSums.of(of_real), ShellSums.of(of_pseudo)
            gap = _distance(real.correlation(), pseudo.correlation())
            null = math.hypot(_null(real, self.seed), _null(pseudo, self.seed)) / math.sqrt(2)
            return {"shell_gain": float(gains.mean()), "shell_gap": max(0.0, gap - null)}

        tensors = [
            shell_rows(restored, self.truth),
            shell_rows(self.real_A, fake_B),
            shell_rows(self.pseudo_A, restored),
        ]
        return Deferred(tensors, finish)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def _null(sums: ShellSums, seed: int) -> float:
    """Return the expected distance between the curves of two sets of this size and kind."""
    generator = torch.Generator().manual_seed(seed)
    half = len(sums.cross) // 2
    distances = []
    for _ in range(NULL_SPLITS):
        order = torch.randperm(len(sums.cross), generator=generator).numpy()
        distances.append(
            _distance(sums.correlation(order[:half]), sums.correlation(order[half : 2 * half]))
        )
    return sum(distances) / len(distances) / math.sqrt(2)


# -- Distance between the textures of fake B and real B: power spectrum, distribution of cubes -
#
# Both distances are in excess of their null, the distance between two sets of real B, which is
# measured between disjoint halves. Neither needs pairs, and neither can tell if texture is *true*.

SPECTRUM_FLOOR = 1e-2
"""Power, relative to white noise of real B's variance, added to both spectra: noise of a tenth of
B's standard deviation hardly shows, while its ratio to almost nothing would be many dB."""


CUBES_DB = 10.0
"""Weight of a distance of 1 in the cubes in `Texture.distance`, in dB of spectrum distance."""
MIN_ADVANTAGE_DB = 0.1
"""Advantage in dB with which residual noise replaces fitted noise: its distance from real A must be
smaller by this much."""


class Texture:
    """Measure sets of volumes against `real` (M, 1, Z, Y, X), M >= 2."""

    def __init__(self, real: Tensor, seed: int) -> None:
        self.floor = SPECTRUM_FLOOR * float(real.var())
        rows = radial_power(real)[1]
        self.power = rows.mean(dim=0)
        self.spectrum_null = null_distance_db(rows, self.floor, seed)
        self.patches = PatchDistance(real, seed)

    def parts(self, fake: Tensor) -> dict[str, float]:
        """Return both distances of `fake` (N, 1, Z, Y, X) in excess of their nulls."""
        return self.deferred(fake).result()

    def deferred(self, fake: Tensor) -> Deferred[dict[str, float]]:
        """Return the same without waiting for the device."""

        def finish(rows: Tensor, cubes: Tensor) -> dict[str, float]:
            distance = spectrum_distance_db(rows.mean(dim=0), self.power, self.floor)
            return {
                "spectrum_distance_db": max(0.0, distance - self.spectrum_null),
                "sliced_wasserstein": max(0.0, float(cubes) - self.patches.null),
            }

        return Deferred([radial_rows(fake), self.patches.distance(fake)], finish)

    def distance(self, fake: Tensor) -> float:
        """Return one distance of `fake` from both parts, in dB."""
        parts = self.parts(fake)
        return parts["spectrum_distance_db"] + CUBES_DB * parts["sliced_wasserstein"]
