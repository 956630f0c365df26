from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from viz.viewer.fit import packed, predicted, quantised

RANDOM = np.random.default_rng(1)
SHAPE = (7, 9, 11)
VOLUMES = {
    "noise": RANDOM.normal(size=SHAPE).astype(np.float32),
    "far from zero": 1e6 + RANDOM.normal(size=SHAPE),
    "tiny": 1e-9 * RANDOM.normal(size=SHAPE),
    "half precision": RANDOM.normal(size=SHAPE).astype(np.float16),
    "16 bit": RANDOM.integers(0, 65536, SHAPE).astype(np.uint16),
    "outliers": np.where(RANDOM.random(SHAPE) < 0.0005, 1e6, RANDOM.normal(size=SHAPE)),
    "missing": np.where(RANDOM.random(SHAPE) < 0.3, np.nan, RANDOM.normal(size=SHAPE)),
    "infinite": np.where(RANDOM.random(SHAPE) < 0.3, np.inf, RANDOM.normal(size=SHAPE)),
    "constant": np.full(SHAPE, -3.7),
    "nothing": np.full(SHAPE, np.nan),
    "one voxel": np.array([[[2.5]]]),
    "sparse": np.where(np.arange(693).reshape(SHAPE) == 300, 5.0, 0.0),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_what_is_not_clipped_is_exact_to_half_a_step(name: str) -> None:
    data = VOLUMES[name]
    codes = quantised(data)
    exact, shown = data.astype(np.float64), codes.values()
    finite = np.isfinite(exact)
    assert np.array_equal(finite, np.isfinite(shown))
    high = codes.low + codes.top * codes.step
    slack = 1e-9 * max(1e-300, abs(codes.low), abs(high))
    clipped = finite & ((exact < codes.low - slack) | (exact > high + slack))
    assert clipped.sum() == codes.below + codes.above
    inside = finite & ~clipped
    assert np.all(np.abs(exact - shown)[inside] <= codes.step / 2 * (1 + 1e-9) + slack)


def test_outliers_do_not_cost_the_others_their_resolution() -> None:
    data = np.random.default_rng(3).normal(size=(20, 30, 40))
    data[5, 5, 5:9] = 1e6
    outliers = quantised(data)
    assert outliers.above == 4
    assert outliers.step < 0.1
    # But a single structure in an empty volume must be visible.
    data = np.zeros((20, 30, 40))
    data[3, 4, 5] = 5
    sparse = quantised(data)
    assert sparse.above == 0
    assert sparse.values().max() == pytest.approx(5)


def test_normal_noise_is_not_clipped() -> None:
    codes = quantised(np.random.default_rng(2).normal(size=(40, 50, 60)))
    assert codes.below + codes.above == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, bool])
def test_integers_that_fit_stay_exact(dtype: type) -> None:
    data = (RANDOM.integers(0, 256, SHAPE) + (0 if dtype is np.uint8 else -100)).astype(dtype)
    assert np.array_equal(quantised(data).values(), data)


def test_missing_values_have_a_code_of_their_own() -> None:
    codes = quantised(VOLUMES["missing"])
    assert codes.invalid == 255
    assert np.array_equal(codes.codes == 255, np.isnan(VOLUMES["missing"]))
    assert quantised(VOLUMES["noise"]).invalid is None


def test_prediction_can_be_undone() -> None:
    """Run the same loop as the page's JavaScript."""
    codes = RANDOM.integers(0, 256, SHAPE).astype(np.uint8)
    left = predicted(codes)
    found = np.zeros([n + 1 for n in SHAPE], int)
    for z, y, x in np.ndindex(SHAPE):
        one = found[z + 1, y + 1, x] + found[z + 1, y, x + 1] + found[z, y + 1, x + 1]
        two = found[z + 1, y, x] + found[z, y + 1, x] + found[z, y, x + 1]
        guess = min(max((2 * one - two) // 3, 0), 255)
        found[z + 1, y + 1, x + 1] = (int(left[z, y, x]) + int(guess)) % 256
    assert np.array_equal(found[1:, 1:, 1:], codes)


def test_prediction_saves_a_fifth_of_a_volume_with_structure(make_blobs) -> None:
    codes = quantised(make_blobs(3, 0.05))
    plain = len(zlib.compress(codes.codes.tobytes(), 9))
    assert len(base64.b64decode(packed(codes))) < 0.81 * plain
