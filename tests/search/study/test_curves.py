"""Forecasts of learning curves: calibrated, also where early ranks are upside down."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from search.study.curves import CurvePrior, Scale

FRACTIONS = np.arange(1, 21) / 20


def pool(count: int, seed: int, *, level: float = 7.0, spread: float = 2.0) -> np.ndarray:
    """Return curves whose early ranks are upside down, (count, 21); the last column is the end."""
    random = np.random.default_rng(seed)
    quality = random.normal(size=(count, 1))
    apart = quality * (1.0 - 1.6 * np.exp(-FRACTIONS / 0.2))
    apart = apart + 0.1 * random.normal(size=apart.shape)
    curves = level + spread * (np.log(FRACTIONS) + apart)
    return np.concatenate([curves, curves[:, -1:]], axis=1)


@pytest.fixture(scope="module")
def prior() -> CurvePrior:
    return CurvePrior.from_curves(FRACTIONS, [pool(200, seed, level=seed) for seed in range(3)])


def units(prior: CurvePrior, curves: np.ndarray) -> np.ndarray:
    return Scale(float(np.median(curves[:, -1])), 2.0).units(curves, prior.typical, prior.width)


@pytest.mark.parametrize("seen", [2, 6, 12, 19])
def test_forecasts_of_other_trainings_are_calibrated(prior: CurvePrior, seen: int) -> None:
    curves = units(prior, pool(400, 9, level=-3.0))
    errors = []
    for curve in curves:
        reports = dict(zip(FRACTIONS[:seen].tolist(), curve[:seen].tolist(), strict=True))
        mean, variance = prior.forecast(reports)
        errors.append((curve[-1] - mean) / np.sqrt(variance))
    assert abs(np.mean(errors)) < 0.5
    assert 0.55 < np.mean(np.abs(errors) < 1.0) < 0.9


def test_a_low_start_raises_the_forecast_where_early_ranks_are_upside_down(
    prior: CurvePrior,
) -> None:
    assert prior.forecast({0.05: -0.5}).mean > prior.forecast({0.05: 0.5}).mean
    assert prior.forecast({0.9: -0.5}).mean < prior.forecast({0.9: 0.5}).mean


def test_more_reports_never_make_a_forecast_less_certain(prior: CurvePrior) -> None:
    variances = [
        prior.forecast(dict.fromkeys(FRACTIONS[:seen].tolist(), 0.0)).variance
        for seen in range(len(FRACTIONS) + 1)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(variances))
    assert variances[0] == pytest.approx(prior.end.variance)


def test_reports_between_the_recorded_places_are_interpolated(prior: CurvePrior) -> None:
    between = prior.forecast({0.475: 0.3}).mean
    around = sorted(prior.forecast({at: 0.3}).mean for at in (0.45, 0.5))
    assert around[0] - 0.05 <= between <= around[1] + 0.05
    assert prior.forecast({0.001: 0.0}) == prior.forecast({0.05: 0.0})


def test_the_scale_finds_level_and_spread_from_trials_at_any_place(prior: CurvePrior) -> None:
    curves = pool(40, 5, level=50.0, spread=8.0)
    places = np.random.default_rng(1).integers(5, 20, size=40)
    latest = [
        (float(FRACTIONS[k]), float(curve[k])) for k, curve in zip(places, curves, strict=True)
    ]
    scale = Scale.of_study(prior, latest)
    assert scale.level == pytest.approx(50.0, abs=4.0)  # half a spread
    assert 4.0 < scale.spread < 12.0
    alone = Scale.of_study(prior, latest[:1])
    assert alone.spread == pytest.approx(prior.spread, rel=0.3)


def test_complete_trials_teach_how_far_scores_rise_in_this_study(prior: CurvePrior) -> None:
    curves = pool(100, 4)
    curves[:, :-1] -= 3.0 * (1.0 - FRACTIONS)  # all of them rise more than the recorded ones
    complete = [
        (dict(zip(FRACTIONS.tolist(), curve[:-1].tolist(), strict=True)), float(curve[-1]))
        for curve in curves[:8]
    ]
    latest = [*((1.0, end) for _, end in complete), *((0.2, float(c[3])) for c in curves[8:])]
    truth = float(np.median(curves[:, -1]))
    before = Scale.of_study(prior, latest)
    after = Scale.of_study(prior.adapted(complete, before.spread), latest)
    assert abs(after.level - truth) < 0.4 * abs(before.level - truth)
    assert prior.adapted([], 2.0) is prior
    # Nothing is learned about places that the reports do not reach.
    short = [({0.5: 1.0, 1.0: 7.0}, 7.0)]
    assert (prior.adapted(short, 2.0).typical == prior.typical)[FRACTIONS.tolist().index(0.25)]


def test_units_are_logarithmic_far_below_and_can_be_turned_back() -> None:
    scale = Scale(level=5.0, spread=2.0)
    scores = np.array([-100.0, 2.0, 3.0, 5.0, 7.0])
    units = scale.units(scores)
    assert units[3:] == pytest.approx([0.0, 1.0])
    assert units[0] > -6.0
    assert (np.diff(units) > 0).all()
    assert scale.scores(units) == pytest.approx(scores)


def test_a_stored_prior_forecasts_the_same(prior: CurvePrior) -> None:
    again = CurvePrior.from_dict(json.loads(json.dumps(prior.to_dict())))
    reports = {0.1: -1.0, 0.4: 0.5}
    assert again.forecast(reports).mean == pytest.approx(prior.forecast(reports).mean, abs=0.05)
