"""Studies that search a Pareto front."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from cyclegan.errors import ConfigError
from cyclegan.score import GATED
from cyclegan.score.deferred import Deferred
from search.study import StudyHandle, open_study, run_study
from search.study.definition import load_definition
from search.study.figures import FIGURES
from search.study.importance import importance
from search.study.report.facts import Evidence, gather
from search.study.report.page import study_page
from search.study.retention import checkpoints_to_keep
from search.study.rules import StopRules, why_stop
from search.study.trials import Trial, dominates, front_of
from tracking import Store
from viz.console import Console
from workbench.study_tables import export_study, study_data, study_table

PARTS = ["score", "score/spectrum_distance_db", "seconds"]


def write(project: Path, tiny: dict[str, Any], **changes: Any) -> Path:
    content = {
        "name": "s",
        "config": tiny | {"filters": 4},
        "space": {"lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        "objective": PARTS,
        "sampler": {"startup_trials": 2},
        "trials": 5,
        "steps": 8,
        "report_every": 4,
    }
    path = project / "studies" / "s.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def run(path: Path) -> StudyHandle:
    store, console = Store.open(), Console(quiet=True)
    return run_study(load_definition(path), store=store, console=console).handle


@pytest.fixture
def no_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the generators of these tiny trainings pass the gates, and be scored."""
    passed = Deferred([], lambda: None)
    monkeypatch.setattr("cyclegan.score.objective._collapsed", lambda *_: passed)
    monkeypatch.setattr("cyclegan.score.objective.inverted", lambda *_: None)


@pytest.fixture
def done(project: Path, tiny: dict[str, Any], no_gates: None) -> StudyHandle:
    """Return a whole study with three objectives."""
    return run(write(project, tiny))


def test_all_values_of_a_trial_are_those_of_the_validation_that_counts(done: StudyHandle) -> None:
    store = Store.open()
    for trial in done.trials():
        assert trial.score == trial.objectives["score"] == dict(trial.curve)[8]
        at = done.definition.counted_report(dict(trial.curve))
        assert at == 8
        run = store.run(trial.run_id)
        assert run.history("score/spectrum_distance_db")[at] == pytest.approx(
            trial.objectives["score/spectrum_distance_db"]
        )
        assert trial.objectives["seconds"] == trial.seconds
        metrics = store.find_run(trial.run_id).metrics
        assert metrics["objective/seconds"] == trial.seconds
        assert metrics["score/value"] == trial.score


def test_the_front_is_optunas_and_is_shown_everywhere(done: StudyHandle, tmp_path: Path) -> None:
    records = done.trials()
    front = [record.number for record in front_of(records)]
    assert sorted(front) == sorted(trial.number for trial in done.study.best_trials)
    assert front[0] == done.best().number
    data = json.loads(json.dumps(study_data(done), default=str))
    assert data["front"] == front
    assert data["objectives"] == dict(zip(PARTS, ["maximize", "minimize", "minimize"], strict=True))
    table = study_table(done, width=None)
    assert "spectrum_distance_db lower, seconds lower is better" in table
    assert all(f"  trial {number}: score " in table for number in front)
    export_study(done, tmp_path / "s.csv")
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert all(float(row["score/spectrum_distance_db"]) >= 0 for row in rows)
    figure = FIGURES["pareto"](done, records)
    assert figure is not None
    assert all(f"trial {number}, score" in figure.about for number in front)
    evidence = Evidence(Store.open(), done.study.user_attrs["mlflow_run_id"])
    page = study_page(gather(done, evidence, "finished"))
    assert "Pareto front" in page
    assert "can&#39;t be shown" not in page
    assert "This can" not in page
    assert set(importance(done).shares) == {"lr_g"}
    assert done.study.metric_names == PARTS


def test_a_trial_that_is_killed_keeps_its_values(
    project: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["score", "score/sliced_wasserstein"]
    whole = run(write(project, tiny, objective=names, trials=2))
    expected = [trial.objectives for trial in whole.trials()]

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path = write(project, tiny, objective=names, trials=2, name="killed")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("search.study.trial.note_gate", die)
        run(path)
    assert next(t.objectives for t in open_study("killed").trials()) == {}
    assert [trial.objectives for trial in run(path).trials()] == expected


def test_several_seeds_are_averaged_in_every_objective(
    project: Path, tiny: dict[str, Any], no_gates: None
) -> None:
    names = ["score", "score/sliced_wasserstein"]
    handle = run(write(project, tiny, objective=names, trials=1, seeds=2))
    (trial,) = handle.trials()
    scores = [seed["score"] for seed in trial.seeds]
    assert trial.objectives["score"] == pytest.approx(np.mean(scores))
    found = []
    for seed in trial.seeds:
        metrics = Store.open().run(seed["run_id"])
        scored = metrics.history("score")
        at = max(at for at, value in scored.items() if value == pytest.approx(seed["score"]))
        found.append(metrics.history("score/sliced_wasserstein")[at])
    assert trial.objectives["score/sliced_wasserstein"] == pytest.approx(np.mean(found))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_samplers_for_several_objectives_choose_again_what_they_chose(
    project: Path, tiny: dict[str, Any], sampler: str
) -> None:
    names = ["score", "score/sliced_wasserstein"]
    changes = {"objective": names, "trials": 4, "steps": 4}
    settings = {"name": sampler, "startup_trials": 2}
    whole = run(write(project, tiny, sampler=settings, **changes))
    halved = load_definition(write(project, tiny, sampler=settings, name="two", **changes))
    run_study(halved.with_trials(3), store=Store.open(), console=Console(quiet=True))
    again = run_study(halved, store=Store.open(), console=Console(quiet=True)).handle
    assert [t.values for t in again.trials()] == [t.values for t in whole.trials()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": ["seconds", "score"]}, "first objective must be one of score"),
        ({"objective": ["score", "score"]}, "only once"),
        ({"objective": []}, "at least 1"),
        ({"objective": ["score", "loss"]}, "objective.1 = 'loss'"),
        ({"sampler": "noisy_gp"}, "noisy_gp takes one objective"),
        ({"sampler": "cmaes"}, "cmaes takes one objective"),
        ({"pruner": "thaw"}, "with several take none"),
        ({"stop": {"expected_gain": 0.1}}, "stop.no_improvement"),
        ({"objective": "seconds"}, "first objective must be one of score"),
        (
            {"objective": "score/lowpass_correlation", "pruner": "thaw"},
            "thaw forecasts scores in dB",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(define: Any, changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        define(**{"objective": PARTS, "steps": 2000, "report_every": 100, **changes})


def test_a_generator_that_fails_a_gate_is_worst_by_every_part(
    project: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Then most parts of the score are not even measured.
    monkeypatch.setattr(
        "cyclegan.score.objective._non_finite",
        lambda fake: Deferred([], lambda: "it is not finite"),
    )
    handle = run(write(project, tiny, trials=2, steps=4))
    for trial in handle.trials():
        assert trial.state == "complete"  # gates prune from prune_after on
        assert trial.objectives == {
            "score": GATED,
            "score/spectrum_distance_db": -GATED,
            "seconds": trial.seconds,
        }
    assert front_of(handle.trials()) == []
    assert "Pareto front" in study_table(handle, width=None)
    assert all(not t.constraints["gate"] <= 0 for t in handle.study.get_trials(deepcopy=False))


def made(number: int, score: float, seconds: float) -> Trial:
    values = {"score": score, "seconds": seconds}
    return Trial(number=number, state="complete", score=score, objectives=values)


def test_the_front_holds_what_nothing_dominates() -> None:
    random = np.random.default_rng(0)
    trials = [made(n, *random.integers(0, 6, 2).tolist()) for n in range(40)]
    front = front_of(trials)
    assert front == sorted(front, key=lambda t: (-(t.score or 0.0), t.number))
    for trial in trials:
        beaten = any(
            other.objectives["score"] >= trial.objectives["score"]
            and other.objectives["seconds"] <= trial.objectives["seconds"]
            and other.objectives != trial.objectives
            for other in trials
        )
        assert beaten == (trial not in front)
    assert not dominates(trials[0], trials[0])


def test_a_fast_but_unusable_generator_is_not_on_the_front() -> None:
    good, gated = made(0, 1.0, 9.0), made(1, GATED, 1.0)
    assert front_of([good, gated]) == [good]


def test_all_trials_of_the_front_keep_their_checkpoints() -> None:
    trials = [made(n, float(n), float(n)) for n in range(4)]
    kept = checkpoints_to_keep(trials, keep_trials=1)
    assert list(kept.values()) == ["newest"] * 4


def test_a_study_stops_when_no_trial_joins_the_front() -> None:
    rules = StopRules(no_improvement=2)
    front = [made(0, 1.0, 5.0), made(1, 0.5, 3.0), made(2, 0.2, 1.0)]
    assert why_stop(rules, front, 0.0) is None
    reason = why_stop(rules, [*front, made(3, 0.4, 4.0), made(4, 0.1, 6.0)], 0.0)
    assert reason is not None
    assert "none of the last 2 trials was new on the Pareto front" in reason


TWO = ["score", "score/sliced_wasserstein"]
SHORT = {"pruner": "none", "trials": 3, "steps": 12}


def outcomes(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = [(t["number"], t["state"], t.get("objectives"), t["values"]) for t in result["trials"]]
    return [*rows, ("front", result["front"])]


@pytest.mark.slow
def test_a_study_that_is_killed_has_the_same_front(
    study_project: Any,
    small: dict[str, Any],
    wait: Callable[..., Any],
    tmp_path: Path,
    fresh_database: Path,
) -> None:
    wanted = small | SHORT | {"objective": TWO, "sampler": "tpe"}
    study_project.define(wanted)
    for trial in (0, 1):
        checkpoint = study_project.results / f"trial-{trial:03d}" / "save" / "checkpoint.pt"
        with study_project.start("study", "run", "studies/small.yaml") as process:
            wait(checkpoint.exists)
            process.kill()
    killed = study_project.run("study", "run", "studies/small.yaml")
    whole = type(study_project)(tmp_path / "whole", wanted, fresh_database)
    assert outcomes(killed) == outcomes(whole.run("study", "run", "studies/small.yaml"))
    assert killed["front"]


@pytest.mark.slow
def test_two_workers_and_a_database_search_one_front(
    study_project: Any, small: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    study_project.define(small | SHORT | {"objective": PARTS, "name": "front"})
    address = request.getfixturevalue("postgresql")
    line = ("study", "run", "studies/small.yaml", "--workers", "2", "--storage", address)
    found = study_project.run(*line)
    assert {t["state"] for t in found["trials"]} <= {"complete", "pruned"}
    complete = [t for t in found["trials"] if t["state"] == "complete"]
    assert all(list(t["objectives"]) == PARTS for t in complete)
    assert set(found["front"]) <= {t["number"] for t in complete}
    frozen = optuna.load_study(study_name="front", storage=address)
    assert sorted(t.number for t in frozen.best_trials) == sorted(found["front"])
