"""After kills of real processes a study resumes the same trials and ends as if undisturbed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def comparable(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(t["number"], t["state"], t["score"], t["values"], t["step"]) for t in result["trials"]]


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (signal.SIGKILL, "trial-000/save/checkpoint.pt"),
        (signal.SIGKILL, "trial-001/config.yaml"),  # before the first checkpoint
        (signal.SIGKILL, "trial-002/save/checkpoint.pt"),
        (signal.SIGTERM, "trial-001/save/checkpoint.pt"),
    ],
)
def test_a_killed_study_ends_like_an_uninterrupted_one(
    study_project: Any,
    whole_study: dict[str, Any],
    wait: Callable[..., Any],
    number: signal.Signals,
    file: str,
) -> None:
    project = study_project
    with project.start("study", "run", "studies/small.yaml") as process:
        wait((project.results / file).exists)
        process.send_signal(number)
        code = process.wait(timeout=60)
    assert code == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    assert "interrupted" in {t["state"] for t in project.run("study", "show", "small")["trials"]}

    resumed = project.run("study", "run", "small")
    assert comparable(resumed) == comparable(whole_study)
    assert len(resumed["trials"]) == 4
    project.check(resumed)


def test_two_terminals_share_one_study(study_project: Any, wait: Callable[..., Any]) -> None:
    with study_project.start("study", "run", "studies/small.yaml") as first:
        wait((study_project.results / "trial-000" / "config.yaml").exists)
        study_project.run("study", "run", "studies/small.yaml")
        assert first.wait(timeout=120) == 0
    result = study_project.run("study", "show", "small")
    assert [t["number"] for t in result["trials"]] == [0, 1, 2, 3]
    assert {t["state"] for t in result["trials"]} <= {"complete", "pruned"}
    study_project.check(result)


def test_a_changed_definition_is_refused_and_more_trials_are_not(
    study_project: Any, small: dict[str, Any]
) -> None:
    first = study_project.run("study", "run", "studies/small.yaml", "--trials", "1")
    assert first["trials_finished"] == 1
    study_project.define(small | {"steps": 28})
    refused = study_project.call("study", "run", "studies/small.yaml")
    assert refused.returncode == 2
    assert "was started with another 'steps'" in refused.stderr
    study_project.define(small)
    again = study_project.run("study", "run", "studies/small.yaml", "--trials", "2")
    assert again["trials_finished"] == 2
