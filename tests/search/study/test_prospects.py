"""The prospects of trials, and to whom they give the next steps."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.study.cube import Cube
from search.study.curves import CurvePrior
from search.study.proposals import proposal, prospect_of_new, sobol
from search.study.prospects import EarlierStudy, KnownTrial, Prospects
from search.study.space import FloatRange
from search.study.thaw import next_choice, pauses

FRACTIONS = np.arange(1, 21) / 20
STEPS = 1_000
SQUARE = Cube({key: FloatRange(low=0.0, high=1.0) for key in ("lr_g", "lr_d")})


def curves(count: int, seed: int) -> np.ndarray:
    """Return curves that settle after a quarter, (count, 41); the last report counts."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(count, 1)) * (1.0 - np.exp(-FRACTIONS / 0.1)) + np.log(FRACTIONS)
    found = found + 0.1 * random.normal(size=found.shape)
    return 2.0 * np.concatenate([found, found, found[:, -1:]], axis=1)


@pytest.fixture(scope="module")
def prior() -> CurvePrior:
    return CurvePrior.from_curves(FRACTIONS, [curves(200, seed) for seed in range(3)])


def trial(number: int, quality: float, reports: int, state: str | None = None) -> KnownTrial:
    """Return a trial whose end will be 2 * `quality`, after some reports without noise."""
    curve = 2.0 * (quality * (1.0 - np.exp(-FRACTIONS / 0.1)) + np.log(FRACTIONS))
    known: Any = state or ("complete" if reports == 20 else "paused")
    random = np.random.default_rng(number)
    seen = {50 * (k + 1): float(curve[k]) for k in range(reports)}
    return KnownTrial(
        number=number,
        state=known,
        point=tuple(random.random(2).tolist()),
        reports=seen,
        scores=seen,
        score=float(curve[-1]) if known == "complete" else None,
    )


def prospects(prior: CurvePrior, *trials: KnownTrial, **more: Any) -> Prospects:
    return Prospects(trials, STEPS, prior, 250, **{"pausing": True, **more})


def test_the_expected_end_follows_the_curve_and_is_surer_with_more_reports(
    prior: CurvePrior,
) -> None:
    complete = [trial(n, q, 20) for n, q in enumerate((-1.0, 0.0, 0.3))]
    early, late = (
        prospects(prior, *complete, trial(3, 1.0, reports)).of_trials()[3] for reports in (5, 15)
    )
    assert late.mean == pytest.approx(2.0, abs=0.5)
    assert late.deviation < early.deviation
    assert late.chance > 0.95


def test_the_steps_go_to_the_trial_that_is_most_likely_to_repay_them(prior: CurvePrior) -> None:
    known = prospects(prior, trial(0, 0.0, 20), trial(1, 0.8, 8), trial(2, -1.0, 8))
    choice = next_choice(known, None, least_chance=0.05)
    assert choice is not None
    assert choice.number == 1
    found = known.of_trials()
    assert found[1].rate > found[2].rate


def test_a_trial_without_a_chance_gets_no_steps_even_if_nobody_else_wants_them(
    prior: CurvePrior,
) -> None:
    hopeless = prospects(prior, trial(0, 1.5, 20), trial(1, -1.5, 12))
    assert next_choice(hopeless, None, least_chance=0.05) is None
    running = prospects(prior, trial(0, 1.5, 20), trial(1, -1.5, 12, "running"))
    choice = pauses(running, 1, None, least_chance=0.05)
    assert choice is not None
    assert choice.number == 1
    assert choice.prospect.chance < 0.05


def test_a_running_trial_gives_way_only_to_a_clearly_better_one(prior: CurvePrior) -> None:
    best = trial(0, 0.0, 20)
    weak, strong = trial(1, 0.1, 8, "running"), trial(2, 1.5, 8)
    choice = pauses(prospects(prior, best, weak, strong), 1, None, least_chance=0.01)
    assert choice is not None
    assert choice.number == 2
    alike = replace(weak, number=2, state="paused")
    assert pauses(prospects(prior, best, weak, alike), 1, None, least_chance=0.01) is None


def test_a_trial_that_is_almost_done_is_finished_before_a_new_one_begins(
    prior: CurvePrior,
) -> None:
    known = prospects(prior, trial(0, 0.0, 20), trial(1, 0.2, 19, "running"))
    new = prospect_of_new(known, SQUARE, seed=0)
    assert known.of_trials()[1].rate > new.rate
    assert pauses(known, 1, new, least_chance=0.01) is None


def test_the_last_steps_go_to_trials_that_can_still_be_finished(prior: CurvePrior) -> None:
    known = prospects(prior, trial(0, 0.0, 20), trial(1, 1.2, 6), trial(2, 0.4, 17))
    new = prospect_of_new(known, SQUARE, seed=0)

    def chosen(left: int | None) -> int | None:
        choice = next_choice(known, new, least_chance=0.01, left=left)
        assert choice is not None
        return choice.number

    assert known.rest(2) == 150
    assert chosen(None) == chosen(STEPS) == 2  # it is almost done
    assert chosen(700) == 1  # both would be too much
    assert chosen(400) == 2  # trial 1 needs 700 steps
    running = prospects(prior, trial(0, 0.0, 20), trial(1, 1.2, 6), trial(2, 0.4, 17, "running"))
    gives_way = pauses(running, 2, new, least_chance=0.01, left=700)
    assert gives_way is not None and gives_way.number == 1
    assert pauses(running, 2, new, least_chance=0.01, left=400) is None


def test_gates_are_a_probability_and_no_cliff(prior: CurvePrior) -> None:
    usable = [trial(n, 0.0, 20) for n in range(4)]
    gated = [replace(trial(n, 0.0, 0), state="gated", point=(0.95, 0.95)) for n in range(4, 7)]
    known = prospects(prior, *usable, *gated)
    near, far = known.usable(np.array([[0.95, 0.95], list(usable[0].point)]))
    assert near < 0.4
    assert far > 0.6
    # The values of the usable trials are what they were without the gated ones.
    assert known.scale == prospects(prior, *usable).scale
    assert (prospects(prior, *usable).usable(np.zeros((3, 2))) == 1.0).all()


def test_proposals_depend_on_the_storage_alone_and_go_where_it_is_good(prior: CurvePrior) -> None:
    random = np.random.default_rng(1)
    points = random.random((41, 2))
    trials = [
        replace(trial(n, 2.0 - 6.0 * float(((p - 0.3) ** 2).sum()), 20), point=tuple(p.tolist()))
        for n, p in enumerate(points)
    ]
    first, again = (
        proposal(prospects(prior, *trials), 41, SQUARE, startup=5, seed=3) for _ in range(2)
    )
    assert (first == again).all()
    assert np.linalg.norm(first - 0.3) < 0.25


def test_in_many_dimensions_proposals_are_better_than_a_sequence_of_points(
    prior: CurvePrior,
) -> None:
    """The sequence alone is sparse: of 256 points hardly any lies near the best trials."""
    cube = Cube({f"x{k}": FloatRange(low=0.0, high=1.0) for k in range(10)})
    points = 0.3 + 0.2 * np.random.default_rng(1).standard_normal((40, 10))
    trials = [
        replace(trial(n, 1.0 - 2.0 * float(((p - 0.3) ** 2).sum()), 20), point=tuple(p.tolist()))
        for n, p in enumerate(points)
    ]
    known = prospects(prior, *trials, pausing=False)
    for number in range(40, 44):
        found = proposal(known, number, cube, startup=5, seed=0)
        gains = [p.gain for p in known.of_points(sobol(number, 10, seed=0))]
        assert known.of_points(found[None])[0].gain > 1.5 * max(gains)


def test_without_pauses_a_new_trial_is_worth_its_gain_and_not_a_cheap_look(
    prior: CurvePrior,
) -> None:
    """A look at the unknown is cheap only if the trial may end or be paused after it."""
    best = [trial(n, 1.0 - 0.1 * n, 20) for n in range(3)]
    points = np.random.default_rng(3).random((64, 2))
    whole = prospects(prior, *best, pausing=False).of_points(points)
    looks = prospects(prior, *best, pausing=True).of_points(points)
    assert [p.gain for p in whole] == [p.gain for p in looks]
    assert [p.rate * STEPS for p in whole] == pytest.approx([p.gain for p in whole])
    assert all(look.rate >= one.rate - 1e-9 for look, one in zip(looks, whole, strict=True))
    assert max(look.rate / one.rate for look, one in zip(looks, whole, strict=True)) > 1.5


def test_no_place_is_tried_twice_even_if_it_is_the_best_one(prior: CurvePrior) -> None:
    """All trials have one seed: the same values would give the same training again."""
    places = [np.array([0.3, 0.3])]
    for number in range(1, 12):
        trials = [
            replace(
                trial(n, 2.0 - 6.0 * float(((p - 0.3) ** 2).sum()), 20), point=tuple(p.tolist())
            )
            for n, p in enumerate(places)
        ]
        places.append(proposal(prospects(prior, *trials), number, SQUARE, startup=3, seed=0))
    apart = [np.abs(a - b).max() for n, a in enumerate(places) for b in places[:n]]
    assert min(apart) > 0.015


def test_an_earlier_study_helps_from_the_first_trial_on(prior: CurvePrior) -> None:
    points = np.random.default_rng(2).random((40, 2))
    values = 1.0 - 6.0 * ((points - 0.7) ** 2).sum(axis=1)
    earlier = (EarlierStudy(points=points, values=values, variances=np.zeros(40)),)
    known = prospects(prior, earlier=earlier)
    assert np.linalg.norm(proposal(known, 0, SQUARE, startup=5, seed=0) - 0.7) < 0.35


def test_the_first_points_of_new_trials_are_those_of_one_sequence(prior: CurvePrior) -> None:
    found = np.array([proposal(prospects(prior), n, SQUARE, startup=8, seed=0) for n in range(8)])
    # Sobol: each half and each quarter of each axis has its share.
    assert all((np.histogram(found[:, k], 4, (0.0, 1.0))[0] == 2).all() for k in range(2))


def test_a_thousand_trials_are_judged_within_seconds(prior: CurvePrior) -> None:
    random = np.random.default_rng(0)
    known = prospects(
        prior,
        *(trial(n, float(random.normal()), 20 if n % 4 == 0 else 8) for n in range(1_000)),
        trial(1_000, 0.0, 6, "running"),
    )
    start = time.perf_counter()
    pauses(known, 1_000, prospect_of_new(known, SQUARE, seed=0), least_chance=0.05)
    assert time.perf_counter() - start < 5.0  # 0.2 s on a quiet core; this finds a fourth power


def test_a_lucky_trial_is_not_expected_to_be_best(prior: CurvePrior) -> None:
    """The highest of many scores is often luck; the neighbours tell."""
    random = np.random.default_rng(3)
    trials = []
    for number in range(20):
        point = random.random(2)
        quality = 2.0 * point[0] + 0.15 * random.normal()
        made = trial(number, quality, 20)
        trials.append(replace(made, point=tuple(point.tolist())))
    scores = [one.score or 0.0 for one in trials]
    worst_place = min(trials, key=lambda one: one.point[0])
    lucky = replace(worst_place, score=max(scores) + 0.2)
    trials[lucky.number] = lucky
    expected = prospects(prior, *trials).expected
    assert set(expected) == set(range(20))
    first = max(expected, key=lambda number: expected[number])
    assert trials[first].point[0] > 0.7
    assert expected[lucky.number] < max(scores) - 0.3
    paused = trial(20, 3.0, 10)
    assert 20 not in prospects(prior, *trials, paused).expected
    assert prospects(prior, paused).expected == {}
