"""The top trials with other seeds: the best mean wins, with a statement of its certainty."""

from __future__ import annotations

import importlib
import math
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Trainer, load_config
from cyclegan.errors import DataError, UsageError
from cyclegan.score import GATED
from search import launch
from search.promotion import Confirmation, confirm
from search.promotion.confirm import ConfirmedTrial, SeedScore, parse_confirm
from search.study import StudyHandle
from tracking import Store
from viz.console import Console

QUIET = Console(quiet=True)


def made(scores: Mapping[int, list[float]], seeds: int, own: int = 1) -> Confirmation:
    trials = [
        ConfirmedTrial(
            trial=number,
            scores=tuple(SeedScore(seed=i, score=s, run_id="") for i, s in enumerate(values)),
            own=own if own < seeds else 0,
        )
        for number, values in scores.items()
    ]
    return Confirmation(trials=tuple(trials), seeds=tuple(range(seeds)), own=own)


@pytest.mark.parametrize(
    ("scores", "seeds", "words"),
    [
        ({3: [5.0, 8.0], 1: [9.0, 2.0]}, 2, "trial 3 is the best of these with over 99 %"),
        ({3: [5.0, 5.2, 5.1], 1: [9.0, 5.0, 5.1]}, 3, "trial 1 may well be as good"),
        ({3: [2.0], 1: [1.0]}, 1, "says nothing about the noise"),
        ({3: [2.0, 4.0]}, 2, "trial 3: mean 4.00"),
        (
            {3: [5.0, 9.0, 9.1], 1: [5.0, 8.9, 9.3], 4: [5.0, 1.0]},
            3,
            "after 8 of 9 trainings",
        ),
    ],
)
def test_the_verdict_says_how_sure_the_choice_is(
    scores: dict[int, list[float]], seeds: int, words: str
) -> None:
    confirmation = made(scores, seeds)
    assert confirmation.complete
    assert words in confirmation.verdict()
    assert confirmation.text().splitlines()[-1] == confirmation.verdict()


@pytest.mark.parametrize("text", ["3", "0x3", "3x0", "3x", "ax2", "3x3x3", "-1x2"])
def test_a_wrong_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--confirm .*give TRIALSxSEEDS"):
        parse_confirm(text)
    assert parse_confirm(" 4x12") == (4, 12)


class Trains(Callback):
    """Stand in for `run_training`'s own callbacks: count steps, and press Ctrl-C on request."""

    def __init__(self, interrupt_at: int | None) -> None:
        self.steps, self.interrupt_at = 0, interrupt_at

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.steps += 1
        if self.steps == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_trials_are_trained_until_each_has_its_seeds_whatever_comes_between(
    written: Callable[..., StudyHandle], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = written([1.0, 90.0, 80.0])
    counted: list[Trains] = []

    def run(interrupt_at: int | None) -> tuple[Confirmation, int]:
        original = launch.run_training
        watch = Trains(interrupt_at)
        counted.append(watch)
        monkeypatch.setattr(
            importlib.import_module("search.promotion.confirm"),
            "run_training",
            lambda job, callbacks, **given: original(job, callbacks=[*callbacks, watch], **given),
        )
        return confirm(handle, top=2, seeds=2, store=store, console=QUIET), watch.steps

    # Trial 1's second seed is complete, trial 2's is interrupted at its second step.
    first, steps = run(interrupt_at=10)
    assert (first.complete, steps) == (False, 10)
    assert {t.trial: len(t.scores) for t in first.trials} == {2: 1, 1: 2}
    second, steps = run(interrupt_at=None)
    assert (second.complete, steps) == (True, 6)  # only what was missing
    third, steps = run(interrupt_at=None)
    assert (third, steps) == (second, 0)

    later = {t.trial: t.scores[1].score for t in second.trials}
    assert second.trials[0].trial == max(later, key=lambda number: later[number])
    own, other = next(t.scores for t in second.trials if t.trial == 1)
    assert (own.seed, own.score, own.run_id) == (0, 90.0, handle.trials()[1].run_id)
    run_info = store.find_run(other.run_id)
    assert run_info.tags["kind"] == "confirm"
    assert (run_info.tags["trial"], run_info.tags["seed"]) == ("1", "1")
    assert run_info.tags["mlflow.parentRunId"] == handle.study.user_attrs["mlflow_run_id"]
    assert other.score == pytest.approx(run_info.metrics.get("score/best", GATED))
    config = load_config(handle.results / "confirm-001-seed-1" / "config.yaml")
    assert (config.seed, config.steps, config.lambdas.I_A[0]) == (1, 8, 4.0)
    note = store.find_run(handle.study.user_attrs["mlflow_run_id"]).tags["mlflow.note.content"]
    assert note.startswith(f"Confirmed: trial {second.trials[0].trial} mean ")
    assert f"#/experiments/{run_info.experiment_id}/runs/{other.run_id}" in note


class Breaks(Callback):
    """Put a NaN into a weight after the first step of one of several trainings."""

    def __init__(self, training: int) -> None:
        self.training, self.trainings = training, 0

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.trainings += trainer.step == 1
        if trainer.step == 1 and self.trainings == self.training:
            with torch.no_grad():
                next(trainer.model.G_A.parameters()).view(-1)[0] = float("nan")


def test_a_training_that_diverges_counts_as_gated_and_the_others_go_on(
    written: Callable[..., StudyHandle], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = written([1.0, 90.0, 80.0])
    original, breaks = launch.run_training, Breaks(training=1)
    monkeypatch.setattr(
        importlib.import_module("search.promotion.confirm"),
        "run_training",
        lambda job, callbacks, **given: original(job, callbacks=[*callbacks, breaks], **given),
    )
    done = confirm(handle, top=2, seeds=2, store=store, console=QUIET)
    assert done.complete
    winner, broken = done.trials
    assert (winner.trial, broken.trial) == (2, 1)
    assert broken.scores[1].score == GATED
    assert store.find_run(broken.scores[1].run_id).status == "FAILED"
    assert winner.scores[1].score > GATED


def test_seeds_that_the_study_trained_itself_count(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    def run_of(seed: int, score: float) -> dict[str, Any]:
        return {"seed": seed, "run_id": f"r{seed}", "score": score, "iteration": 8}

    both = ((2.0, 4.0, 9.0), (2.0, 2.0, 9.0))  # nobody asks for the third seed
    attributes = [{"seeds": [run_of(i, s) for i, s in enumerate(scores)]} for scores in both]
    handle = written([5.0, 4.0], attributes=attributes)
    done = confirm(handle, top=2, seeds=2, store=store, console=QUIET)
    assert [(t.trial, t.mean, t.spread) for t in done.trials] == [
        (0, 3.0, pytest.approx(math.sqrt(2))),
        (1, 2.0, 0.0),
    ]


def test_more_trials_than_are_complete_are_refused(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    with pytest.raises(DataError, match="has 2 complete trials, but you asked for 3"):
        confirm(written([1.0, 2.0]), top=3, seeds=2, store=store, console=QUIET)
