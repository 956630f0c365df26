"""Checkpoints on disk: when they are written, how many stay, and which one is resumed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan import Trainer, checkpoints, parse_config
from cyclegan.callbacks import Callback
from cyclegan.checkpoints import (
    BEST_NAME,
    CHECKPOINT_NAME,
    Cadence,
    CheckpointFolder,
    newest_checkpoint,
)
from cyclegan.errors import CheckpointError


def state(iteration: int) -> dict[str, Any]:
    return {"format": checkpoints.CHECKPOINT_FORMAT, "iteration": iteration}


def iteration_of(path: Path) -> int:
    return int(checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))["iteration"])


def iterations(folder: Path) -> list[int]:
    return sorted(iteration_of(path) for path in folder.glob("checkpoint*.pt"))


@pytest.mark.parametrize(("keep", "left"), [(1, [50]), (2, [40, 50]), (3, [30, 40, 50])])
def test_the_newest_stay_and_older_ones_are_removed(
    tmp_path: Path, keep: int, left: list[int]
) -> None:
    folder = CheckpointFolder(tmp_path, keep)
    for iteration in (10, 20, 30, 40, 50):
        assert iteration_of(folder.save(state(iteration))) == iteration
    assert iterations(tmp_path) == left


def test_a_continued_training_keeps_what_it_continued_from(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, 2).save(state(10))
    again = CheckpointFolder(tmp_path, 2)
    again.continued_at(10)
    again.save(state(20))
    assert iterations(tmp_path) == [10, 20]


def test_writing_the_same_iteration_again_keeps_no_second_copy(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, 3)
    for iteration in (10, 20, 20):
        folder.save(state(iteration))
    assert iterations(tmp_path) == [10, 20]


def test_without_hard_links_older_ones_are_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = CheckpointFolder(tmp_path, 2)
    folder.save(state(10))
    folder.save(state(20))
    assert iterations(tmp_path) == [10, 20]


def test_a_damaged_newest_one_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path, 2)
    folder.save(state(10))
    newest = folder.save(state(20))
    newest.write_bytes(newest.read_bytes()[:100])
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert iteration_of(found) == 10
    assert "trying the previous one" in caplog.text


def test_none_there_is_none_and_all_damaged_is_an_error(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged"):
        newest_checkpoint(tmp_path)


def test_cadence_in_steps_and_minutes() -> None:
    now = [0.0]
    cadence = Cadence(100, 2.0, clock=lambda: now[0])
    assert [step for step in range(1, 301) if cadence.due(step)] == [100, 200, 300]
    now[0] = 121.0
    assert cadence.due(7)
    cadence.written()
    assert not cadence.due(8)
    assert not Cadence(100, None, clock=lambda: 1e9).due(7)


def test_the_best_state_is_kept_while_training_goes_on(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    class Scores(Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, int]] = []

        def on_validation_end(self, trainer: Trainer, report: Any) -> None:
            if report.gate is None:
                self.seen.append((report.score, -report.iteration))

    scores = Scores()
    values = tiny | {"keep_best_checkpoint": True, "steps": 24, "lr_g": 0.01}
    Trainer(parse_config(values), [scores], tmp_path).fit()
    best, iteration = max(scores.seen)
    kept = checkpoints.load(tmp_path / BEST_NAME, formats=(checkpoints.CHECKPOINT_FORMAT,))
    assert (kept["best_score"], kept["iteration"]) == (best, -iteration)
    assert -iteration < 24, "the test wants a best one before the end"


def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path: Path) -> None:
    content = state(7) | {"weights": torch.arange(64.0), "name": "train"}
    whole = tmp_path / "checkpoint.pt"
    checkpoints.save(content, whole)
    data, refused = whole.read_bytes(), 0
    damaged = tmp_path / "damaged.pt"
    for position in range(0, len(data), 13):
        flipped = bytearray(data)
        flipped[position] ^= 0x41
        damaged.write_bytes(flipped)
        try:
            found = checkpoints.load(damaged, formats=(checkpoints.CHECKPOINT_FORMAT,))
        except CheckpointError as error:
            assert str(damaged) in str(error)
            assert "\n" not in str(error)
            refused += 1
            continue
        assert torch.equal(found.pop("weights"), content["weights"]), position
        assert found == {name: value for name, value in content.items() if name != "weights"}
    assert refused > 10


def test_a_file_with_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "bomb.pt"
    torch.save({"format": checkpoints.CHECKPOINT_FORMAT, "bomb": Bomb()}, path)
    with pytest.raises(CheckpointError, match="reading it could run code") as caught:
        checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_newer_format_is_called_newer(tmp_path: Path) -> None:
    path = tmp_path / "newer.pt"
    checkpoints.save({"format": "cyclegan-checkpoint-2"}, path)
    with pytest.raises(CheckpointError, match="made by a newer version of this software"):
        checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))
    checkpoints.save({"format": "cyclegan-generator-1"}, path)
    with pytest.raises(CheckpointError, match="not a file of this software"):
        checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))
