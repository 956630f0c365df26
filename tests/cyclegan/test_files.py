"""Files are written whole or not at all, and what a killed process leaves is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclegan import files
from cyclegan.files import replacing, write_text

_WRITER = """
import sys, time
from pathlib import Path
from cyclegan.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def as_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_swept", set())


def writer(target: Path) -> subprocess.Popen[bytes]:
    """Start a process that is half through writing `target`."""
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(target)])
    while not parts(target.parent):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


def test_the_next_writer_removes_what_a_killed_one_left_and_no_sooner(tmp_path: Path) -> None:
    process = writer(tmp_path / "other.h5")
    try:
        write_text(tmp_path / "a.txt", "whole")
        assert len(parts(tmp_path)) == 1, "its process lives"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    files._swept.clear()
    write_text(tmp_path / "a.txt", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_files_of_other_machines_and_other_programs_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = files._machine()
    kept = [
        f".a.elsewhere.{dead.pid}.0123abcd.part",
        f".a.{own}.{os.getpid()}.0123abcd.part",
        f".a.{own}.x.part",
        "a.part",
        "b.h5.part",
    ]
    for name in (*kept, f".a.{own}.{dead.pid}.0123abcd.part"):
        (tmp_path / name).write_text("")
    write_text(tmp_path / "new", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "new"])


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "n" * 251 + ".txt"])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == [name]
