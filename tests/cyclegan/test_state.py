"""Files: under the final name there is only a complete file, without code."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclegan import checkpoints
from cyclegan.errors import CheckpointError, CycleGANError, DataError
from cyclegan.files import refuse_overwrite, replacing, write_text
from cyclegan.history import MetricHistory


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="half"), replacing(path) as temporary:
        temporary.write_text("half")
        raise ValueError("half way")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError("Can't write data (file write failed: errno = 28)"), "the disk is full"),
        (RuntimeError("file write failed, errno = 28, error message = 'No space'"), "disk is full"),
        (PermissionError(errno.EACCES, "denied"), "no permission"),
    ],
)
def test_errors_of_the_disk_are_one_clear_line(
    tmp_path: Path, error: Exception, words: str
) -> None:
    with pytest.raises(CycleGANError, match=words) as caught, replacing(tmp_path / "a") as part:
        part.write_text("x")
        raise error
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), replacing(tmp_path / "a"):
        raise RuntimeError("shapes do not match")


def test_refuse_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a"
    refuse_overwrite(path, overwrite=False)
    path.write_text("x")
    refuse_overwrite(path, overwrite=True)
    with pytest.raises(DataError, match="--overwrite"):
        refuse_overwrite(path, overwrite=False)


def test_saved_state_comes_back_and_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    content = {"format": "x", "tensor": torch.arange(3), "nested": {"list": [1, "a", None]}}
    checkpoints.save(content, path)
    back = checkpoints.load(path, formats=("x", "y"))
    assert back["nested"] == content["nested"]
    assert torch.equal(back["tensor"], content["tensor"])
    with pytest.raises(CheckpointError, match="expected z"):
        checkpoints.load(path, formats=("z",))


def test_host_copy_is_independent() -> None:
    original = {"a": [torch.zeros(2)], "b": 1}
    copy = checkpoints.to_host(original)
    original["a"][0] += 1
    assert copy["a"][0].tolist() == [0, 0]


def history_of(steps: list[int]) -> MetricHistory:
    history = MetricHistory()
    for iteration, step in enumerate(steps, start=1):
        history.append(iteration, step, {"loss": torch.tensor(float(iteration))})
    return history


def test_history_by_iteration_and_along_the_accepted_path() -> None:
    history = history_of([1, 2, 3, 4])
    history.discard_after(2)
    history.append(5, 3, {"loss": torch.tensor(5.0)})
    assert [row.iteration for row in history.rows()] == [1, 2, 3, 4, 5]
    assert [row.iteration for row in history.rows(after=3)] == [4, 5]
    assert history.column("loss").tolist() == [1, 2, 5]
    history.discard_after(1)
    assert history.column("loss").tolist() == [1]


def test_history_survives_its_state() -> None:
    history = history_of([1, 2, 3])
    history.discard_after(2)
    other = MetricHistory()
    other.load_state_dict(history.state_dict())
    assert other.rows() == history.rows()
    assert other.column("loss").tolist() == [1, 2]
    empty = MetricHistory()
    empty.load_state_dict(MetricHistory().state_dict())
    assert empty.rows() == []


def test_whatever_a_file_holds_reading_it_ends_in_one_clear_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "checkpoint.pt"
    checkpoints.save({"format": checkpoints.CHECKPOINT_FORMAT, "x": torch.arange(100)}, path)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), len(whole) // 20)]
    damaged += [bytes(random.integers(0, 256, size=n, dtype=np.uint8)) for n in (1, 3, 50, 500)]
    damaged += [b"half", b"\x80\x02garbage", b"PK\x03\x04" + b"0" * 40]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a checkpoint, or a damaged one"):
            checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))
