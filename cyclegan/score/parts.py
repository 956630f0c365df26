"""Pseudo pairs: real B made to look like A, where what the generator should give back is known.

The gain in decibels is over the best Gaussian filter, so that 0 means: no better than what needs no
training at all. Voxels near the faces don't count: filters and networks see the padding there.
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
    shell_sums,
    spectrum_distance_db,
)
from cyclegan.metrics.wasserstein import PatchDistance
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
"""Mean squared error, relative to the truth's variance, taken as no error at all."""
GAIN_TOLERANCE = 1.25
"""Factor by which a network's contrast on pseudo pairs may be off before it costs gain."""
RIM = 2
"""Voxels of A left out at every face of a patch."""


class PseudoPairs:
    """Degraded patches of B and what restoring them is worth.

    Args:
        inputs_A, inputs_B: (N, C, Z, Y, X) and (M, C', sZ, sY, sX), standardised by domain. Of
            several channels the first of each domain is judged; the others are made one by one.
        factor: s, the ratio of the resolutions.
        seed: of the noise.
        degradation: of the first channel; fitted to the patches if not given.
        noise: (K, 1, Z, Y, X), what the first channel gets in place of the degradation's noise.

    `inputs` (M, C, Z, Y, X) is what G_A gets, `truth` (M, 1, sZ, sY, sX) what it should give.
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
        """Pseudo A with all channels of A, each from B's channel of the same number or its last."""
        channels = [self.pseudo_A]
        for a in range(1, inputs_A.shape[1]):
            b = min(a, inputs_B.shape[1] - 1)
            source = inputs_B[:, b : b + 1]
            model = fit_degradation(inputs_A[:, a : a + 1], source, self.degradation.factor)
            channels.append(model.apply(source, seed + a))
        return torch.cat(channels, dim=1)

    def parts(self, restored: Tensor) -> dict[str, float]:
        """The gain over the Gaussian, and what tells its faults apart: slope, and gain when fitted.

        The Gaussian knows nothing of B's units, so it gets its best sigma and a free affine fit to
        the truth. The network was trained to speak B's units and gets no offset and a slope only
        within `GAIN_TOLERANCE`, because the degradation's own gain is not known better than that.
        """
        truth, image = crop(self.truth, self.rim), crop(restored, self.rim)
        slope, mse = tolerant_mse(image, truth)
        floor = MSE_FLOOR * self.variance
        return {
            "pseudo_pair_gain_db": ratio_db(self.baseline_mse, mse, floor),
            "pseudo_pair_fitted_gain_db": ratio_db(
                self.baseline_mse, fitted_mse(image, truth), floor
            ),
            "pseudo_pair_slope": slope,
        }


def tolerant_mse(image: Tensor, truth: Tensor) -> tuple[float, float]:
    """The best slope of `image` to `truth`, and the error with as much of it as is allowed."""
    slope = float((image * truth).mean() / image.square().mean().clamp_min(1e-30))
    allowed = min(max(slope, 1 / GAIN_TOLERANCE), GAIN_TOLERANCE)
    return slope, float((allowed * image - truth).square().mean())


def ratio_db(baseline_mse: float, mse: float, floor: float) -> float:
    """How much smaller `mse` is than that of the baseline, in dB; errors below `floor` are one."""
    return 10 * math.log10((baseline_mse + floor) / (mse + floor))


# -- Cross-half gain: the one part of the score that knows real A's own truth, where halves exist
#
# Two half scans (every other projection) show the same structure under independent noise. The
# generator enhances one; made as blurred as A again it is compared with the *other*, whose noise it
# can't know. What the noise adds to that error is the same for every image and known from the
# difference of the halves, so it is taken off: what remains estimates the error against the
# noise-free A. Noise and rings that the fitted degradation lacks count here.
#
# Source: Marcos-Morales 2023 (unsupervised mean squared error, uMSE and uPSNR, from noisy copies).


class CrossHalves:
    """Judges generators on two halves (N, C, Z, Y, X) of the same patches of A.

    `patches_B` (M, C', sZ, sY, sX) tells how B is blurred into a half. The halves are noisier than
    the scan that a network was trained on. Errors: `DataError` for halves that differ in shape.
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
        """The gain over the best Gaussian; `enhance` maps `inputs` to (2N, 1, sZ, sY, sX)."""
        image = crop(self._degradation.signal(enhance(self.inputs)), RIM)
        _, mse = tolerant_mse(image, self._targets)
        error = max(mse - self.noise, 0.0)
        return {"cross_half_gain_db": ratio_db(self.baseline_mse, error, self._floor)}


# -- What the other generator, B -> A, tells: its own quality, and whether fake B hides
# information
#
# An honest fake B no longer has A's noise, so no G_B can give it back, and the cycle's mean squared
# error is at least the noise's variance. A cycle that does better reads the noise off fake B, where
# it stands openly (it was passed on) or hidden at low amplitude: Chu 2017 showed that a low cycle
# loss rewards this. What is hidden breaks under a little noise, which honest structure survives.

PERTURBATION = 0.1
"""Standard deviation, relative to fake B's, of the white noise that breaks what is hidden."""


class Reverse:
    """Judges G_B on the same patches as G_A.

    `inputs_A` (N, C, Z, Y, X), `inputs_B` (M, C', sZ, sY, sX); `noise_std` of A's noise in A's
    units, from the degradation model.
    """

    def __init__(self, inputs_A: Tensor, inputs_B: Tensor, noise_std: float, seed: int) -> None:
        self._inputs_B, self.noise_std = inputs_B, noise_std
        self._real_A, self._real_B = inputs_A[:, :1], inputs_B[:, :1]
        self._power_A = radial_power(self._real_A)[1].mean(dim=0)
        generator = torch.Generator().manual_seed(SEED_STREAM + seed)
        shape = (len(inputs_A), *inputs_B.shape[1:])
        noise = torch.randn(shape, generator=generator) * PERTURBATION
        self._noise = noise.to(inputs_B)

    def parts(self, fake_A: Tensor, outputs: Tensor, G_B: Generator) -> dict[str, float]:
        """Of `fake_A` = G_B(inputs_B) and of the cycle over `outputs` = G_A(inputs_A)."""
        power = radial_power(fake_A)[1].mean(dim=0)
        floor = SPECTRUM_FLOOR * float(self._real_A.var())
        closed = self._cycle_mse(outputs, G_B)
        shaken = self._cycle_mse(outputs + self._noise * outputs.std(), G_B)
        tiny = 1e-6 * float(self._real_A.var())
        honest = max(self.noise_std**2, tiny)
        return {
            "lowpass_correlation_B": float(low_pass_correlation(fake_A, self._real_B)),
            "spectrum_distance_A_db": spectrum_distance_db(power, self._power_A, floor),
            "noise_in_cycle_db": max(0.0, 10 * math.log10(honest / max(closed, tiny))),
            "cycle_fragility_db": 10 * math.log10((shaken + tiny) / (closed + tiny)),
        }

    def _cycle_mse(self, outputs: Tensor, G_B: Generator) -> float:
        closed = (
            run(G_B, outputs)[:, :1].nan_to_num(nan=0.0, posinf=1e4, neginf=-1e4).clamp(-1e4, 1e4)
        )
        return float((closed - self._real_A).square().mean())


# -- Running a generator for judgement: in evaluation mode, in small batches, leaving no trace

Generator = Callable[[Tensor], Tensor]
"""Maps (n, C, Z, Y, X) to (n, C', sZ, sY, sX)."""


BATCH = 4
"""Patches a generator gets at once."""


def run(generator: Generator, inputs: Tensor) -> Tensor:
    """`generator`'s outputs for all `inputs`, (N, C', sZ, sY, sX), as float32."""
    with _evaluating(generator), _own_random_state(inputs.device), torch.no_grad():
        outputs = [generator(batch).detach().float() for batch in torch.split(inputs, BATCH)]
    return torch.cat(outputs)


@contextlib.contextmanager
def _evaluating(generator: Generator) -> Iterator[None]:
    """Every layer in eval mode, and afterwards in the mode it was in, which may be mixed."""
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
    """A generator that draws random numbers leaves the global state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


# -- Fourier shell correlations (FSC) of patches: is the structure there, and is it the input's?
#
# On the pseudo pairs the truth is known. No filter, however good, changes how well a shell of
# spatial frequency correlates with the truth, because it multiplies signal and noise there alike:
# the *shell gain* of every filter is 0. Above 0 a network knows more than a filter can; below it
# invents or loses structure.
#
# On real A no truth is known, but the FSC of input and output is, and for pseudo A as well. If
# pseudo A looks to the network like real A the two curves are one, up to chance. The *shell gap* is
# how far they lie apart, beyond its null (disjoint halves of the same patches): where it is large,
# what was seen on the pseudo pairs does not hold for real A.
#
# Source: Koho 2019 judges restoration by FSC; the gap between two domains is this project's.


class Shells:
    """Keeps what doesn't change: inputs on B's grid and how pseudo A correlates with the truth."""

    def __init__(
        self, real_A: Tensor, pseudo_A: Tensor, truth: Tensor, factor: int, seed: int
    ) -> None:
        self.real_A, self.pseudo_A = to_fine(real_A, factor), to_fine(pseudo_A, factor)
        self.truth, self.seed = truth, seed
        self.input_correlation = shell_sums(self.pseudo_A, truth).correlation()

    def parts(self, fake_B: Tensor, restored: Tensor) -> dict[str, float]:
        """Gain and gap, both means over the shells up to Nyquist, without unit."""
        restored_correlation = shell_sums(restored, self.truth).correlation()
        real, pseudo = shell_sums(self.real_A, fake_B), shell_sums(self.pseudo_A, restored)
        gap = _distance(real.correlation(), pseudo.correlation())
        null = math.hypot(_null(real, self.seed), _null(pseudo, self.seed)) / math.sqrt(2)
        return {
            "shell_gain": float((restored_correlation - self.input_correlation).mean()),
            "shell_gap": max(0.0, gap - null),
        }


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def _null(sums: ShellSums, seed: int) -> float:
    """Distance of the curves of two sets as large as this one, of the same kind."""
    generator = torch.Generator().manual_seed(seed)
    half = len(sums.cross) // 2
    distances = []
    for _ in range(NULL_SPLITS):
        order = torch.randperm(len(sums.cross), generator=generator).numpy()
        distances.append(
            _distance(sums.correlation(order[:half]), sums.correlation(order[half : 2 * half]))
        )
    return sum(distances) / len(distances) / math.sqrt(2)


# -- How far fake B's texture lies from real B's: power spectrum, and the distribution of its
# cubes
#
# Both distances are what exceeds their null, the distance of two sets of real B, which is measured
# between disjoint halves. Neither needs pairs, and neither says whether the texture is *true*.

SPECTRUM_FLOOR = 1e-2
"""Power, relative to white noise of real B's variance, added to both spectra: noise of a tenth of
B's standard deviation hardly shows, while its ratio to almost nothing would be many dB."""


CUBES_DB = 10.0
"""dB of spectrum distance that a distance of 1 in the cubes counts for in `Texture.distance`."""
MIN_ADVANTAGE_DB = 0.1
"""By how much noise that was found must be closer to real A than the fitted noise to be taken."""


class Texture:
    """Measures sets of volumes against `real` (M, 1, Z, Y, X), M >= 2."""

    def __init__(self, real: Tensor, seed: int) -> None:
        self.floor = SPECTRUM_FLOOR * float(real.var())
        rows = radial_power(real)[1]
        self.power = rows.mean(dim=0)
        self.spectrum_null = null_distance_db(rows, self.floor, seed)
        self.patches = PatchDistance(real, seed)

    def parts(self, fake: Tensor) -> dict[str, float]:
        """Both distances of `fake` (N, 1, Z, Y, X) beyond their nulls."""
        power = radial_power(fake)[1].mean(dim=0)
        spectrum = spectrum_distance_db(power, self.power, self.floor) - self.spectrum_null
        return {
            "spectrum_distance_db": max(0.0, spectrum),
            "sliced_wasserstein": max(0.0, self.patches(fake) - self.patches.null),
        }

    def distance(self, fake: Tensor) -> float:
        """Return one number for both, in dB: how far degraded B is from real A."""
        parts = self.parts(fake)
        return parts["spectrum_distance_db"] + CUBES_DB * parts["sliced_wasserstein"]
