"""Random, dense packing of the fibres of a unidirectional composite, without overlaps.

Positions are drawn with the density of a smooth random field, which leaves resin-rich pockets, then
pushed apart until no two fibres overlap: the collective rearrangement of random close packing
(W. S. Jodrey and E. M. Tory, Physical Review A 32, 1985, p. 2347), here in a plane that is periodic
in Y and X. Along Z every fibre tilts and all of them wave together; splines connect the planes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

KEY_SPACING = 24
"""Distance in voxels along Z between the planes in which overlaps are resolved."""

MAX_PUSHES = 200
"""Most steps of pushing apart per plane; packings near 0.8 would need more."""


@dataclass(frozen=True)
class Fibres:
    """Fibre centre lines."""

    centres: Array
    """(Z, fibres, 2): y and x in voxels in the middle of every slice, modulo the period."""
    radii: Array
    """(fibres,) in voxels."""
    period: Array
    """(2,): lengths in voxels along y and x after which the arrangement repeats."""


def pack_fibres(
    shape: tuple[int, int, int],
    rng: np.random.Generator,
    *,
    diameter: float,
    diameter_sd: float,
    packing: float,
    pockets: float,
    gap: float,
    tilt_sd_degrees: float,
    waviness: float,
) -> Fibres:
    """Fill `shape` (Z, Y, X) with fibres along Z; see `fibre_composite` for the parameters."""
    from scipy.interpolate import CubicSpline

    depth = shape[0]
    period = np.array(shape[1:], dtype=float)
    number = max(1, round(packing * period.prod() / (math.pi / 4 * diameter**2)))
    radii = np.clip(rng.normal(diameter, diameter_sd, number), 0.5 * diameter, None) / 2
    positions = push_apart(
        _draw_positions(number, period, diameter, pockets, rng), radii, period, gap
    )
    slope = np.tan(np.radians(rng.normal(0, tilt_sd_degrees, (number, 2))))
    planes = max(2, math.ceil(depth / KEY_SPACING) + 1)
    wave = _Wave(period, max(depth, 4 * KEY_SPACING), waviness, rng)
    keys = [positions]
    for plane in range(1, planes):
        before, now = (wave.shift(positions, k * KEY_SPACING) for k in (plane - 1, plane))
        positions = push_apart(positions + slope * KEY_SPACING + now - before, radii, period, gap)
        keys.append(positions)
    spline = CubicSpline(np.arange(planes) * KEY_SPACING, np.stack(keys))
    return Fibres(spline(np.arange(depth) + 0.5) % period, radii, period)


def push_apart(positions: Array, radii: Array, period: Array, gap: float) -> Array:
    """Move overlapping discs apart until `gap` lies between any two, or `MAX_PUSHES` is reached.

    `positions`: (discs, 2), returned unwrapped, so that paths along Z stay continuous.
    """
    from scipy.spatial import cKDTree

    reach = 2 * radii.max() + gap
    moved = positions.copy()
    for _ in range(MAX_PUSHES):
        pairs = cKDTree(moved % period, boxsize=period).query_pairs(reach, output_type="ndarray")
        first, second = pairs[:, 0], pairs[:, 1]
        apart = moved[first] - moved[second]
        apart -= period * np.round(apart / period)
        distance = np.maximum(np.hypot(apart[:, 0], apart[:, 1]), 1e-9)
        overlap = radii[first] + radii[second] + gap - distance
        touching = overlap > 1e-3
        if not touching.any():
            break
        push = (apart / distance[:, None] * overlap[:, None] / 2)[touching]
        for axis in range(2):
            moved[:, axis] += np.bincount(first[touching], push[:, axis], len(moved))
            moved[:, axis] -= np.bincount(second[touching], push[:, axis], len(moved))
    return moved


def _draw_positions(
    number: int, period: Array, diameter: float, strength: float, rng: np.random.Generator
) -> Array:
    """Draw (number, 2) positions, fewer where a smooth random field of sd `strength` is low."""
    from scipy.ndimage import gaussian_filter

    cells = np.maximum(np.ceil(period).astype(int), 1)
    # Two diameters: pockets are wider than a fibre, but a volume of interest has many of them.
    field = gaussian_filter(rng.standard_normal(cells), 2 * diameter, mode="wrap")
    density = np.clip(1 + strength * (field - field.mean()) / max(field.std(), 1e-12), 0, None)
    chosen = rng.choice(density.size, number, p=density.ravel() / density.sum())
    corner = np.stack(np.unravel_index(chosen, density.shape), axis=1)
    return (corner + rng.random((number, 2))) % period


class _Wave:
    """A displacement that varies slowly with z and, more slowly, across the bundle."""

    def __init__(
        self, period: Array, length: float, amplitude: float, rng: np.random.Generator
    ) -> None:
        self._amplitude = amplitude
        self._rate = 2 * math.pi / (length * rng.uniform(0.8, 1.6, 2))
        self._phase = rng.uniform(0, 2 * math.pi, 2)
        # One period across keeps the displacement continuous where the plane repeats.
        self._across = 2 * math.pi / period

    def shift(self, positions: Array, z: float) -> Array:
        """Return the displacement (fibres, 2) of fibres at `positions` in the plane `z`."""
        lag = 0.5 * np.sin(positions[:, ::-1] * self._across[::-1])
        shift: Array = self._amplitude * np.sin(self._rate * z + self._phase + lag)
        return shift
