"""The race of the best trials: fair, thrifty, and right about its own certainty."""

from __future__ import annotations

import numpy as np
import pytest

from search.promotion.race import LEAST_CHANCE, chance, standing


def test_the_score_that_chose_a_trial_does_not_count() -> None:
    scores = {0: {0: 50.0, 1: 1.0, 2: 1.1}, 1: {0: 2.0, 1: 3.0, 2: 3.1}}
    state = standing(scores, [0, 1, 2], own=1)
    assert state.racing[0] == 1
    assert state.due is None


def test_a_round_is_the_same_seed_for_all_that_are_still_racing() -> None:
    scores = {0: {0: 5.0, 1: 5.0}, 1: {0: 5.0, 1: 5.1}, 2: {0: 9.0, 1: -20.0}}
    state = standing(scores, [0, 1, 2], own=1)
    assert state.due == 2
    assert set(state.racing) == {0, 1}
    assert state.chances[2] < LEAST_CHANCE
    lacking = {0: {0: 5.0}, 1: {0: 5.0, 1: 5.1}, 2: {0: 9.0}}
    assert standing(lacking, [0, 1, 2], own=1).due == 1


def test_a_race_ends_when_one_is_left() -> None:
    scores = {0: {0: 5.0, 1: 9.0}, 1: {0: 5.0, 1: 1.0}}
    state = standing(scores, [0, 1, 2, 3, 4], own=1)
    assert (state.racing, state.due) == ((0,), None)
    assert state.sureness is not None
    assert state.sureness > 0.95


def test_differences_of_pairs_decide_and_not_the_scores_noise() -> None:
    """The seeds differ by much more than the trials do, but by the same for both."""
    seeds = list(range(5))
    hard = np.random.default_rng(0).normal(size=5) * 10.0
    worse = {seed: float(hard[seed]) for seed in seeds}
    better = {seed: float(hard[seed]) + 1.0 for seed in seeds}
    assert chance(worse, better, seeds) < 0.02
    assert chance(better, worse, seeds) > 0.98


@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0])
def test_the_sureness_is_right(apart: float) -> None:
    """The share of right winners in many races with known truth is at least what they claim."""
    random, seeds = np.random.default_rng(1), [0, 1, 2, 3]
    claimed, right = [], []
    for _ in range(400):
        truth = {trial: -apart * trial for trial in range(3)}
        common = random.normal(size=4)
        scores = {
            trial: {s: truth[trial] + common[s] + 0.4 * random.normal() for s in seeds}
            for trial in truth
        }
        state = standing(scores, seeds, own=1)
        assert state.sureness is not None
        claimed.append(state.sureness)
        right.append(state.racing[0] == 0 or apart == 0.0)
    assert np.mean(right) > np.mean(claimed) - 0.03
    if apart == 0.0:
        assert np.mean(claimed) < 0.6


def test_a_single_trial_gets_all_of_its_seeds() -> None:
    assert standing({0: {0: 5.0, 1: 4.0}}, [0, 1, 2], own=1).due == 2


def test_seeds_of_the_study_count_if_there_are_no_others() -> None:
    scores = {0: {0: 5.0, 1: 9.0}, 1: {0: 5.0, 1: 1.0}}
    assert standing(scores, [0, 1], own=2).racing[0] == 0
    assert standing({0: {0: 5.0}, 1: {0: 1.0}}, [0], own=1).sureness is None
