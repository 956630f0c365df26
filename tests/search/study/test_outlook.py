"""The prospects of a study, from its storage."""

from __future__ import annotations

from typing import Any

import pytest

from search.study.outlook import outlook
from search.study.trials import complete


def test_of_thousands_of_trials_the_best_and_the_unfinished_are_modelled(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = make_study(120)
    handle.study.ask({key: d.distribution() for key, d in handle.definition.space.items()})
    whole = outlook(handle.definition, handle.study).trials
    assert len(whole) == 121
    monkeypatch.setattr("search.study.outlook.MOST_MODELLED", 40)
    some = outlook(handle.definition, handle.study).trials
    numbers = [trial.number for trial in some]
    assert 38 <= len(numbers) <= 40 and numbers[-1] == 120
    best = [trial.number for trial in complete(handle.trials())[:7]]
    assert set(best) <= set(numbers)
    assert 12 <= sum(number < 60 for number in numbers) <= 26
    assert handle.expected_gain() is not None
    assert set(best) <= set(handle.expected_scores())
