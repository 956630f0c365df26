"""Temporary files: none for what lies on this machine, and none left by killed processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cyclegan.config import Config
from cyclegan.trainer import Trainer
from tracking import Run, Store, TrackingCallback
from tracking.artifacts import half_written
from tracking.cycle_volumes import CycleVolume
from tracking.process import PROCESS
from tracking.repair import tidy
from tracking.scratch import remove_dead_scratch
from workbench.doctor import examine_and_repair

_MAKE = "from tracking.scratch import scratch_folder as f; p = f(); print(p, flush=True); input()"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the system names for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_file_on_this_machine_is_read_where_it_is(run: Run, temporary: Path) -> None:
    run.log_text("text", "folder/note.txt")
    path = run.artifact_path("folder/note.txt")
    assert path.is_relative_to(run.location.outboxes.parent / "artifacts" / run.id)
    assert run.artifact_path("folder") == path.parent
    assert not list(temporary.iterdir())


def test_the_folder_goes_with_its_process_or_after_it(temporary: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _MAKE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    processes = [start() for _ in range(3)]
    folders = []
    for process in processes:
        assert process.stdout is not None
        folders.append(Path(process.stdout.readline().strip()))
    assert all(folder.is_dir() and folder.is_relative_to(temporary) for folder in folders)
    ended, killed, alive = processes
    ended.communicate("\n")
    assert not folders[0].parent.exists()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    remove_dead_scratch()
    assert not folders[1].parent.exists()
    assert folders[2].is_dir()
    alive.communicate("\n")
    assert not list(temporary.iterdir())


def dead_process() -> str:
    code = "from tracking.process import this_process; print(this_process())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_killed_upload_leaves_nothing(run: Run, store: Store) -> None:
    run.log_text("text", "whole.txt")
    folder = run.artifact_path("whole.txt").parent
    for name in (".artifact.uploading.x3k2", ".whole.txt.1234.0a1b2c3d.part"):
        (folder / name).write_text("half")
    assert not half_written(folder, quiet_seconds=3600)
    run.set_tags({PROCESS: dead_process()})
    tidy(store, lambda text: None)
    assert [path.name for path in folder.iterdir()] == ["whole.txt"]
    (folder / ".artifact.uploading.x3k2").write_text("half")  # by a registration after the end
    os.utime(folder / ".artifact.uploading.x3k2", (0, 0))
    examine_and_repair(store)
    assert [path.name for path in folder.iterdir()] == ["whole.txt"]


def test_a_full_folder_for_temporary_files_loses_no_volume(
    run: Run, temporary: Path, tiny: Callable[..., Config]
) -> None:
    trainer = Trainer(tiny(steps=4), [TrackingCallback(run, images=False)])
    shutil.rmtree(temporary)
    temporary.touch()  # nothing can be made there any more
    trainer.fit()
    assert run.artifact_names("volumes") == ["volumes/cycle_00000004.h5"]
    assert run.artifact_names("viewer") == ["viewer/cycle_00000004.html"]
    run.log_file(run.artifact_path("config.yaml"), "copies", "other.yaml")
    assert run.artifact_names("copies") == ["copies/other.yaml"]


def test_a_volume_that_waits_needs_no_folder_for_temporary_files(
    run: Run, temporary: Path, tmp_path: Path
) -> None:
    temporary.rmdir()
    temporary.touch()
    names = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
    image = np.zeros((1, 1, 4, 4, 4), np.float32)
    about = {"iteration": 4, "step": 4, "score": 1.0, "run": "r"}
    packed = CycleVolume(dict.fromkeys(names, image), about).pack(tmp_path / ".1.bulk.part")
    assert set(CycleVolume.unpack(packed, tmp_path / ".1.bulk.part").images) == set(names)
