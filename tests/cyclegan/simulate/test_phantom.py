"""The phantom: its materials, and fibres only where they fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label, maximum_filter, minimum_filter
from scipy.spatial import cKDTree

from cyclegan.errors import DataError, UsageError
from cyclegan.simulate import fibre_composite
from cyclegan.simulate.phantom import ATTENUATION, RESIN, Fibres, _Canvas, pack_fibres

SHAPE = (64, 96, 96)


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    """The phantom, relative to a fibre's attenuation."""
    volume = fibre_composite(SHAPE, 3)
    assert volume.shape == SHAPE
    assert volume.dtype == np.float32
    return volume / ATTENUATION


@pytest.fixture(scope="module")
def fibres() -> Fibres:
    return pack_fibres(
        SHAPE,
        np.random.default_rng(1),
        diameter=8.75,
        diameter_sd=0.35,
        packing=0.55,
        pockets=0.35,
        gap=0.3,
        tilt_sd_degrees=0.5,
        waviness=1.5,
    )


def test_shares_of_fibre_resin_and_air(phantom: np.ndarray) -> None:
    # Thresholds half-way: a soft edge counts half on either side.
    assert 0.5 < (phantom > (1 + RESIN) / 2).mean() < 0.57
    assert 0.004 < (phantom < RESIN / 2).mean() < 0.011


def test_three_grey_levels(phantom: np.ndarray) -> None:
    counts, edges = np.histogram(phantom, 60, (-0.05, 1.15))
    middles = (edges[1:] + edges[:-1]) / 2

    def mode(low: float, high: float) -> float:
        inside = (middles > low) & (middles < high)
        return float(middles[inside][np.argmax(counts[inside])])

    assert mode(0.8, 1.2) == pytest.approx(1, abs=0.03)
    assert mode(0.4, 0.8) == pytest.approx(RESIN, abs=0.03)
    assert mode(-0.1, 0.4) == pytest.approx(0, abs=0.03)
    # Partly filled voxels lie between the levels, but form no peak there.
    for value in (0.3, 0.83):
        assert counts[np.argmin(abs(middles - value))] < 0.5 * counts.max()
    assert phantom.min() >= 0
    assert phantom.max() < 1.15


def test_levels_vary_as_much_as_they_should(phantom: np.ndarray) -> None:
    # Away from walls, where voxels hold one material only.
    darkest, brightest = minimum_filter(phantom, 3), maximum_filter(phantom, 3)
    resin = phantom[(darkest > 0.6) & (brightest < 0.74)]
    assert resin.std() / RESIN == pytest.approx(0.01, rel=0.2)
    fibre = phantom[darkest > 0.9]
    assert fibre.std() == pytest.approx(0.02, rel=0.3)


def test_fibres_do_not_go_through_each_other(fibres: Fibres) -> None:
    deepest = 0.0
    for centres in fibres.centres:
        pairs = cKDTree(centres, boxsize=fibres.period).query_pairs(10, output_type="ndarray")
        apart = centres[pairs[:, 0]] - centres[pairs[:, 1]]
        apart -= fibres.period * np.round(apart / fibres.period)
        gap = np.hypot(*apart.T) - fibres.radii[pairs].sum(axis=1)
        deepest = min(deepest, float(gap.min()))
    # Between two key planes splines may come a little closer than the gap allows.
    assert deepest > -0.5


def test_fibres_run_smoothly_along_z_and_tilt(fibres: Fibres) -> None:
    step = np.diff(fibres.centres, axis=0)
    step -= fibres.period * np.round(step / fibres.period)
    assert np.abs(step).max() < 0.5
    drift = step.sum(axis=0)
    assert drift.std() > np.tan(np.radians(0.5)) * (SHAPE[0] - 1) / 2


def test_pockets_make_the_density_uneven(fibres: Fibres) -> None:
    empty = np.random.default_rng(0).random((4_000, 2)) * fibres.period
    far = cKDTree(fibres.centres[0], boxsize=fibres.period).query(empty)[0]
    # No place in a regular packing of this density is farther than 6.6 voxels from a centre.
    assert (far > 8).mean() > 0.01


def test_breaks_are_across_fibres_and_voids_only_in_resin() -> None:
    broken = fibre_composite(SHAPE, 3, voids=0) / ATTENUATION
    intact = fibre_composite(SHAPE, 3, voids=0, broken=0) / ATTENUATION
    breaks, number = label(broken < 0.1)
    assert number >= 3
    for index in range(1, number + 1):
        where = np.argwhere(breaks == index)
        assert np.ptp(where[:, 0]) <= 5
        assert np.ptp(where[:, 1]) <= 10
    assert intact.min() > 0.5

    pocked = fibre_composite(SHAPE, 3, broken=0) / ATTENUATION
    air = pocked < 0.2
    assert air.mean() == pytest.approx(0.006, rel=0.5)
    assert (intact[air] < 0.87).all()


@pytest.mark.parametrize("radius", [1.5, 4.4])
def test_a_drawn_disc_has_its_area_wherever_it_lies(radius: float) -> None:
    canvas = _Canvas((20, 24))
    for centre in np.random.default_rng(0).random((20, 2)) * (20, 24):
        covered, lit = canvas.discs(centre[None], np.array([radius]), np.array([3.0]))
        voxels = canvas.coarse(covered)
        assert voxels.sum() == pytest.approx(np.pi * radius**2, rel=0.02)
        assert lit.sum() == pytest.approx(3 * covered.sum())
    # The middle of mass is where the centre was, half a voxel from the voxel's corner.
    covered, _ = canvas.discs(np.array([[9.3, 11.8]]), np.array([radius]), np.array([1.0]))
    voxels = canvas.coarse(covered)
    y, x = np.mgrid[:20, :24] + 0.5
    assert (voxels * y).sum() / voxels.sum() == pytest.approx(9.3, abs=0.02)
    assert (voxels * x).sum() / voxels.sum() == pytest.approx(11.8, abs=0.02)


def test_a_seed_fixes_the_phantom() -> None:
    shape = (8, 40, 40)
    assert np.array_equal(fibre_composite(shape, 1), fibre_composite(shape, 1))
    assert not np.array_equal(fibre_composite(shape, 1), fibre_composite(shape, 2))


def test_phantoms_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match="no room"):
        fibre_composite((8, 10, 40), 0)
    with pytest.raises(UsageError, match=r"packing = 0\.95"):
        fibre_composite((8, 40, 40), 0, packing=0.95)
