"""Verdicts on a promoted generator: against a plain filter, and against its trial's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from search.study import StudyHandle
from tracking import Store
from workbench import cli
from workbench.promotion import better_trial, gain_in_words
from workbench.session import run


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (None, None),
        (4.93, "On pseudo pairs its error is 4.9 dB below that of the best Gaussian filter."),
        (
            -1.2,
            "On pseudo pairs its error is 1.2 dB above that of the best Gaussian filter: a filter "
            "does better; look at this generator's images before you use it.",
        ),
        (
            -0.04,
            "On pseudo pairs its error is that of the best Gaussian filter, to 0.1 dB: a filter "
            "does as well.",
        ),
    ],
)
def test_the_gain_in_words(gain: float | None, words: str | None) -> None:
    assert gain_in_words(gain) == words


@pytest.mark.parametrize(
    ("own", "promoted", "words"),
    [
        (None, 1.0, None),
        (0.5, 0.5, None),
        (0.501, 0.499, None),  # both read 0.50
        (0.5, 2.0, None),
        (
            0.5,
            -0.25,
            "The generator of trial 3 itself is better: it has a score of 0.50, the "
            "promoted training has -0.25. To use it: cyclegan enhance VOLUME --model demo:3 "
            "--output OUTPUT",
        ),
        (
            0.5,
            None,
            "The generator of trial 3 itself is better: it has a score of 0.50, the "
            "promoted training has none. To use it: cyclegan enhance VOLUME --model demo:3 "
            "--output OUTPUT",
        ),
    ],
)
def test_a_better_trial_in_words(
    own: float | None, promoted: float | None, words: str | None
) -> None:
    assert better_trial("demo", 3, own, promoted) == words


def test_a_promotion_says_what_its_score_means_and_that_its_trial_is_better(
    written: Callable[..., StudyHandle],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def promote(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cyclegan", "promote", "s", "--quiet", *options])
        assert run(cli.app) == 0
        return capsys.readouterr().out

    handle = written([1.0])
    data = json.loads(promote("--json"))
    gains = store.run(data["run_id"]).history("score/pseudo_pair_gain_db")
    assert data["best_gain_db"] == pytest.approx(gains[data["best_step"]])
    assert data["verdict"] == gain_in_words(data["best_gain_db"])
    assert data["better_trial"] is None
    assert data["verdict"] in promote()  # it is complete: read from its record

    record = handle.trial_folder(0) / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"best_score": data["best_score"] + 1}))
    better: Any = json.loads(promote("--json"))["better_trial"]
    assert better["score"] == data["best_score"] + 1
    assert better["command"] == "cyclegan enhance VOLUME --model s:0 --output OUTPUT"
    assert better["verdict"] in promote()
