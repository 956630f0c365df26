"""Figures: they are drawn for any study, and never end one."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cyclegan.errors import CycleGANError
from search.study import figures
from search.study.figures import FIGURES, log_figures, write_figures
from search.study.figures.rungs import rung_iterations, thinned
from search.study.figures.values import KeyAxis
from search.study.pruners import Pruner
from tracking import Store
from viz.plots import ScoreAxis

MANY = {
    **{
        f"lambdas.{group}": {"type": "float", "low": 0.1, "high": 10.0, "log": True}
        for group in ("G_A", "G_B", "D_A", "D_B", "C_A", "C_B", "I_A", "I_B")
    },
    "lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "lr_d": {"type": "float", "low": 1e-4, "high": 3e-4},
    "batch_size": {"type": "int", "low": 1, "high": 4},
    "norm_D": {"type": "categorical", "choices": ["none", "instance", "batch"]},
}


ONE_OBJECTIVE = set(FIGURES) - {"pareto"}


def test_every_figure_is_a_readable_picture(make_study: Any, tmp_path: Path) -> None:
    written = write_figures(make_study(12, MANY), tmp_path / "f")
    assert {path.stem for path in written} == ONE_OBJECTIVE
    for path in written:
        picture = np.asarray(Image.open(path).convert("L"))
        assert min(picture.shape) > 250
        assert (picture < 128).mean() > 0.001  # ink
    assert not list(tmp_path.rglob("*.part"))
    assert len(write_figures(make_study(1), tmp_path / "f")) == 4  # it replaces the earlier ones


@pytest.mark.parametrize(
    ("trials", "missing"),
    [(0, ONE_OBJECTIVE), (1, {"importance", "parallel_coordinates"}), (7, set())],
)
def test_what_needs_more_trials_is_left_out(
    make_study: Any, tmp_path: Path, trials: int, missing: set[str], caplog: Any
) -> None:
    written = {path.stem for path in write_figures(make_study(trials), tmp_path)}
    assert written == ONE_OBJECTIVE - missing
    assert not caplog.records  # left out, not failed


def test_trials_of_every_state_and_spaces_that_differ_are_drawn(
    make_study: Any, tmp_path: Path, caplog: Any
) -> None:
    handle = make_study(8)
    handle.study.ask()  # running
    handle.study.enqueue_trial({"lr_g": 1e-3})  # waiting
    state = optuna.trial.TrialState
    floats = {"lr_g": optuna.distributions.FloatDistribution(1e-4, 1.0)}  # wider, linear
    add = handle.study.add_trial
    create = optuna.trial.create_trial
    add(create(state=state.FAIL, user_attrs={"reason": "no memory"}))
    add(create(value=0.5, params={"lr_g": 0.9}, distributions=floats))
    add(create(state=state.PRUNED, intermediate_values={100: float("nan")}))
    add(create(value=float("inf"), params={"lr_g": 0.9}, distributions=floats))
    assert len(write_figures(handle, tmp_path)) == 6
    assert not caplog.records


def test_an_interrupted_trial_lasts_until_the_last_thing_known(make_study: Any) -> None:
    handle = make_study(8)
    records = handle.trials()
    records[2] = replace(records[2], state="interrupted", ended=None)
    figure = FIGURES["timeline"](handle, records)
    assert figure is not None
    (axes,) = figure.axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ends[2] == pytest.approx(max(ends))
    assert all(FIGURES[name](handle, records) is not None for name in ONE_OBJECTIVE)


@pytest.mark.parametrize("trials", [1, 7, 200])
def test_every_figure_describes_itself_and_marks_its_trials(make_study: Any, trials: int) -> None:
    handle = make_study(trials)
    records = handle.trials()
    for name, draw in FIGURES.items():
        figure = draw(handle, records)
        if figure is None:
            continue
        assert figure.about
        assert figure.title.startswith("made: ")
        marked = {mark.key for marks in figure.marks.values() for mark in marks}
        assert marked == (set() if name == "importance" else {str(r.number) for r in records})
        many = sum(len(axes.collections) for axes in figure.axes)
        assert many <= 4 * len(figure.axes)  # not one for each point


def test_a_long_curve_is_thinned_but_keeps_its_ends_and_its_best() -> None:
    curve = [(i, -abs(i - 777.0)) for i in range(5000)]
    thin = thinned(curve, 150)
    assert len(thin) <= 152
    assert {curve[0], curve[777], curve[-1]} <= set(thin)
    assert thinned(curve[:20], 150) == curve[:20]


def test_all_trials_gated(make_study: Any, tmp_path: Path, caplog: Any) -> None:
    handle = make_study(0)
    for _ in range(3):
        handle.study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.PRUNED,
                intermediate_values={100: -100.0},
                params={"lr_g": 0.5},
                distributions={"lr_g": optuna.distributions.FloatDistribution(0.5, 0.5)},
            )
        )
    assert len(write_figures(handle, tmp_path)) == 4
    assert not caplog.records


def test_a_figure_that_fails_is_left_out_with_a_warning(
    make_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(handle: Any, records: Any) -> Figure:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(figures.FIGURES, "rungs", broken)
    with caplog.at_level(logging.WARNING):
        written = {path.stem for path in write_figures(make_study(8), tmp_path)}
    assert written == ONE_OBJECTIVE - {"rungs"}
    assert "figure rungs can't be drawn: ZeroDivisionError" in caplog.text


def test_figures_reach_the_run_and_a_full_disk_ends_no_study(
    make_study: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    handle = make_study(8)
    run = Store.open().create_run("s", "made", kind="study", params={}, tags={})
    written = log_figures(handle, run)
    assert {path.parent for path in written} == {handle.results / "figures"}
    for path in written:
        assert run.artifact_path(f"figures/{path.name}").read_bytes() == path.read_bytes()

    def full(path: Path, folder: str = "") -> None:
        raise CycleGANError("the disk is full")

    monkeypatch.setattr(run, "log_file", full)
    with caplog.at_level(logging.WARNING):
        assert log_figures(handle, run) == []
    assert "the disk is full" in caplog.text


def test_drawing_leaves_no_pyplot_behind(make_study: Any, tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    write_figures(make_study(8), tmp_path)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_gated_and_far_scores_lie_at_the_rim_and_flatten_nothing() -> None:
    axis = ScoreAxis.of([-1.0, -0.8, -0.5, -0.2, 0.1, -100.0, -60.0, None])
    assert (axis.low, axis.high) == (-1.0, 0.1)
    assert list(axis.place([-100.0, -60.0, 0.1])) == [axis.rim, axis.rim, 0.1]
    assert axis.limits[0] < axis.rim < axis.low
    assert axis.below(None)
    assert not axis.below(-1.0)
    alone = ScoreAxis.of([2.0])
    assert alone.low < 2.0 < alone.high
    assert ScoreAxis.of([]).low < ScoreAxis.of([]).high


def test_values_lie_where_their_scale_puts_them(make_study: Any) -> None:
    records = make_study(8).trials()
    rate = KeyAxis.of("lr_g", records)
    assert rate.share(1e-3) == pytest.approx(0.5)
    assert KeyAxis.of("batch_size", records).share(4) == 1.0
    norm = KeyAxis.of("norm_D", records)
    assert norm.choices == ("none", "instance", "batch")
    assert norm.share("instance") == 0.5


def test_rungs_stand_where_the_pruner_judges() -> None:
    halving = Pruner(name="successive_halving", prune_after=1000, reduction_factor=2)
    assert rung_iterations(halving, 8000) == [1000, 2000, 4000]
    assert rung_iterations(Pruner(name="median", prune_after=500), 8000) == [500]
    assert rung_iterations(Pruner(name="none"), 8000) == []
