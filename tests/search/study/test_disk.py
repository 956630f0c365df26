"""A study stops before it fills a disk or its budget, and says what would help."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cyclegan import Trainer, parse_config
from cyclegan.errors import CycleGANError
from cyclegan.footprint import checkpoint_bytes
from search.rollback import RollbackOptimizer
from search.study import StudyHandle, worker
from search.study.definition import StudyDefinition
from search.study.retention import check_disk, expected_bytes

Define = Callable[..., StudyDefinition]
Begin = Callable[..., StudyHandle]

MB = 1_000_000


def plenty(path: Path) -> int:
    return 10**15


def fill(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


@pytest.mark.parametrize(
    ("used", "expected", "stops"),
    [(4 * MB, 6 * MB, False), (4 * MB, 6 * MB + 1, True), (0, 11 * MB, True), (11 * MB, 0, True)],
)
def test_the_budget_stops_a_study_in_time(
    define: Define, tmp_path: Path, used: int, expected: int, stops: bool
) -> None:
    definition = define(checkpoints={"disk_gb": 0.01, "keep_trials": 3})
    results = tmp_path / "results" / "s"
    fill(results / "trial-000" / "save" / "checkpoint.pt", used)
    if not stops:
        check_disk(definition, results, expected, free=plenty)
        return
    with pytest.raises(CycleGANError) as caught:
        check_disk(definition, results, expected, free=plenty)
    for text in ("checkpoints.disk_gb = 0.01", "raise it", "keep_trials = 3", str(results)):
        assert text in str(caught.value)


def test_without_a_budget_only_free_space_counts(define: Define, tmp_path: Path) -> None:
    asked: list[Path] = []

    def free(path: Path) -> int:
        asked.append(path)
        return 105 * MB

    results = tmp_path / "not" / "made" / "yet"
    check_disk(define(), results, 100 * MB, free=free)
    assert asked == [tmp_path]  # the folder it will be in
    with pytest.raises(CycleGANError, match=r"has 0\.105 GB free and one more trial takes about"):
        check_disk(define(), results, 101 * MB, free=free)


def test_the_real_disk_is_asked(define: Define, tmp_path: Path) -> None:
    check_disk(define(), tmp_path, 1000)
    with pytest.raises(CycleGANError, match="free some space"):
        check_disk(define(), tmp_path, 2 * shutil.disk_usage(tmp_path).total)


def test_a_file_counts_once_and_what_links_lead_to_does_not(define: Define, tmp_path: Path) -> None:
    definition = define(checkpoints={"disk_gb": 0.01})
    results = tmp_path / "results" / "s"
    path = fill(results / "trial-000" / "save" / "checkpoint.pt", 6 * MB)
    os.link(path, path.with_name("checkpoint-00000004.pt"))
    fill(tmp_path / "elsewhere" / "big.bin", 50 * MB)
    (results / "link").symlink_to(tmp_path / "elsewhere")
    (results / "file").symlink_to(tmp_path / "elsewhere" / "big.bin")
    check_disk(definition, results, 3 * MB, free=plenty)
    with pytest.raises(CycleGANError, match="takes 6 MB"):
        check_disk(definition, results, 5 * MB, free=plenty)


# -- disk space of a trial --------------------------------------------------------------------


def test_a_first_trial_takes_no_more_than_expected(
    begin: Begin, define: Define, tiny: dict[str, Any]
) -> None:
    definition = define(config=tiny | {"filters": 8, "keep_checkpoints": 2, "checkpoint_every": 2})
    handle = begin([], definition)
    expected = expected_bytes(handle)
    folder = handle.trial_folder(0) / "save"
    Trainer(definition.config_of(0, {}), folder=folder).fit()
    taken = sum(path.stat().st_size for path in folder.iterdir())
    assert taken < expected < 3 * taken


def test_the_largest_trial_so_far_is_a_measure(begin: Begin, define: Define) -> None:
    handle = begin([], define(seeds=2))
    before = expected_bytes(handle)
    fill(handle.trial_folder(0) / "save" / "checkpoint.pt", 20 * MB)
    fill(handle.trial_folder(1) / "train" / "iteration-4.png", 3 * MB)
    fill(handle.trial_folder(2) / "save" / "checkpoint.pt", 30 * MB)
    after = expected_bytes(handle)
    assert before < 3 * MB
    # Two checkpoints of each of two seeds, one in writing, and the pictures.
    assert after == (2 * 2 + 1) * 30 * MB + 3 * MB


def test_a_searched_key_that_makes_networks_larger_counts(begin: Begin, define: Define) -> None:
    space = {"filters": {"type": "int", "low": 2, "high": 16}}
    small = expected_bytes(begin([], define("a")))
    assert expected_bytes(begin([], define("b", space=space))) > 10 * small


def test_snapshots_of_the_rollback_optimizer_count(tiny: dict[str, Any], tmp_path: Path) -> None:
    ring = {"enabled": True, "snapshot_every": 2, "check_every": 2, "warmup": 100, "keep": 3}
    config = parse_config(tiny | {"filters": 8, "hp_optimizer": ring})
    Trainer(config, [RollbackOptimizer(config.hp_optimizer)], folder=tmp_path).fit()
    size = (tmp_path / "checkpoint.pt").stat().st_size
    alone = checkpoint_bytes(parse_config(tiny | {"filters": 8}))
    assert 3 * alone < size < checkpoint_bytes(config) < 7 * alone


def test_checkpoints_that_nobody_needs_go_before_a_trial_is_refused(
    define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may wait for their turn: with thousands of trials looking for them takes long."""
    waiting = [Path("checkpoint.pt")]
    tried: list[int] = []

    def check(definition: object, results: object, expected: int) -> None:
        tried.append(len(waiting))
        if waiting:
            raise CycleGANError("no room")

    def release(handle: object) -> list[Path]:
        gone = waiting[:]
        waiting.clear()
        return gone

    monkeypatch.setattr("search.study.worker.check_disk", check)
    monkeypatch.setattr("search.study.worker.release_checkpoints", release)
    handle: Any = SimpleNamespace(definition=define(), results=Path("results"))
    worker._check_room(handle, 1)
    assert tried == [1, 0]
    monkeypatch.setattr("search.study.worker.release_checkpoints", lambda handle: [])
    waiting.append(Path("checkpoint.pt"))
    with pytest.raises(CycleGANError, match="no room"):
        worker._check_room(handle, 1)
