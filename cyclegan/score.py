"""The objective of a hyperparameter study where no ground truth exists; higher is better.

```
held-out patches of A --G_A--> fake_B ---> gates: finite? alive? contrast upright?
                                      \\--> spectrum distance to real B            (sharp enough?)
held-out patches of B --degrade--> pseudo_A --G_A--> restored
                                      \\--> pseudo-pair gain over the best Gaussian (true enough?)
value = gain_db - SPECTRUM_WEIGHT * spectrum_distance_db
```

Neither part would do alone. The gain rewards what is right voxel by voxel, and a blur that smears
all that is uncertain is nearly right everywhere; the spectrum distance rewards the texture of B,
which invented texture has as well as true texture. A generator that passes the noise on loses on
both, a blurring one on the second, a hallucinating one on the first.

Of several channels the first of each domain is judged; the networks see all of them, and pseudo A's
channels are made one by one.

What it can't see: faults that the model of `cyclegan.degrade` lacks (rings, streaks), and noise in
B itself, which limits the gain for everyone alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cyclegan.degrade import best_gaussian_mse, crop, fit_degradation, fitted_mse, to_fine
from cyclegan.errors import DataError, UsageError
from cyclegan.spectrum import (
    low_pass_correlation,
    null_distance_db,
    radial_power,
    spectrum_distance_db,
)

Generator = Callable[[Tensor], Tensor]

GATED = -100.0
"""Value of a generator that failed a gate; every other value lies above it."""
SPECTRUM_WEIGHT = 0.25
"""dB of gain that one dB of spectrum distance costs. The best possible estimate of what is there
lacks texture, and a sample of what could be there has twice its error, hence 3 dB less gain, but
all the texture. At 0.25 they are worth the same when the first is 12 dB short of texture."""
SPECTRUM_FLOOR = 1e-2
"""Power, relative to white noise of real B's variance, added to both spectra: noise of a tenth of
B's standard deviation hardly shows, while its ratio to almost nothing would be many dB."""
MSE_FLOOR = 1e-4
"""Mean squared error, relative to real B's variance, taken as no error at all."""
MAX_VOXEL = 1e4
"""Standardised intensity beyond which an output has diverged; keeps all sums finite."""
MIN_CONTRAST = 0.05
"""Standard deviation of fake B, relative to real B's, below which it is flat."""
MIN_VARIETY = 0.05
"""How much of the variety between its inputs a generator's outputs must keep."""
MIN_CORRELATION = 0.1
"""Low-pass correlation of real A and fake B below which the contrast is inverted or lost."""
GAIN_TOLERANCE = 1.25
"""Factor by which a network's contrast on pseudo pairs may be off before it costs gain."""
RIM = 2
"""Voxels of A left out at every face of a patch: there filters and networks see the padding."""
BATCH = 4
"""Patches a generator gets at once."""


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
        seed: of the noise in the pseudo pairs. The global random state is never touched.

    The degradation model and the Gaussian baseline are made here, once. A call then costs N + M
    generator forwards (M more with G_B), a few Fourier transforms, and gives the same numbers every
    time. Works on the device of the patches. Raises `DataError` when the patches don't fit.
    """

    def __init__(
        self, patches_A: Tensor, patches_B: Tensor, *, super_resolution: int = 1, seed: int = 0
    ) -> None:
        _check_patches(patches_A, patches_B, super_resolution)
        self._inputs_A, self._inputs_B = patches_A.detach().float(), patches_B.detach().float()
        self.real_A, self.real_B = self._inputs_A[:, :1], self._inputs_B[:, :1]
        self.super_resolution = super_resolution
        self.rim = RIM * super_resolution
        self.degradation = fit_degradation(self.real_A, self.real_B, super_resolution)
        self.pseudo_A = self.degradation.apply(self.real_B, seed)
        self._pseudo_inputs = self._all_channels(seed)
        self.variance_B = _variance(self.real_B)
        self.baseline_mse, self.baseline_sigma = best_gaussian_mse(
            to_fine(self.pseudo_A, super_resolution), self.real_B, self.rim, super_resolution
        )
        rows = radial_power(self.real_B)[1]
        self._power_A = radial_power(self.real_A)[1].mean(dim=0)
        self._power_B = rows.mean(dim=0)
        self.spectrum_null = null_distance_db(rows, SPECTRUM_FLOOR * self.variance_B, seed)

    def _all_channels(self, seed: int) -> Tensor:
        """Pseudo A with all channels of A, each from B's channel of the same number or its last."""
        channels = [self.pseudo_A]
        for a in range(1, self._inputs_A.shape[1]):
            b = min(a, self._inputs_B.shape[1] - 1)
            source = self._inputs_B[:, b : b + 1]
            model = fit_degradation(self._inputs_A[:, a : a + 1], source, self.super_resolution)
            channels.append(model.apply(source, seed + a))
        return torch.cat(channels, dim=1)

    def __call__(self, G_A: Generator, G_B: Generator | None = None) -> ScoreReport:
        """Score generator A -> B; with `G_B` its contrast and spectrum are reported as well.

        A generator maps (n, C, Z, Y, X) to (n, C', sZ, sY, sX) (G_B the reverse) on the patches'
        device. A module is set to eval mode for the call and then back, layer by layer.
        """
        fake_B = self._run(G_A, self._inputs_A, self.real_B.shape[2:], "G_A")
        parts: dict[str, float] = {}
        gate = non_finite(fake_B)
        if gate is None:
            parts = self._parts_of_fake(fake_B)
            gate = collapsed(fake_B, self.real_A, self.real_B)
        if gate is None:
            gate = inverted(parts["lowpass_correlation"])
        if gate is None:
            restored = self._run(G_A, self._pseudo_inputs, self.real_B.shape[2:], "G_A")
            gate = non_finite(restored)
            if gate is None:
                parts |= self._parts_of_restored(restored)
        if G_B is not None:
            parts |= self._parts_of_reverse(G_B)
        if gate is not None:
            return ScoreReport(GATED, parts, gate)
        value = parts["pseudo_pair_gain_db"] - SPECTRUM_WEIGHT * parts["spectrum_distance_db"]
        return ScoreReport(max(value, GATED + 1.0), parts)

    def _parts_of_fake(self, fake_B: Tensor) -> dict[str, float]:
        distance = spectrum_distance_db(
            radial_power(fake_B)[1].mean(dim=0), self._power_B, SPECTRUM_FLOOR * self.variance_B
        )
        return {
            "contrast": math.sqrt(_variance(fake_B) / self.variance_B),
            "lowpass_correlation": float(low_pass_correlation(self.real_A, fake_B)),
            "spectrum_distance_db": max(0.0, distance - self.spectrum_null),
        }

    def _parts_of_restored(self, restored: Tensor) -> dict[str, float]:
        """The gain over the Gaussian, and what tells its faults apart: slope, and gain when fitted.

        The Gaussian knows nothing of B's units, so it gets its best sigma and a free affine fit to
        the truth. The network was trained to speak B's units and gets no offset and a slope only
        within `GAIN_TOLERANCE`, because the degradation's own gain is not known better than that.
        """
        truth, image = crop(self.real_B, self.rim), crop(restored, self.rim)
        slope = float((image * truth).mean() / image.square().mean().clamp_min(1e-30))
        allowed = min(max(slope, 1 / GAIN_TOLERANCE), GAIN_TOLERANCE)
        return {
            "pseudo_pair_gain_db": self._gain_db(float((allowed * image - truth).square().mean())),
            "pseudo_pair_fitted_gain_db": self._gain_db(fitted_mse(image, truth)),
            "pseudo_pair_slope": slope,
        }

    def _gain_db(self, mse: float) -> float:
        floor = MSE_FLOOR * self.variance_B
        return 10 * math.log10((self.baseline_mse + floor) / (mse + floor))

    def _parts_of_reverse(self, G_B: Generator) -> dict[str, float]:
        fake_A = self._run(G_B, self._inputs_B, self.real_A.shape[2:], "G_B")
        if non_finite(fake_A):
            return {}
        power = radial_power(fake_A)[1].mean(dim=0)
        floor = SPECTRUM_FLOOR * _variance(self.real_A)
        distance = spectrum_distance_db(power, self._power_A, floor)
        return {
            "lowpass_correlation_B": float(low_pass_correlation(fake_A, self.real_B)),
            "spectrum_distance_A_db": distance,
        }

    def _run(self, generator: Generator, inputs: Tensor, shape: torch.Size, name: str) -> Tensor:
        with _evaluating(generator), _own_random_state(inputs.device), torch.no_grad():
            outputs = [generator(batch).detach().float() for batch in torch.split(inputs, BATCH)]
        result = torch.cat(outputs)[:, :1]
        if result.shape[2:] != shape:
            raise DataError(
                f"{name} gave volumes of shape {tuple(result.shape[2:])} for patches of"
                f" {tuple(inputs.shape[2:])}; at super_resolution {self.super_resolution}"
                f" they must be {tuple(shape)}"
            )
        return result


def non_finite(fake: Tensor) -> str | None:
    """Gate: why `fake` (N, 1, Z, Y, X) is not usable as numbers, or None."""
    bad = int((~fake.isfinite()).sum())
    if bad:
        return f"{bad} of {fake.numel()} voxels of the output are not finite"
    largest = float(fake.abs().max())
    if largest > MAX_VOXEL:
        return f"the output has diverged: a voxel of {largest:.2g} standard deviations"
    return None


def collapsed(fake_B: Tensor, real_A: Tensor, real_B: Tensor) -> str | None:
    """Gate: why `fake_B` = G_A(`real_A`) does not show its input, or None.

    Flat: hardly any contrast, measured against `real_B`. The same for all: the outputs of the N
    different patches vary far less from patch to patch than the inputs do.
    """
    contrast = math.sqrt(_variance(fake_B) / max(_variance(real_B), 1e-30))
    if contrast < MIN_CONTRAST:
        return f"the output is flat: its contrast is {contrast:.2g} of real B's"
    kept = _variety(fake_B) / max(_variety(real_A), 1e-30)
    if kept < MIN_VARIETY:
        return f"different inputs give the same output: {kept:.2g} of their variety is left"
    return None


def inverted(correlation: float) -> str | None:
    """Gate: why a `low_pass_correlation` of input and output is no good, or None."""
    if correlation >= MIN_CORRELATION:
        return None
    what = "inverted" if correlation < -MIN_CORRELATION else "lost"
    return f"the contrast is {what}: low-pass correlation of real A and fake B {correlation:.2f}"


def _variance(volumes: Tensor) -> float:
    return float(volumes.var())


def _variety(volumes: Tensor) -> float:
    """Share of the variance that lies between volumes, voxel by voxel."""
    return float(volumes.var(dim=0).mean()) / max(_variance(volumes), 1e-30)


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
