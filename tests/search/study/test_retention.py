"""Checkpoints stay if a trial can still be promoted or revived, and go otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyclegan import load_generator
from cyclegan.errors import DataError
from cyclegan.locks import exclusive
from cyclegan.score import GATED
from search.promotion import promote
from search.study import StudyHandle, run_study
from search.study import retention as module
from search.study.definition import StudyDefinition
from search.study.retention import can_continue, checkpoints_to_keep, release_checkpoints
from search.study.trials import Trial
from tracking import Store
from viz.console import Console

Define = Callable[..., StudyDefinition]
Begin = Callable[..., StudyHandle]

STATES = ("complete", "pruned", "failed", "running", "interrupted", "waiting")
FILES = ("checkpoint.pt", "checkpoint-00000008.pt", "checkpoint-00000004.pt", "best.pt")


def trial(number: int, state: str, score: float | None) -> Trial:
    return Trial(number=number, state=state, score=score)


def drawn(seed: int) -> list[Trial]:
    """Return any mixture of states and scores, including equal and gated ones."""
    source = np.random.default_rng(seed)
    scores = (None, GATED, -3.0, 0.0, 1.0, 2.0, 3.0, float(source.uniform(-5, 5)), float("nan"))
    draws = source.integers((len(STATES), len(scores)), size=(source.integers(30), 2))
    return [trial(n, STATES[i], scores[j]) for n, (i, j) in enumerate(draws.tolist())]


# -- the decision -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_what_is_kept_of_any_study(seed: int) -> None:
    trials = drawn(seed)
    source = np.random.default_rng(seed)
    keep = int(source.integers(1, 8))
    revived = set(np.flatnonzero(source.random(len(trials)) < 0.1).tolist())
    kept = checkpoints_to_keep(trials, keep, revived)

    assert set(kept) == {t.number for t in trials}
    for t in trials:
        unfinished = t.state in ("running", "interrupted", "waiting")
        assert (kept[t.number] == "all") == unfinished
        if t.number in revived:
            assert kept[t.number] != "none"
    for state in ("complete", "pruned"):
        own = [t for t in trials if t.state == state and t.number not in revived]
        stay = [t.score for t in own if kept[t.number] == "newest"]
        go = [t.score for t in own if kept[t.number] == "none" and t.score is not None]
        assert len(stay) <= keep
        assert all(s is not None and s == s for s in stay)
        assert not any(g > s for g in go for s in stay if s is not None)
        if any(g > GATED for g in go) and not revived:
            assert len(stay) == keep
    assert not any(
        kept[t.number] == "newest"
        for t in trials
        if t.number not in revived
        and (t.state == "failed" or (t.state == "pruned" and t.score == GATED))
    )


@pytest.mark.parametrize("seed", range(20))
def test_more_trials_keep_more_and_the_order_does_not_matter(seed: int) -> None:
    trials = drawn(seed)
    for keep in range(1, 6):
        few, many = (checkpoints_to_keep(trials, k) for k in (keep, keep + 1))
        assert all(many[n] != "none" for n in few if few[n] != "none")
        assert checkpoints_to_keep(trials[::-1], keep) == few


# -- the effect -------------------------------------------------------------------------------


def write_trial(folder: Path, files: tuple[str, ...] = FILES) -> Path:
    (folder / "save").mkdir(parents=True)
    for name in (*files, "generator.pt"):
        (folder / "save" / name).write_text(name)
    (folder / "run.json").write_text("{}")
    return folder


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "save").iterdir()}


@pytest.fixture
def handle(begin: Begin, define: Define) -> StudyHandle:
    """A study with a best, another, pruned, gated and running trial, and the folders of all."""
    trials: list[tuple[str, float | None]] = [
        ("complete", 1.0),
        ("complete", 2.0),
        ("pruned", 0.5),
        ("pruned", 0.2),
        ("pruned", GATED),
        ("failed", None),
        ("running", None),
    ]
    definition = define(checkpoints={"keep_trials": 1})
    study = begin([(state, score, {"lr_g": 1e-3}, {}) for state, score in trials], definition)
    for number in range(len(trials)):
        write_trial(study.trial_folder(number))
    return study


def test_only_what_can_be_promoted_or_revived_keeps_checkpoints(handle: StudyHandle) -> None:
    removed = release_checkpoints(handle)
    for number in range(7):
        expected = {"generator.pt"}
        if number in (1, 2):
            expected |= {"checkpoint.pt", "best.pt"}
        if number == 6:
            expected |= set(FILES)
        assert left(handle.trial_folder(number)) == expected, number
        assert can_continue(handle.trial_folder(number)) == (number in (1, 2, 6))
    assert len(removed) == len(set(removed)) == 4 * 4 + 2 * 2
    assert not any(path.exists() for path in removed)
    assert release_checkpoints(handle) == []


def test_a_trial_that_is_to_be_revived_keeps_its_checkpoint(handle: StudyHandle) -> None:
    handle.study.enqueue_trial({"lr_g": 1e-3}, user_attrs={"revives": 3})
    release_checkpoints(handle)
    assert can_continue(handle.trial_folder(3))
    assert not can_continue(handle.trial_folder(4))


def test_a_trial_revived_at_the_last_moment_keeps_its_checkpoint(
    handle: StudyHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def late(path: Path, what: str) -> Iterator[None]:
        with exclusive(path, what):
            if path.parent == handle.trial_folder(3):
                handle.study.enqueue_trial({"lr_g": 1e-3}, user_attrs={"revives": 3})
            yield

    monkeypatch.setattr(module, "exclusive", late)
    release_checkpoints(handle)
    assert can_continue(handle.trial_folder(3))


def test_further_seeds_go_with_their_trial(handle: StudyHandle) -> None:
    for number in (0, 1):
        write_trial(handle.trial_folder(number) / "seed-1")
    release_checkpoints(handle)
    assert left(handle.trial_folder(0) / "seed-1") == {"generator.pt"}
    assert left(handle.trial_folder(1) / "seed-1") == {"checkpoint.pt", "best.pt", "generator.pt"}


def test_an_older_checkpoint_stays_where_the_newest_is_gone(handle: StudyHandle) -> None:
    (handle.trial_folder(1) / "save" / "checkpoint.pt").unlink()
    release_checkpoints(handle)
    assert left(handle.trial_folder(1)) == {"checkpoint-00000008.pt", "best.pt", "generator.pt"}


def test_what_is_not_the_study_s_is_left_alone(handle: StudyHandle, tmp_path: Path) -> None:
    untouched = [
        write_trial(handle.results / "s-promoted-000"),
        write_trial(handle.results / "trial-099"),  # a number that the study does not have
        write_trial(handle.results / "trial-000-copy"),
        write_trial(handle.results / "trial-x"),
        write_trial(tmp_path / "results" / "other" / "trial-000"),
    ]
    no_record = handle.trial_folder(0)
    (no_record / "run.json").unlink()
    elsewhere = [write_trial(tmp_path / "elsewhere" / name) for name in ("whole", "half")]
    linked = handle.trial_folder(4)
    linked.rename(tmp_path / "moved")
    linked.symlink_to(elsewhere[0])
    half = handle.trial_folder(5) / "save"
    half.rename(tmp_path / "saved")
    half.symlink_to(elsewhere[1] / "save")
    release_checkpoints(handle)
    for folder in (*untouched, *elsewhere, no_record):
        assert left(folder) == {*FILES, "generator.pt"}, folder
    assert left(handle.trial_folder(3)) == {"generator.pt"}


def test_a_checkpoint_that_was_moved_and_linked_stays(handle: StudyHandle, tmp_path: Path) -> None:
    path = handle.trial_folder(0) / "save" / "checkpoint.pt"
    path.rename(tmp_path / "kept.pt")
    path.symlink_to(tmp_path / "kept.pt")
    release_checkpoints(handle)
    assert left(handle.trial_folder(0)) == {"checkpoint.pt", "generator.pt"}
    assert (tmp_path / "kept.pt").is_file()


def test_a_results_folder_on_another_disk_is_the_study_s(
    handle: StudyHandle, tmp_path: Path
) -> None:
    handle.results.rename(tmp_path / "large disk")
    handle.results.symlink_to(tmp_path / "large disk")
    assert release_checkpoints(handle)
    assert left(handle.trial_folder(0)) == {"generator.pt"}


def test_a_folder_somebody_trains_in_is_left_alone(handle: StudyHandle) -> None:
    with exclusive(handle.trial_folder(0) / ".lock", "trial 0"):
        release_checkpoints(handle)
    assert left(handle.trial_folder(0)) == {*FILES, "generator.pt"}
    assert left(handle.trial_folder(3)) == {"generator.pt"}
    release_checkpoints(handle)
    assert left(handle.trial_folder(0)) == {"generator.pt"}


@pytest.mark.slow
def test_a_real_study_can_be_promoted_from_what_is_left(
    project: Path, tiny: dict[str, Any], define: Define
) -> None:
    definition = define(
        config=tiny | {"filters": 4, "batch_size": 2, "lr_g": 5e-3},
        space={"lambdas.I_A": {"type": "float", "low": 3.0, "high": 9.0}},
        trials=2,
        checkpoints={"keep_trials": 1},
        promote={"steps": 14, "start": "continue"},
    )
    store, console = Store.open(), Console(quiet=True)
    handle = run_study(definition, store=store, console=console).handle
    best = handle.best().number
    (other,) = {0, 1} - {best}
    assert release_checkpoints(handle) == []  # the study has removed it
    assert left(handle.trial_folder(best)) == {"checkpoint.pt", "generator.pt"}
    assert not can_continue(handle.trial_folder(other))
    assert load_generator(handle.trial_folder(other) / "save" / "generator.pt").step
    with pytest.raises(DataError, match="promote with --from-scratch"):
        promote(handle, store=store, console=console, trial=other)
    promoted = promote(handle, store=store, console=console)
    assert (promoted.trial, promoted.finished.result.step) == (best, 14)
    # On another run, the study finds all of its trials complete.
    again = run_study(definition, store=store, console=console).handle
    assert [t.state for t in again.trials()] == ["complete"] * 2
