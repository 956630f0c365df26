"""The Gaussian process: exact where it can be checked, and it knows what it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from search.study.gaussian_process import (
    GaussianProcess,
    Hyperparameters,
    Observations,
    _negative_log_probability,
)

ASSUMED = Hyperparameters(np.array([0.5, 1.0]), 1.2, 0.05, 0.0)


def surface(points: np.ndarray) -> np.ndarray:
    """Return a smooth function in which only the first dimension counts."""
    return np.sin(5.0 * points[:, 0])


def observed(count: int, *, error: float = 0.0, seed: int = 0) -> Observations:
    random = np.random.default_rng(seed)
    points = random.random((count, 2))
    values = surface(points) + error * random.normal(size=count)
    return Observations(points, values, np.full(count, error**2), np.zeros(count, np.int64))


def test_it_predicts_a_smooth_function_and_finds_the_dimension_that_counts() -> None:
    process = GaussianProcess.fitted(observed(40, error=0.05))
    points = np.random.default_rng(3).random((50, 2))
    predicted = process.predict(points)
    assert np.abs(predicted.means - surface(points)).mean() < 0.1
    assert process.assumed.lengths[0] < process.assumed.lengths[1]


def test_leaving_one_out_equals_a_process_without_it() -> None:
    known = observed(12, error=0.2)
    left_out = GaussianProcess.of(known, ASSUMED).left_out()
    for number in range(12):
        others = known.chosen(np.flatnonzero(np.arange(12) != number))
        without = GaussianProcess.of(others, ASSUMED).predict(known.points[number : number + 1])
        assert left_out.means[number] == pytest.approx(without.means[0], abs=1e-6)
        expected = without.variances[0] + ASSUMED.noise
        assert left_out.variances[number] == pytest.approx(expected, abs=1e-5)


def test_a_value_with_a_large_error_counts_for_little() -> None:
    known = observed(10)
    wrong = known.values.copy()
    wrong[0] += 10.0
    variances = known.variances.copy()
    variances[0] = 1e6
    doubted = GaussianProcess.of(
        Observations(known.points, wrong, variances, known.studies), ASSUMED
    )
    without = GaussianProcess.of(known.chosen(np.arange(1, 10)), ASSUMED)
    points = np.random.default_rng(1).random((20, 2))
    assert doubted.predict(points).means == pytest.approx(without.predict(points).means, abs=1e-3)


def test_the_slope_of_the_probability_is_the_numerical_one() -> None:
    first, second = observed(8), observed(6, seed=1)
    known = Observations(
        np.concatenate([first.points, second.points]),
        np.concatenate([first.values, second.values]),
        np.full(14, 0.01),
        np.repeat([0, 1], [8, 6]),
    )
    apart = (known.points[:, None] - known.points[None]) ** 2
    same = known.studies[:, None] == known.studies[None]
    logs = np.array([-0.5, 0.2, -0.3, -2.0, 0.4])
    _, slope = _negative_log_probability(logs, known, apart, same)
    for place in range(len(logs)):
        values = []
        for side in (-1e-5, 1e-5):
            moved = logs.copy()
            moved[place] += side
            values.append(_negative_log_probability(moved, known, apart, same)[0])
        assert slope[place] == pytest.approx((values[1] - values[0]) / 2e-5, abs=1e-4)


@pytest.mark.parametrize(("sign", "helps"), [(1.0, True), (-1.0, False)])
def test_an_earlier_study_counts_as_far_as_it_predicts(sign: float, helps: bool) -> None:
    earlier = observed(40, error=0.1, seed=5)
    here = observed(8, error=0.1, seed=6)
    both = Observations(
        np.concatenate([here.points, earlier.points]),
        np.concatenate([here.values, sign * earlier.values]),
        np.concatenate([here.variances, earlier.variances]),
        np.repeat([0, 1], [8, 40]),
    )
    points = np.random.default_rng(2).random((100, 2))
    errors = [
        float(np.abs(GaussianProcess.fitted(known).predict(points).means - surface(points)).mean())
        for known in (here, both)
    ]
    # An earlier study that contradicts this one must not do much harm.
    assert errors[1] < 0.7 * errors[0] if helps else errors[1] < errors[0] + 0.25


def test_drawn_functions_fit_what_is_known_and_differ_elsewhere() -> None:
    known = observed(6)
    process = GaussianProcess.of(known, ASSUMED._replace(noise=1e-4))
    points = np.random.default_rng(4).random((30, 2))
    drawn = np.array([process.drawn(np.random.default_rng(n))(points) for n in range(300)])
    predicted = process.predict(points)
    assert drawn.mean(axis=0) == pytest.approx(predicted.means, abs=0.25)
    assert drawn.var(axis=0) == pytest.approx(predicted.variances, abs=0.35)
    at_known = process.drawn(np.random.default_rng(1))(known.points)
    assert at_known == pytest.approx(known.values, abs=0.1)


def test_believing_a_running_trial_makes_its_place_less_interesting() -> None:
    process = GaussianProcess.of(observed(6), ASSUMED)
    place = np.array([[0.9, 0.9]])
    after = process.believing(place)
    assert after.predict(place).variances[0] < process.predict(place).variances[0]
    assert after.predict(place).means[0] == pytest.approx(process.predict(place).means[0], abs=1e-6)


def test_believing_equals_a_process_that_was_told_so() -> None:
    process = GaussianProcess.of(observed(6, error=0.1), ASSUMED)
    places = np.array([[0.9, 0.9], [0.1, 0.4]])
    told = Observations(
        np.concatenate([process.known.points, places]),
        np.concatenate([process.known.values, process.predict(places).means]),
        np.concatenate([process.known.variances, np.zeros(2)]),
        np.zeros(8, np.int64),
    )
    points = np.random.default_rng(7).random((20, 2))
    found, expected = (
        one.predict(points) for one in (process.believing(places), process.of(told, ASSUMED))
    )
    assert found.means == pytest.approx(expected.means, abs=1e-6)
    assert found.variances == pytest.approx(expected.variances, abs=1e-6)
