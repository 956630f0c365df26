"""Moves: directed by the fault, random, bounded, larger at every attempt."""

from __future__ import annotations

import pytest
import torch

from cyclegan import parse_config
from cyclegan.hparams import HParams
from search.rollback import Fault, Move, Retry
from search.rollback.detectors import DETECTORS
from search.rollback.guard import LAMBDA_RANGE, RATE_RANGE, REMEDIES, correction, move

FIRST = HParams.from_config(parse_config({"data_A": "a", "data_B": "b"}))


def retry(
    kind: str = "exploding",
    networks: tuple[str, ...] = ("C_A",),
    *,
    attempt: int = 1,
    base: HParams = FIRST,
    current: HParams | None = None,
    last: bool = False,
    found: int = 2000,
) -> Retry:
    return Retry(
        fault=Fault(kind=kind, reason="x", severity=2.0, networks=networks),
        attempt=attempt,
        last=last,
        found=found,
        step=found - 200,
        base=base,
        current=current or base,
        initial=FIRST,
    )


def moved(asked: Retry, seed: int = 0) -> Move:
    return move(asked, torch.Generator().manual_seed(seed), kickstart_steps=150)


def mean_of(asked: Retry, name: str) -> float:
    """Return the mean over the random part, which averages out."""
    return sum(moved(asked, seed).changes[name] for seed in range(200)) / 200


def lambdas(changes: Move) -> dict[str, float]:
    return {k: v for k, v in changes.changes.items() if k.startswith("lambdas.")}


def test_there_is_a_remedy_for_every_fault() -> None:
    names = {detector.__name__ for detector in DETECTORS}
    assert names | {"non_finite", "score_fell"} == set(REMEDIES)


@pytest.mark.parametrize("kind", REMEDIES)
@pytest.mark.parametrize("attempt", [1, 3])
def test_the_sum_of_the_lambdas_stays_and_switched_off_terms_stay_off(
    kind: str, attempt: int
) -> None:
    changes = lambdas(moved(retry(kind, attempt=attempt)))
    assert sum(changes.values()) == pytest.approx(222.0)
    assert "lambdas.I_A" not in changes


@pytest.mark.parametrize(
    ("kind", "networks", "lower", "raised"),
    [
        ("non_finite", (), ("lr_g", "lr_d"), ()),
        ("exploding", ("D_A",), ("lr_g", "lr_d"), ()),
        ("rising", ("C_A",), ("lr_g", "lr_d"), ("lambdas.C_A",)),
        ("drifting", ("C_B",), ("lr_g", "lr_d"), ("lambdas.C_B",)),
        ("fooled", ("D_A",), ("lr_g", "lr_d"), ()),
        ("won", ("G_A",), ("lr_d",), ("lambdas.G_A",)),
        ("inverted", ("C_A",), ("lr_g",), ("lambdas.C_A",)),
        ("flat", ("G_B",), ("lr_g",), ("lambdas.G_B",)),
    ],
)
def test_moves_are_directed(
    kind: str, networks: tuple[str, ...], lower: tuple[str, ...], raised: tuple[str, ...]
) -> None:
    asked = retry(kind, networks, attempt=2)
    first = FIRST.flat()
    for name in ("lr_g", "lr_d"):
        expected = 0.85 if name in lower else 1.01
        assert mean_of(asked, name) < expected * first[name]
        if name not in lower:
            assert mean_of(asked, name) > 0.97 * first[name]
    for name in raised:  # against its twin, because their sum stays constant
        twin = name[:-1] + ("B" if name.endswith("A") else "A")
        assert mean_of(asked, name) > 1.2 * mean_of(asked, twin)


def test_an_inverted_contrast_is_turned_by_kickstart() -> None:
    assert moved(retry("inverted")).kickstart == 150
    assert moved(retry("inverted", last=True)).kickstart == 150
    assert moved(retry("exploding")).kickstart == 0


def test_every_attempt_moves_further_and_more_at_random() -> None:
    rates = [mean_of(retry(attempt=attempt), "lr_g") for attempt in (1, 2, 3, 4)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.8 * FIRST.lr_g  # an accident is repaired mildly
    assert rates[3] < 0.3 * FIRST.lr_g

    def spread(attempt: int) -> float:
        draws = [moved(retry(attempt=attempt), seed).changes["lr_g"] for seed in range(100)]
        return max(draws) / min(draws)

    assert spread(1) < spread(2) < spread(4)


def test_a_young_training_gets_more_as_it_never_went_well() -> None:
    late, young = (mean_of(retry(found=found), "lr_g") for found in (600, 500))
    assert 0.8 * FIRST.lr_g < late
    assert 0.5 * FIRST.lr_g < young < 0.7 * FIRST.lr_g


def test_what_was_tried_is_not_forgotten_when_another_fault_shows_up() -> None:
    lowered = FIRST.changed({"lr_g": FIRST.lr_g / 4, "lr_d": FIRST.lr_d / 4})
    asked = retry("won", ("G_A",), attempt=2, current=lowered)  # considers lr_d only
    assert mean_of(asked, "lr_g") == pytest.approx(lowered.lr_g, rel=0.02)
    assert mean_of(asked, "lr_d") < 0.6 * lowered.lr_d


def test_the_first_attempt_begins_with_the_values_of_its_snapshot() -> None:
    raised = FIRST.changed({"lr_g": FIRST.lr_g * 10})  # after the snapshot, perhaps by mistake
    assert mean_of(retry(base=FIRST, current=raised), "lr_g") < FIRST.lr_g


def test_the_same_seed_gives_the_same_move() -> None:
    assert moved(retry(), 3) == moved(retry(), 3)
    assert moved(retry(), 3) != moved(retry(), 4)


def test_the_last_try_has_the_values_of_the_start() -> None:
    elsewhere = FIRST.changed({"lr_g": 1e-5, "lambdas.C_A": 7.0})
    assert moved(retry(base=elsewhere, last=True)).changes == FIRST.flat()


@pytest.mark.parametrize("kind", REMEDIES)
def test_moves_stay_bounded_however_often_they_are_made(kind: str) -> None:
    current, first = FIRST, FIRST.flat()
    random = torch.Generator().manual_seed(0)
    for attempt in range(1, 60):
        asked = retry(kind, ("C_A", "G_B"), attempt=attempt, base=current)
        current = current.changed(move(asked, random, kickstart_steps=0).changes)
    after = current.flat()
    for name in ("lr_g", "lr_d"):
        assert first[name] / RATE_RANGE <= after[name] <= first[name] * RATE_RANGE
    assert after["lambdas.C_A"] <= first["lambdas.C_A"] * LAMBDA_RANGE


@pytest.mark.parametrize(("accuracy", "changed"), [(0.7, None), (0.95, "lr_d"), (0.4, "lr_g")])
def test_corrections_are_small_and_bounded(accuracy: float, changed: str | None) -> None:
    changes = correction(accuracy, FIRST, FIRST)
    assert list(changes) == ([changed] if changed else [])
    current = FIRST
    for _ in range(500):
        current = current.changed(correction(accuracy, current, FIRST))
    for name, value in current.flat().items():
        assert value >= FIRST.flat()[name] / RATE_RANGE * 0.999
