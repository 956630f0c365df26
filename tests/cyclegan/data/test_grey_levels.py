"""Lost grey levels are found, and images that have few by nature raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest

from cyclegan.data.grey_levels import ENOUGH, GreyLevels, LevelSample, lost_levels

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=50_000)
INDEX = np.arange(NOISE.size)
PHASES = (RNG.random(NOISE.size) < 0.4).astype(np.float64)
SPARSE = np.where(INDEX % 10 == 0, 100 + 20 * NOISE, 0.0)
"""A tenth of the voxels is a sample, all others an empty background."""


def normal(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


LOST = {
    "an offset in float16": (np.round(30_000 + 5 * NOISE), "f2", lambda v: v),
    "attenuation per nanometre in float16": (1e-7 * (5 + NOISE), "f2", lambda v: v),
    "an offset in float32": (np.round(1e9 + 10 * NOISE), "f4", lambda v: v),
    "metal that sets the contrast": (np.where(INDEX % 50 == 0, 1e6, NOISE), "f2", normal),
    "a sample before a background": (30_000 + SPARSE / 5, "f2", lambda v: v),
    "a mask before an outlier": (np.where(INDEX % 50 == 0, 1e12, PHASES), "f2", normal),
}
KEPT = {
    "a scan": (30_000 + 500 * NOISE, "f2", normal),
    "a scan of 16 bits": (np.round(30_000 + 500 * NOISE), "f2", normal),
    "a scan of 8 bits": (np.clip(np.round(120 + 9 * NOISE), 0, 255), "f2", normal),
    "few levels of 8 bits": (np.clip(np.round(120 + NOISE), 0, 255), "f2", normal),
    "a mask": (PHASES, "f2", lambda v: v),
    "a standardised mask": (PHASES, "f2", normal),
    "labels": (np.floor(4 * RNG.random(NOISE.size)), "f2", normal),
    "phases with round-off": (PHASES + 1e-16 * NOISE, "f2", normal),
    "a background with round-off": (SPARSE + 1e-16 * NOISE, "f2", normal),
    "an empty background": (SPARSE, "f2", normal),
    "a constant": (np.ones(1000), "f2", lambda v: v),
    "nothing": (np.ones(0), "f2", lambda v: v),
}


@pytest.mark.parametrize("name", LOST)
def test_grey_levels_that_a_type_can_not_hold_are_found(name: str) -> None:
    values, dtype, scaled = LOST[name]
    found = lost_levels(values, scaled(values).astype(dtype))
    assert found is not None
    assert 2 * found.after <= found.before
    assert found.after < ENOUGH


@pytest.mark.parametrize("name", KEPT)
def test_images_that_keep_their_grey_levels_raise_no_alarm(name: str) -> None:
    values, dtype, scaled = KEPT[name]
    assert lost_levels(values, scaled(values).astype(dtype)) is None


def test_enough_steps_add_no_more_than_an_eightieth_of_the_bulk_s_deviation() -> None:
    step = (np.percentile(NOISE, 90) - np.percentile(NOISE, 10)) / ENOUGH
    added = np.std(np.round(NOISE / step) * step - NOISE)
    assert added < 1 / 80


def test_a_sample_is_taken_part_by_part_without_voxels_that_are_not_finite() -> None:
    sample = LevelSample(2)
    assert sample.lost() is None
    for part in np.split(np.round(30_000 + 5 * NOISE), 2):
        damaged = np.where(np.arange(part.size) % 3 == 0, np.nan, part)
        sample.add(damaged.reshape(10, -1), part.astype("f2").reshape(10, -1))
    found = sample.lost()
    assert found is not None
    assert found.before == 13


def test_the_text_counts_the_grey_values() -> None:
    assert GreyLevels(900, 1).text.startswith("only 1 grey value is left where most voxels lie")
    assert "33 distinct grey values" in GreyLevels(900, 33).text
