"""Forecasts of learning curves: calibrated, also where early ranks are upside down."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest

from search.study.curves import Curve, CurvePrior, Scale

FRACTIONS = np.arange(1, 21) / 20


def pool(count: int, seed: int, *, level: float = 7.0, spread: float = 2.0) -> np.ndarray:
    """Return curves whose early ranks are upside down, (count, 41); the last report counts."""
    random = np.random.default_rng(seed)
    quality = random.normal(size=(count, 1))
    apart = quality * (1.0 - 1.6 * np.exp(-FRACTIONS / 0.2))
    apart = apart + 0.1 * random.normal(size=apart.shape)
    curves = level + spread * (np.log(FRACTIONS) + apart)
    return np.concatenate([curves, curves, curves[:, -1:]], axis=1)


def curve_of(values: Sequence[float], seen: int | None = None) -> Curve:
    """Return a row of a pool, up to some number of reports."""
    reports = dict(zip(FRACTIONS.tolist()[:seen], map(float, values), strict=False))
    scores = dict(zip(reports, map(float, values[len(FRACTIONS) :]), strict=False))
    return Curve(reports, scores)


def flat(*places: float, value: float = 0.0) -> Curve:
    """Return a curve with the same value everywhere."""
    return Curve(*[dict.fromkeys(places, value)] * 2)


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
        mean, variance = prior.forecast(curve_of(curve, seen))
        errors.append((curve[-1] - mean) / np.sqrt(variance))
    assert abs(np.mean(errors)) < 0.5
    assert 0.55 < np.mean(np.abs(errors) < 1.0) < 0.9


def test_a_low_start_raises_the_forecast_where_early_ranks_are_upside_down(
    prior: CurvePrior,
) -> None:
    low, high = (
        [prior.forecast(flat(at, value=v)).mean for at in (0.05, 0.9)] for v in (-0.5, 0.5)
    )
    assert low[0] > high[0]
    assert low[1] < high[1]


def test_more_reports_never_make_a_forecast_less_certain(prior: CurvePrior) -> None:
    variances = [
        prior.forecast(flat(*FRACTIONS[:seen].tolist())).variance
        for seen in range(len(FRACTIONS) + 1)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(variances))
    assert variances[0] == pytest.approx(prior.end.variance)


def test_reports_between_the_recorded_places_are_interpolated(prior: CurvePrior) -> None:
    between = prior.forecast(flat(0.475, value=0.3)).mean
    around = sorted(prior.forecast(flat(at, value=0.3)).mean for at in (0.45, 0.5))
    assert around[0] - 0.05 <= between <= around[1] + 0.05
    assert prior.forecast(flat(0.001)) == prior.forecast(flat(0.05))


def test_a_trial_keeps_its_best_score_but_what_came_after_counts_too() -> None:
    """Where the best report counts, both the score so far and the last reports say something."""
    random = np.random.default_rng(0)
    reports = random.normal(size=(300, 1)) + 0.8 * random.normal(size=(300, 20))
    scores = np.maximum.accumulate(reports, axis=1)
    curves = np.concatenate([reports, scores, scores[:, -1:]], axis=1)
    prior = CurvePrior.from_curves(FRACTIONS, [curves])
    scale = Scale(float(np.median(scores[:, -1])), prior.spread)

    def forecast(*values: float) -> float:
        places = FRACTIONS[: len(values)].tolist()
        best = np.maximum.accumulate(values).tolist()
        curve = Curve(*(dict(zip(places, part, strict=True)) for part in (values, best)))
        return float(scale.scores(prior.forecast(prior.units(curve, scale)).mean))

    lucky = forecast(0.0, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    steady = forecast(1.5, 1.5, 2.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5)
    never = forecast(*[0.0] * 10)
    assert never < lucky < steady
    assert lucky > 2.3


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
    # All of them rise more than the recorded ones.
    curves[:, :-1] -= 3.0 * (1.0 - np.tile(FRACTIONS, 2))
    complete = [curve_of(curve) for curve in curves[:8]]
    ends = [(1.0, float(curve[-1])) for curve in curves[:8]]
    latest = [*ends, *((0.2, float(c[3])) for c in curves[8:])]
    truth = float(np.median(curves[:, -1]))
    before = Scale.of_study(prior, latest)
    adapted = prior.adapted(complete, latest)
    after = Scale.of_study(adapted, latest)
    assert abs(after.level - truth) < 0.4 * abs(before.level - truth)
    assert prior.adapted([], latest) is prior
    # Nothing is learned about places that the reports do not reach.
    short = prior.adapted([Curve({0.5: 1.0, 1.0: 7.0}, {0.5: 1.0, 1.0: 7.0})], [(1.0, 7.0)])
    early = FRACTIONS.tolist().index(0.25)
    assert short.typical[early] == prior.typical[early]
    assert short.doubt[early] == prior.doubt[early]


def test_bad_complete_trials_do_not_change_what_is_typical_of_good_ones() -> None:
    """A slow training begins badly and ends badly: its rise says nothing about that of others."""

    def trainings(seed: int, rise: float) -> np.ndarray:
        random = np.random.default_rng(seed)
        delay = np.exp(random.normal(-1.5, 1.2, size=(80, 1)))
        curves = 3.0 - rise * np.exp(-FRACTIONS / delay) + 0.1 * random.normal(size=(80, 20))
        return np.concatenate([curves, curves, curves[:, -1:]], axis=1)

    prior = CurvePrior.from_curves(FRACTIONS, [trainings(0, 6.0), trainings(1, 8.0)])
    curves = trainings(2, 7.0)
    worst, *others = np.array_split(np.argsort(curves[:, -1]), 10)
    latest = [(1.0, float(curves[n, -1])) for n in worst[:4]]
    latest += [(0.25, float(curves[n, 4])) for part in others for n in part]
    moved = prior.adapted([curve_of(curves[n]) for n in worst[:4]], latest)
    truth = float(np.median(curves[:, -1]))
    scale = Scale.of_study(moved, latest)
    assert abs(scale.level - truth) < scale.spread
    errors = []
    for part in others:
        for n in part:
            mean, variance = moved.forecast(moved.units(curve_of(curves[n], 5), scale))
            errors.append((scale.units(curves[n, -1]) - mean) / np.sqrt(variance))
    assert 0.5 < np.mean(np.abs(errors) < 1.0) < 0.95


def test_one_complete_trial_is_believed_if_it_rises_quite_otherwise(prior: CurvePrior) -> None:
    """Otherwise nothing would seem to have a chance in a study of very short trainings."""
    curves = pool(2, 4)
    curves[:, :-1] -= 40.0 * (1.0 - np.tile(FRACTIONS, 2))
    latest = [(1.0, float(curves[0, -1]))]
    moved = prior.adapted([curve_of(curves[0])], latest)
    scale = Scale.of_study(moved, latest)
    mean, variance = moved.forecast(moved.units(curve_of(curves[0], 4), scale))
    assert abs(mean) < 2.0 * np.sqrt(variance)


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
    curve = Curve({0.1: -1.0, 0.4: 0.5}, {0.1: -1.0, 0.4: 0.5})
    assert again.forecast(curve).mean == pytest.approx(prior.forecast(curve).mean, abs=0.05)
