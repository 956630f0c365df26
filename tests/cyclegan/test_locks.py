"""Locks: one holder at a time, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cyclegan.errors import BusyError, CycleGANError
from cyclegan.locks import FileLock, at_once, exclusive, is_free, one_at_a_time, waiting_for

HOLD = """
import sys, time
from pathlib import Path
from cyclegan.locks import exclusive
with exclusive(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_objects_are_strangers_even_within_one_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, two = FileLock(path), FileLock(path)
    assert is_free(path)
    assert not path.exists()
    assert one.acquire(wait=False)
    assert (one.held, two.held, is_free(path)) == (True, False, False)
    assert not two.acquire(wait=False)
    one.release()
    one.release()
    assert (one.held, is_free(path), path.exists()) == (False, True, True)
    assert two.acquire()
    del two  # as an object that nobody closes
    assert is_free(path)


def test_exclusive_names_the_holder_and_at_once_says_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    path.parent.mkdir()
    path.write_text("a much longer number of a process before")
    with exclusive(path, "the thing"):
        assert path.read_text() == str(os.getpid())
        text = f"the thing is in use by process {os.getpid()}; wait for it or stop it first"
        with pytest.raises(BusyError, match=text), exclusive(path, "the thing"):
            raise AssertionError
        with pytest.raises(BusyError, match="taken"), at_once(path, "taken"):
            raise AssertionError
    with at_once(path, "taken"):
        assert path.read_text() == str(os.getpid())  # its content is left alone
        assert not is_free(path)
    assert is_free(path)


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    line = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {process.pid};"), exclusive(path, "it"):
            raise AssertionError
        process.kill()
    assert is_free(path)
    with exclusive(path, "it"):
        assert path.read_text() == str(os.getpid())


@pytest.mark.parametrize("folder_too", [False, True])
def test_who_waited_for_a_lock_that_its_holder_removed_makes_it_anew(
    tmp_path: Path, folder_too: bool
) -> None:
    path = tmp_path / "folder" / "lock"
    path.parent.mkdir()
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    thread = threading.Thread(target=second.acquire)
    thread.start()
    time.sleep(0.2)
    assert not second.held
    path.unlink()
    if folder_too:
        shutil.rmtree(path.parent)
    first.release()
    thread.join(10)
    assert second.held
    assert not is_free(path)
    second.release()


def test_one_after_another(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with waiting_for(tmp_path / "new" / "lock"):
            order.append("second")

    with waiting_for(tmp_path / "new" / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_folder_is_a_lock_without_a_file(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "none"), one_at_a_time(tmp_path / "none"):
        assert list(tmp_path.iterdir()) == []
    waited = threading.Event()

    def second() -> None:
        with one_at_a_time(tmp_path):
            waited.set()

    thread = threading.Thread(target=second)
    with one_at_a_time(tmp_path):
        thread.start()
        assert not waited.wait(0.2)
    assert waited.wait(10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_asking_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(0o444)
    assert is_free(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    path = tmp_path / "lock"
    for hold in (
        lambda: exclusive(path, "it").__enter__(),
        lambda: waiting_for(path).__enter__(),
        lambda: at_once(path, "busy").__enter__(),
        lambda: is_free(path),
    ):
        with pytest.raises(CycleGANError, match="has no file locks") as caught:
            hold()
        assert str(caught.value).startswith(f"{tmp_path}: its file system")
    with one_at_a_time(tmp_path):
        pass
