"""Air in the resin: ellipsoids along the fibres, in the widest pockets between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cyclegan.simulate.packing import Array, Fibres

SMALLEST, LARGEST = 0.15, 0.6
"""In-plane radius of a void, in fibre diameters."""

WIDEST = 0.15
"""Share of the places, by their distance to a fibre, in which a void may have its middle."""


@dataclass(frozen=True)
class Voids:
    """Ellipsoids, elongated along Z and round across it."""

    centres: Array
    """(voids, 3): z, y and x in voxels."""
    radii: Array
    """(voids,) across the fibres, in voxels."""
    lengths: Array
    """(voids,) half-axis along Z, in voxels."""

    def cut(self, z: float) -> tuple[Array, Array]:
        """Centres (n, 2) and radii (n,) of the discs that the plane `z` cuts out."""
        height = (z - self.centres[:, 0]) / self.lengths
        inside = np.abs(height) < 1
        return self.centres[inside, 1:], self.radii[inside] * np.sqrt(1 - height[inside] ** 2)


def place_voids(fibres: Fibres, diameter: float, share: float, rng: np.random.Generator) -> Voids:
    """Fill `share` of the volume with voids that don't touch, in the widest pockets.

    A void is at most as wide as its pocket; where the pockets run out, less is filled.
    """
    depth = len(fibres.centres)
    wanted = share * depth * float(fibres.period.prod())
    places, clearance = _pockets(fibres, diameter, rng)
    widest = clearance >= max(SMALLEST * diameter, float(np.quantile(clearance, 1 - WIDEST)))
    order = rng.permutation(np.flatnonzero(widest))
    drawn = rng.uniform(SMALLEST, LARGEST, len(clearance)) * diameter
    elongation = rng.uniform(1.5, 6, len(clearance))
    found = np.empty((0, 5))
    filled = 0.0
    for k in order:
        if filled >= wanted:
            break
        radius = min(drawn[k], clearance[k])
        void = np.array([*places[k], radius, radius * elongation[k]])
        if _is_free(void, found, fibres.period):
            found = np.vstack([found, void])
            filled += _volume_inside(void, depth)
    return Voids(found[:, :3], found[:, 3], found[:, 4])


def _pockets(fibres: Fibres, diameter: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Random places (n, 3) and their distance (n,) to the nearest fibre's surface."""
    from scipy.spatial import cKDTree

    per_slice = math.ceil(float(fibres.period.prod()) / diameter**2)
    places, clearance = [], []
    for z, centres in enumerate(fibres.centres):
        points = rng.random((per_slice, 2)) * fibres.period
        if len(centres):
            distance, fibre = cKDTree(centres, boxsize=fibres.period).query(points)
            clearance.append(distance - fibres.radii[fibre])
        else:
            clearance.append(np.full(per_slice, np.inf))
        places.append(np.column_stack([np.full(per_slice, z + 0.5), points]))
    return np.concatenate(places), np.concatenate(clearance)


def _is_free(void: Array, found: Array, period: Array) -> bool:
    apart = found[:, 1:3] - void[1:3]
    apart -= period * np.round(apart / period)
    beside = np.hypot(apart[:, 0], apart[:, 1]) > found[:, 3] + void[3]
    above = np.abs(found[:, 0] - void[0]) > found[:, 4] + void[4]
    return bool((beside | above).all())


def _volume_inside(void: Array, depth: int) -> float:
    """Volume of the part of an ellipsoid between z = 0 and z = `depth`, in voxels."""
    z, radius, half = void[0], void[3], void[4]
    low, high = np.clip((np.array([0, depth]) - z) / half, -1, 1)
    return float(math.pi * radius**2 * half * ((high - high**3 / 3) - (low - low**3 / 3)))
