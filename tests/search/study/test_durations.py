"""Durations of a study are measured: a clock that is set makes none negative, or days long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from search.study import trial as trial_module
from search.study.figures.overview import timeline
from search.study.lease import Owner, touch
from search.study.report import facts, updater
from search.study.trial import _Watch
from search.study.trials import SECONDS, trials_of
from tracking import callback
from tracking.callback import steady_clock


@pytest.mark.parametrize(
    ("later", "measured", "seconds"),
    [
        (timedelta(hours=-5), {}, 0.0),  # a trial of an earlier version has only times of day
        (timedelta(hours=-5), {SECONDS: 12.5}, 12.5),
        (timedelta(days=3), {SECONDS: 12.5}, 12.5),
    ],
)
def test_a_trial_lasts_as_long_as_was_measured(
    make_study: Any, later: timedelta, measured: dict[str, float], seconds: float
) -> None:
    handle = make_study(1)
    (frozen,) = handle.study.get_trials()
    frozen.datetime_complete += later  # the clock was set while it ran
    frozen.user_attrs = frozen.user_attrs | measured
    (trial,) = trials_of([frozen], handle.definition.score_of_reports, handle.folder)
    assert trial.seconds == seconds
    figure = timeline(handle, [trial])
    assert figure is not None
    ((bar,),) = figure.marks.values()
    assert bar.words.endswith(f" {seconds:,.0f} s")


def test_a_running_study_shows_the_time_for_which_it_ran(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = make_study(1)
    owner = Owner(handle.folder)
    monkeypatch.setattr(owner, "seconds", lambda: 3600.0)
    touch(handle.study, owner)
    for days in (3, -3):  # by which the clock was set
        monkeypatch.setattr(updater.time, "time", lambda days=days: owner.begun + 86_400 * days)
        shown = facts.gather(handle, None, "running")
        assert shown.wall_seconds == pytest.approx(3600.0)


def test_a_trial_that_continues_in_another_process_goes_on_counting(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, clock = make_study(0), [100.0]
    trial = handle.study.ask()
    monkeypatch.setattr(trial_module.time, "monotonic", lambda: clock[0])
    for boot in (100.0, 5.0):  # the clock of another boot has another zero
        clock[0] = boot
        watch = _Watch(None, trial, handle.folder)  # type: ignore[arg-type]
        clock[0] += 30.0
        watch.note_time()
    assert handle.trials()[0].seconds == 60.0


def test_a_clock_that_is_set_back_holds_up_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    real = callback.time.time()
    clock = steady_clock()
    first = clock()
    monkeypatch.setattr(callback.time, "time", lambda: real - 5 * 3600)
    assert real - 1 < first <= clock() < real + 600
