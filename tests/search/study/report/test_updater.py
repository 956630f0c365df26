"""The report of a running study: up to date, written by one process, harmless to the study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from cyclegan.errors import CycleGANError
from search.study import StudyHandle, report, run_study, runner
from search.study.definition import load_definition
from search.study.lease import LEASE_SECONDS
from search.study.report import REPORT, ReportUpdater, updater
from tracking import Run, Store
from viz.console import Console


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kept(make_study: Any) -> Iterator[tuple[StudyHandle, Store, Run]]:
    handle, store = make_study(3), Store.open()
    yield handle, store, store.create_run("made", "made", kind="study", params={}, tags={})


def page_of(run: Run) -> str:
    return run.artifact_path(REPORT).read_text(encoding="utf-8")


def test_it_is_written_after_a_trial_and_else_at_most_once_a_minute(kept: Any) -> None:
    handle, store, run = kept
    clock = Clock()
    keeps = ReportUpdater(handle, store, run.id, every=60.0, clock=clock)
    assert keeps._due()
    assert keeps.write("running")
    assert not keeps._due()
    trial = handle.study.ask()
    trial.report(0.5, 50)
    clock.now += 30
    assert not keeps._due()  # new, but no trial ended
    clock.now += 31
    assert keeps._due()
    assert keeps.write("running")
    assert not keeps.write("running")  # no news
    handle.study.tell(trial, 7.25)
    assert keeps._due()  # at once
    assert keeps.write("running")
    assert "7.25 (trial 3)" in page_of(run)
    assert ">running<" in page_of(run)


def test_a_report_that_takes_long_is_written_rarely(
    kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten thousand trials it takes most of a minute, on the processor of a training."""
    handle, store, run = kept
    clock = Clock()
    keeps = ReportUpdater(handle, store, run.id, every=60.0, clock=clock)
    page = updater.study_page

    def slow(facts: Any) -> str:
        clock.now += 10.0
        return page(facts)

    monkeypatch.setattr(updater, "study_page", slow)
    assert keeps._due() and keeps.write("running")
    handle.study.tell(handle.study.ask(), 7.25)
    clock.now += 190.0
    assert not keeps._due()
    clock.now += 11.0
    assert keeps._due()


def test_of_several_processes_one_writes_and_another_takes_over(kept: Any) -> None:
    handle, store, run = kept
    clock = Clock()
    first, second = (ReportUpdater(handle, store, run.id, clock=clock) for _ in range(2))
    assert first._due()
    assert not second._due()
    clock.now += 100
    assert first._due()  # renews
    clock.now += 100
    assert not second._due()
    clock.now += LEASE_SECONDS
    assert second._due()
    assert not first._due()


def test_a_clock_that_was_set_keeps_no_report_waiting(
    kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, store, run = kept
    steady, wall = Clock(), Clock()
    monkeypatch.setattr(updater.time, "time", wall)
    first, second = (ReportUpdater(handle, store, run.id, clock=steady) for _ in range(2))
    assert first._due()
    wall.now -= 5 * 3600  # first has died, and somebody sets the clock
    assert second._due()


def test_the_last_report_tells_how_the_study_ended(kept: Any) -> None:
    handle, store, run = kept
    with ReportUpdater(handle, store, run.id, look=60.0):
        pass
    assert ">finished<" in page_of(run)
    with pytest.raises(ValueError, match="broken"), ReportUpdater(handle, store, run.id, look=60.0):
        raise ValueError("it is <broken>")
    assert "stopped: it is &lt;broken&gt;" in page_of(run)
    with pytest.raises(KeyboardInterrupt), ReportUpdater(handle, store, run.id, look=60.0):
        raise KeyboardInterrupt
    assert ">interrupted<" in page_of(run)
    assert "| Rank | trial" in store.search("made")[0].tags["mlflow.note.content"]


def test_a_store_that_fails_is_one_warning(
    kept: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    handle, store, run = kept

    def fail(*arguments: Any) -> None:
        raise CycleGANError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_text", fail)
        with ReportUpdater(handle, store, run.id, every=0.0, look=0.01) as keeps:
            end = time.monotonic() + 30
            while not keeps._warned and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.2)
    assert [r.getMessage() for r in caplog.records] == [
        "the study's report can't be written now: the store is away"
    ]
    assert keeps.write("running")  # it is back


def test_a_store_that_hangs_does_not_hold_the_study(
    kept: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    handle, store, run = kept
    back = threading.Event()
    monkeypatch.setattr(Run, "log_text", lambda *a: back.wait(60))
    monkeypatch.setattr(updater, "_PATIENCE", 0.2)
    start = time.monotonic()
    with ReportUpdater(handle, store, run.id):
        pass
    assert time.monotonic() - start < 10
    assert "the store does not answer" in caplog.text
    back.set()


@pytest.fixture
def study_file(project: Path, tiny: dict[str, Any]) -> Path:
    path = project / "studies" / "s.yaml"
    content = {
        "name": "s",
        "config": tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3},
        "space": {"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        "pruner": {"name": "none", "prune_after": 8},
        "trials": 2,
        "steps": 12,
        "report_every": 4,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def run_it(path: Path) -> StudyHandle:
    return run_study(load_definition(path), store=Store.open(), console=Console(quiet=True)).handle


def often(monkeypatch: pytest.MonkeyPatch, every: float = 0.0) -> None:
    def make(handle: StudyHandle, store: Store, parent: str) -> ReportUpdater:
        return ReportUpdater(handle, store, parent, every=every, look=0.1)

    monkeypatch.setattr(runner, "ReportUpdater", make)
    monkeypatch.setattr(updater, "_SHARE", 0.0)


def test_a_study_that_runs_keeps_its_report(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    log_text: Callable[..., None] = Run.log_text

    def log(self: Run, text: str, name: str) -> None:
        log_text(self, text, name)
        if name == REPORT:
            pages.append(text)

    monkeypatch.setattr(Run, "log_text", log)
    often(monkeypatch)
    handle = run_it(study_file)
    running = [page for page in pages if ">running<" in page]
    assert len(running) >= 2
    assert any('class="state running"' in page and 'data-at="#/' in page for page in running)
    run = Store.open().run(handle.study.user_attrs["mlflow_run_id"])
    last = page_of(run)
    assert last == pages[-1]
    assert ">finished<" in last
    assert last.count('data-at="#/experiments/') == 2
    best = handle.best()
    assert f"{best.score:.2f} (trial {best.number})" in last
    assert last.count("<img") == 1 + 2 + 1 + 2  # real_A, two trials, real_B, six of each
    assert "gain − 0.25 spectrum" in last


def test_a_report_that_fails_changes_no_study(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(facts: report.Facts) -> str:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(updater, "study_page", fail)
    often(monkeypatch, every=2.0)
    handle = run_it(study_file)
    states = {t.state for t in handle.study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE}
    assert Store.open().find_run("s").status == "FINISHED"
    assert sum("report can't be written" in r.getMessage() for r in caplog.records) == 1
