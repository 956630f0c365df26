"""A killed preparation resumes where it stopped, and ends with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.errors import BusyError, CycleGANError, DataError
from cyclegan.prepare import PrepareResult, Settings, forget, open_source, prepare_volume
from cyclegan.prepare import partial as part_module
from cyclegan.prepare.partial import exclusive

SLABS = 24
SETTINGS = Settings(slab_voxels=2 * 40 * 45)

_DRIVER = """
import contextlib, sys, time
from pathlib import Path
from cyclegan.prepare import Settings, open_source, prepare_volume, streaming
@contextlib.contextmanager
def slowly(label, total, start):
    yield lambda done: time.sleep(float(sys.argv[4]))
settings = Settings(slab_voxels=2 * 40 * 45, compression=sys.argv[3])
done = prepare_volume(open_source([Path(sys.argv[1])]), Path(sys.argv[2]), settings, report=slowly)
print(done.slabs_written)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(0).normal(5, 2, (2 * SLABS, 40, 45)).astype(np.float32))
    return path


def prepare(source: Path, output: Path, settings: Settings = SETTINGS) -> PrepareResult:
    return prepare_volume(open_source([source]), output, settings)


def start(source: Path, output: Path, pause: float, compression: str = "none") -> Any:
    arguments = [str(source), str(output), compression, str(pause)]
    return subprocess.Popen([sys.executable, "-c", _DRIVER, *arguments], stdout=subprocess.PIPE)


def written(output: Path) -> int:
    try:
        return int(json.loads(Path(f"{output}.part.json").read_text()).get("written", 0))
    except (OSError, ValueError):
        return 0


def kill_at(slab: int, source: Path, output: Path, compression: str = "none") -> int:
    process = start(source, output, 0.03, compression)
    deadline = time.monotonic() + 60
    while written(output) < slab and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return written(output)


def stop_at(slab: int, source: Path, output: Path) -> None:
    """Leave a partial file with `slab` slabs, without the cost of another process."""

    @contextlib.contextmanager
    def stopping(label: str, total: int, start: int) -> Any:
        def update(done: int) -> None:
            if label == "write" and done == slab:
                raise KeyboardInterrupt

        yield update

    with pytest.raises(KeyboardInterrupt):
        prepare_volume(open_source([source]), output, SETTINGS, report=stopping)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_after_kill_9_it_goes_on_and_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, compression: str
) -> None:
    settings = Settings(slab_voxels=SETTINGS.slab_voxels, compression=compression)
    whole, output = tmp_path / "whole.h5", tmp_path / "killed.h5"
    assert prepare(source, whole, settings).slabs_written == SLABS
    done = kill_at(7, source, output, compression)
    assert 7 <= done < SLABS
    assert not output.exists()
    assert prepare(source, output, settings).slabs_written == SLABS - done
    assert output.read_bytes() == whole.read_bytes()
    left = {f"{name}.h5{end}" for name in ("whole", "killed") for end in ("", ".part.json")}
    assert {p.name for p in tmp_path.iterdir()} == left | {"scan.npy"}


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again_it_ends_with_the_same_bytes(
    source: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole.h5", tmp_path / "killed.h5"
    prepare(source, whole)
    seen = []
    for delay in np.random.default_rng(3).uniform(0.3, 1.0, 5):
        process = start(source, output, 0.1)  # all slabs twice: five seconds
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        process.wait()
        seen.append(written(output))
    assert prepare(source, output).slabs_written == SLABS - seen[-1]
    assert seen == sorted(seen)
    assert output.read_bytes() == whole.read_bytes()


def test_a_part_is_not_believed_beyond_its_record(source: Path, tmp_path: Path) -> None:
    """Slabs missing from the record are written again, whatever the partial file holds."""
    whole, output = tmp_path / "whole.h5", tmp_path / "killed.h5"
    prepare(source, whole)
    stop_at(5, source, output)
    part = Path(f"{output}.part")
    with h5py.File(part, "r+") as handle:
        handle["data"][10:] = 99
    prepare(source, output)
    with h5py.File(output) as found, h5py.File(whole) as expected:
        np.testing.assert_array_equal(found["data"][:], expected["data"][:])


@pytest.mark.parametrize(
    "change", ["source", "settings", "part gone", "part damaged", "record damaged"]
)
def test_it_starts_afresh_unless_all_is_as_it_was(
    source: Path, tmp_path: Path, change: str
) -> None:
    output = tmp_path / "killed.h5"
    stop_at(5, source, output)
    part, settings = Path(f"{output}.part"), SETTINGS
    if change == "source":
        np.save(source, np.load(source) * 2 + 1)
    elif change == "settings":
        settings = Settings(slab_voxels=SETTINGS.slab_voxels, dtype="float32")
    elif change == "part gone":
        part.unlink()
    elif change == "part damaged":
        part.write_bytes(b"x" * 1000)
    else:
        Path(f"{output}.part.json").write_text("{")
    assert prepare(source, output, settings).slabs_written == SLABS
    array = np.load(source).astype(np.float64)
    with h5py.File(output) as handle:
        expected = (array - array.mean()) / array.std()
        np.testing.assert_allclose(handle["data"][:], expected, atol=2e-3)


def test_what_is_finished_is_not_made_again_until_it_is_forgotten(
    source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.h5"
    prepare(source, output)
    time_made = output.stat().st_mtime_ns
    again = prepare(source, output)
    assert again.slabs_written == 0 and output.stat().st_mtime_ns == time_made
    assert again.percentiles[50] == pytest.approx(np.median(np.load(source)), abs=0.02)
    forget(output, open_source([source]), SETTINGS)
    with pytest.raises(DataError, match="already exists"):
        prepare(source, output)


def test_a_full_disk_is_one_line_and_the_part_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.h5", tmp_path / "a.h5"
    prepare(source, whole)
    pwrite, calls = os.pwrite, iter(range(10**6))

    def full_after_20(*arguments: Any) -> int:
        if next(calls) >= 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*arguments)

    monkeypatch.setattr(part_module.os, "pwrite", full_after_20)
    with pytest.raises(CycleGANError, match=r"a\.h5: the disk is full.*again to resume"):
        prepare(source, output)
    assert not output.exists()
    monkeypatch.undo()
    assert 0 < prepare(source, output).slabs_written < SLABS
    assert output.read_bytes() == whole.read_bytes()


def test_a_disk_that_is_too_small_is_said_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little(path: Any) -> Any:
        return type("Disk", (), {"f_bavail": 10, "f_frsize": 4096})

    monkeypatch.setattr(part_module.os, "statvfs", little)
    with pytest.raises(CycleGANError, match=r"are needed, 4.1e-05 GB are free"):
        prepare(source, tmp_path / "a.h5")
    assert {p.name for p in tmp_path.iterdir()} == {"scan.npy"}


def test_a_source_that_changes_while_it_is_read_is_refused(source: Path, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def touching(label: str, total: int, start: int) -> Any:
        yield lambda done: os.utime(source, ns=(1, 1))

    with pytest.raises(DataError, match="changed while it was being read"):
        prepare_volume(open_source([source]), tmp_path / "a.h5", SETTINGS, report=touching)
    assert {p.name for p in tmp_path.iterdir()} == {"scan.npy"}


def test_two_processes_do_not_write_the_same_output(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    with exclusive(output), pytest.raises(BusyError, match="another process"):
        prepare(source, output)
    assert prepare(source, output).slabs_written == SLABS


def test_a_folder_without_permission_or_place_is_one_line(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CycleGANError, match="writing failed"):
        prepare(source, tmp_path / "file" / "a.h5")
