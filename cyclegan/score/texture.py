"""How far fake B's texture lies from real B's: power spectrum, and the distribution of its cubes.

Both distances are what exceeds their null, the distance of two sets of real B, which is measured
between disjoint halves. Neither needs pairs, and neither says whether the texture is *true*.
"""

from __future__ import annotations

from torch import Tensor

from cyclegan.metrics.spectrum import null_distance_db, radial_power, spectrum_distance_db
from cyclegan.metrics.wasserstein import PatchDistance

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
