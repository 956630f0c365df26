"""Trials of a study as plain values."""

from __future__ import annotations

from search.study.trials import Trial, selected


def trial(number: int, state: str) -> Trial:
    return Trial(number=number, state=state, score=float(number % 97))


def test_a_selection_has_the_best_the_unfinished_and_evenly_many_others() -> None:
    states = ["complete", "pruned", "complete", "failed"]
    trials = [trial(n, "running" if n >= 2_950 else states[n % 4]) for n in range(3_000)]
    chosen = selected(trials, 500)
    numbers = [t.number for t in chosen]
    assert len(numbers) == len(set(numbers)) == 500 and numbers == sorted(numbers)
    assert all(t in chosen for t in trials if t.state == "complete" and (t.score or 0) > 90)
    assert sum(t.state == "running" for t in chosen) == 50
    early = sum(number < 1_475 for number in numbers)
    assert 200 < early < 250
    assert selected(trials[:500], 500) == trials[:500]
