"""Temporary files: none for what lies on this machine, and none left by killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tracking import Run
from tracking.scratch import remove_dead_scratch

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
