"""A phantom of a fibre composite, which is known exactly: round fibres in resin, breaks and voids.

It resembles glass and carbon fibre composites in synchrotron microCT: 7 um fibres at 0.8 um voxels,
all along Z, the rotation axis.

The fibres are packed at random, densely and without overlaps. Positions are drawn with the density
of a smooth random field, which leaves resin-rich pockets, then pushed apart until no two fibres
overlap: the collective rearrangement of random close packing (W. S. Jodrey and E. M. Tory, Physical
Review A 32, 1985, p. 2347), here in a plane that is periodic in Y and X. Along Z every fibre tilts
and all of them wave together; splines connect the planes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError, UsageError

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


ATTENUATION = 0.008
"""Attenuation per voxel of a fibre."""
RESIN = 0.67
"""Attenuation of the resin, relative to a fibre's."""
FIBRE_DIAMETER = 8.75
"""Mean width of a fibre in voxels."""
VOXEL_SIZE_UM = 0.8
"""Nominal length of a voxel in micrometres: fibres are 7 um wide."""
_FINER = 2
"""Pixels drawn per voxel in-plane, along Y and along X."""


def fibre_composite(
    shape: tuple[int, int, int],
    seed: int | np.random.Generator | np.random.SeedSequence,
    *,
    fibre_diameter: float = FIBRE_DIAMETER,
    diameter_sd: float = 0.04,
    packing: float = 0.55,
    pockets: float = 0.35,
    gap: float = 0.3,
    tilt_sd_degrees: float = 0.5,
    waviness: float = 1.5,
    broken: float = 0.12,
    voids: float = 0.006,
) -> NDArray[np.float32]:
    """Return the attenuation per voxel, (Z, Y, X), of a unidirectional fibre composite.

    Args:
        shape: (Z, Y, X) in voxels.
        seed: seed or generator of all random numbers.
        fibre_diameter: mean width of a fibre in voxels.
        diameter_sd: standard deviation of the width, relative to the mean.
        packing: share of the volume that fibres fill.
        pockets: standard deviation of the fibres' density, relative to its mean.
        gap: smallest distance between two fibres in voxels.
        tilt_sd_degrees: standard deviation of the tilt of single fibres.
        waviness: amplitude in voxels of the wave that all fibres follow.
        broken: share of fibres with an open break of 1.5 to 5 voxels along Z.
        voids: share of the volume that voids fill.

    Breaks and voids hold air. Fibres have about `ATTENUATION`, resin `RESIN` times that, air 0;
    partly filled voxels lie between.
    Errors: `DataError` if the shape can't hold a fibre, `UsageError` for a share not in 0..0.7.
    """
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 2 * fibre_diameter:
        raise DataError(
            f"a phantom of shape {shape} has no room for fibres of {fibre_diameter} voxels; "
            "it must be (Z, Y, X) with Y and X of at least two diameters"
        )
    for name, share in (("packing", packing), ("voids", voids), ("broken", broken)):
        if not 0 <= share <= 0.7:
            raise UsageError(f"{name} = {share} can't be made; it must be from 0 to 0.7")
    rng = np.random.default_rng(seed)
    fibres = pack_fibres(
        shape,
        rng,
        diameter=fibre_diameter,
        diameter_sd=diameter_sd * fibre_diameter,
        packing=packing,
        pockets=pockets,
        gap=gap,
        tilt_sd_degrees=tilt_sd_degrees,
        waviness=waviness,
    )
    whole = _unbroken(shape[0], len(fibres.radii), broken, rng)
    air = place_voids(fibres, fibre_diameter, voids, rng)
    brightness = 1 + 0.02 * rng.standard_normal(len(fibres.radii))
    resin = RESIN * (1 + 0.01 * _texture(shape, rng))
    canvas = _Canvas(shape[1:])
    volume = np.empty(shape, np.float32)
    for z in range(shape[0]):
        covered, lit = canvas.discs(fibres.centres[z], fibres.radii, whole[z] * brightness)
        (void,) = canvas.discs(*air.cut(z + 0.5))
        # Fibres displace voids: voids are in the resin only.
        left = np.clip(1 - covered - void, 0, None)
        volume[z] = ATTENUATION * (canvas.coarse(lit) + canvas.coarse(left) * resin[z])
    return volume


def _unbroken(depth: int, fibres: int, share: float, rng: np.random.Generator) -> Array:
    """Return the share of every fibre in every slice: (Z, fibres), 0 in a break, 1 elsewhere."""
    whole = np.ones((depth, fibres))
    for fibre in rng.permutation(fibres)[: round(share * fibres)]:
        start = rng.uniform(0, depth)
        end = start + rng.uniform(1.5, 5)
        slices = np.arange(depth)
        whole[:, fibre] -= np.clip(np.minimum(slices + 1, end) - np.maximum(slices, start), 0, 1)
    return whole


def _texture(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth noise, (Z, Y, X), of mean 0 and standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    noise: NDArray[np.float32] = gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), 1.0, mode="wrap"
    )
    noise -= noise.mean()
    noise /= noise.std()
    return noise


class _Canvas:
    """A periodic slice, drawn `_FINER` times finer than its voxels, with soft edges."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._fine = np.array(shape) * _FINER

    def discs(self, centres: Array, radii: Array, *values: Array) -> list[Array]:
        """Return the coverage of discs at `centres` (n, 2) in voxels, then coverage times values.

        All images are on the fine grid. Where soft edges add up to more than 1, they are scaled
        back to 1.
        """
        if not len(radii):
            return [np.zeros(self._fine)] * (1 + len(values))
        centre, radius = centres * _FINER - 0.5, radii * _FINER
        reach = np.arange(-math.ceil(radius.max()) - 1, math.ceil(radius.max()) + 3)
        first = np.floor(centre).astype(int)
        y, x = (first[:, axis, None] + reach for axis in range(2))
        distance = np.hypot((y - centre[:, :1])[:, :, None], (x - centre[:, 1:])[:, None, :])
        # An edge one fine pixel wide: the area that a straight edge would cover.
        coverage = np.clip(radius[:, None, None] - distance + 0.5, 0, 1)
        place = (y % self._fine[0])[:, :, None] * self._fine[1] + (x % self._fine[1])[:, None, :]
        weights = [coverage, *(coverage * value[:, None, None] for value in values)]
        images = [
            np.bincount(place.ravel(), weight.ravel(), self._fine.prod()).reshape(self._fine)
            for weight in weights
        ]
        excess = np.maximum(images[0], 1)
        return [image / excess for image in images]

    def coarse(self, image: Array) -> Array:
        """Return the mean over the fine pixels of every voxel: (Y, X)."""
        y, x = self._fine // _FINER
        mean: Array = image.reshape(y, _FINER, x, _FINER).mean(axis=(1, 3))
        return mean


# -- Air in the resin: ellipsoids along the fibres, in the widest pockets between them ---------

SMALLEST, LARGEST = 0.15, 0.6
"""Range of the in-plane radius of a void, in fibre diameters."""


WIDEST = 0.15
"""Share of the places, those farthest from a fibre, in which a void may have its middle."""


@dataclass(frozen=True)
class Voids:
    """Ellipsoidal voids, elongated along Z and round across it."""

    centres: Array
    """(voids, 3): z, y and x in voxels."""
    radii: Array
    """(voids,): half-axis across the fibres, in voxels."""
    lengths: Array
    """(voids,): half-axis along Z, in voxels."""

    def cut(self, z: float) -> tuple[Array, Array]:
        """Return centres (n, 2) and radii (n,) of the discs that the plane `z` cuts out."""
        height = (z - self.centres[:, 0]) / self.lengths
        inside = np.abs(height) < 1
        return self.centres[inside, 1:], self.radii[inside] * np.sqrt(1 - height[inside] ** 2)


def place_voids(fibres: Fibres, diameter: float, share: float, rng: np.random.Generator) -> Voids:
    """Fill `share` of the volume with voids that don't touch, in the widest pockets.

    A void is at most as wide as its pocket. If there are too few pockets, the share is smaller.
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
    """Return random places (n, 3) and their distance (n,) to the nearest fibre's surface."""
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
    """Return the volume of the part of an ellipsoid between z = 0 and z = `depth`, in voxels."""
    z, radius, half = void[0], void[3], void[4]
    low, high = np.clip((np.array([0, depth]) - z) / half, -1, 1)
    return float(math.pi * radius**2 * half * ((high - high**3 / 3) - (low - low**3 / 3)))
