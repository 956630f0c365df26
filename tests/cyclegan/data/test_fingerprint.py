"""Fingerprints find every change of a dataset's files, and read a large file once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import DatasetSpec
from cyclegan.data import fingerprint as module
from cyclegan.data.fingerprint import MISSING, check_unchanged, combined, file_hashes, fingerprint
from cyclegan.errors import DataError

Noise = Callable[..., np.ndarray]


def write_json(folder: Path, *names: str, dset: str = "data") -> Path:
    entries = [{"path": name, "dset": dset} for name in names]
    path = folder / "set.json"
    path.write_text(json.dumps({"train": entries[:1], "validate": entries[1:] or entries}))
    return path


def write(path: Path, array: np.ndarray, name: str = "data") -> Path:
    with h5py.File(path, "w") as handle:
        handle[name] = array
    return path


def names(hashes: dict[str, str]) -> list[str]:
    return [Path(path).name for path in hashes]


def test_hashes_are_those_of_sha256sum_and_change_with_any_byte(
    tmp_path: Path, noise: Noise
) -> None:
    for name, seed in (("a.h5", 0), ("b.h5", 1)):
        write(tmp_path / name, noise(4, 5, 6, seed=seed))
    dataset = write_json(tmp_path, "a.h5", "b.h5")
    before = fingerprint(dataset)
    assert before == {
        str(path): "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (dataset, tmp_path / "a.h5", tmp_path / "b.h5")
    }
    content = bytearray((tmp_path / "b.h5").read_bytes())
    content[-1] ^= 1
    (tmp_path / "b.h5").write_bytes(content)
    after = fingerprint(dataset)
    assert {k for k in before if before[k] != after[k]} == {str(tmp_path / "b.h5")}
    assert combined(before) != combined(after)


def test_a_file_that_has_changed_since_it_was_prepared_is_refused(
    tmp_path: Path, noise: Noise
) -> None:
    volume = write(tmp_path / "a.h5", noise(4, 5, 6))
    hashes = file_hashes([volume])
    entry = {"path": "a.h5", "dset": "data", "hash": hashes[str(volume)]}
    dataset = tmp_path / "set.json"
    dataset.write_text(json.dumps({"train": [entry], "validate": [entry]}))
    check_unchanged(DatasetSpec.load(dataset).train, dataset)
    content = bytearray(volume.read_bytes())
    content[-1] ^= 1
    volume.write_bytes(content)
    with pytest.raises(
        DataError, match=r"a\.h5 has changed since it was prepared: sha256:.* now; "
    ):
        check_unchanged(DatasetSpec.load(dataset).train, dataset)
    del entry["hash"]
    dataset.write_text(json.dumps({"train": [entry], "validate": [entry]}))
    check_unchanged(DatasetSpec.load(dataset).train, dataset)


def test_moved_data_have_other_paths_and_the_same_combined_hash(
    tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "a.h5", noise(4, 5, 6))
    dataset = write_json(tmp_path / "one", "a.h5")
    before = fingerprint(dataset)
    (tmp_path / "one").rename(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    after = fingerprint(Path("two/set.json"))
    assert list(after) == ["two/set.json", "two/a.h5"]
    assert combined(before) == combined(after)


def test_the_json_itself_counts(tmp_path: Path, noise: Noise) -> None:
    write(tmp_path / "a.h5", noise(4, 5, 6))
    dataset = write_json(tmp_path, "a.h5")
    before = fingerprint(dataset)
    content = json.loads(dataset.read_text())
    content["train"][0]["ROI0"] = [0, 3]
    dataset.write_text(json.dumps(content))
    after = fingerprint(dataset)
    assert before[str(dataset)] != after[str(dataset)]
    assert before[str(tmp_path / "a.h5")] == after[str(tmp_path / "a.h5")]


# -- files behind files -----------------------------------------------------------------------


def virtual(path: Path, sources: list[tuple[str, str]]) -> None:
    layout = h5py.VirtualLayout((4 * len(sources), 5, 6), "f4")
    for i, (name, dset) in enumerate(sources):
        layout[4 * i : 4 * i + 4] = h5py.VirtualSource(name, dset, (4, 5, 6))
    with h5py.File(path, "w") as handle:
        handle.create_virtual_dataset("data", layout, fillvalue=0)


def test_links_are_followed_from_file_to_file(tmp_path: Path, noise: Noise) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "end.h5", noise(4, 5, 6), "entry/tomo")
    with h5py.File(tmp_path / "raw" / "middle.h5", "w") as handle:
        handle["next"] = h5py.ExternalLink("end.h5", "/entry")
    with h5py.File(tmp_path / "start.h5", "w") as handle:
        handle["group/linked"] = h5py.ExternalLink("raw/middle.h5", "/next")
        handle["data"] = h5py.SoftLink("/group/linked/tomo")
    found = names(fingerprint(write_json(tmp_path, "start.h5")))
    assert found == ["set.json", "start.h5", "middle.h5", "end.h5"]
    direct = write_json(tmp_path, "start.h5", dset="group/linked/tomo")
    assert names(fingerprint(direct)) == found


def test_a_nexus_default_behind_a_link_is_found(tmp_path: Path, noise: Noise) -> None:
    write(tmp_path / "far.h5", noise(4, 5, 6), "tomo")
    with h5py.File(tmp_path / "v.nx", "w") as handle:
        group = handle.create_group("entry/data")
        group.attrs["NX_class"], group.attrs["signal"] = "NXdata", "volume"
        group["volume"] = h5py.ExternalLink("far.h5", "/tomo")
        handle.attrs["default"], handle["entry"].attrs["default"] = "entry", "data"
    assert names(fingerprint(write_json(tmp_path, "v.nx"))) == ["set.json", "v.nx", "far.h5"]


def test_virtual_datasets_count_with_all_their_sources(tmp_path: Path, noise: Noise) -> None:
    write(tmp_path / "end.h5", noise(4, 5, 6), "tomo")
    virtual(tmp_path / "inner.h5", [("end.h5", "tomo")])
    write(tmp_path / "part.h5", noise(4, 5, 6, seed=1), "tomo")
    virtual(tmp_path / "outer.h5", [("inner.h5", "data"), ("part.h5", "tomo")])
    dataset = write_json(tmp_path, "outer.h5")
    before = fingerprint(dataset)
    assert sorted(names(before)) == sorted(
        ["set.json", "outer.h5", "inner.h5", "end.h5", "part.h5"]
    )
    write(tmp_path / "end.h5", noise(4, 5, 6, seed=2), "tomo")
    after = fingerprint(dataset)
    assert [k for k in before if before[k] != after[k]] == [str(tmp_path / "end.h5")]
    (tmp_path / "part.h5").unlink()  # may lie outside of the region
    assert fingerprint(dataset)[str(tmp_path / "part.h5")] == MISSING


def test_voxels_in_raw_files_count(
    tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    array = noise(4, 5, 6)
    (tmp_path / "voxels.raw").write_bytes(array.tobytes())
    with h5py.File("v.h5", "w") as handle:
        handle.create_dataset(
            "data", array.shape, array.dtype, external=[("voxels.raw", 0, array.nbytes)]
        )
    assert list(fingerprint(write_json(Path(), "v.h5"))) == ["set.json", "v.h5", "voxels.raw"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"v\.h5: no such file"),
        (lambda path: os.truncate(path, 1000), r"v\.h5: not a readable HDF5 file \(truncated"),
        (lambda path: path.write_text("text"), r"v\.h5: not a readable HDF5 file"),
    ],
    ids=["missing", "truncated", "text"],
)
def test_damage_is_one_clear_line(
    tmp_path: Path, noise: Noise, damage: Callable[[Path], Any], message: str
) -> None:
    damage(write(tmp_path / "v.h5", noise(8, 9, 10)))
    with pytest.raises(DataError, match=message) as caught:
        fingerprint(write_json(tmp_path, "v.h5"))
    assert "\n" not in str(caught.value)


# -- large files ------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset JSON of one file that counts as large."""
    monkeypatch.setattr(module, "_CACHED_FROM_BYTES", 1000)
    path = write(tmp_path / "v.h5", noise(8, 20, 20))
    age(path)
    return write_json(tmp_path, "v.h5")


def age(path: Path) -> None:
    os.utime(path, (time.time() - 100,) * 2)


@pytest.fixture
def much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the files were written long ago: their times can't be set back."""
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 1000)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, in order."""
    done: list[str] = []
    original = hashlib.file_digest

    def digest(handle: Any, name: str) -> Any:
        done.append(Path(handle.name).name)
        return original(handle, name)

    monkeypatch.setattr(module.hashlib, "file_digest", digest)
    return done


@pytest.mark.usefixtures("much_later")
def test_a_large_file_is_read_once(large: Path, reads: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "local" / "cache.json"
    first = fingerprint(large, cache=cache)
    assert fingerprint(large, cache=cache) == first
    assert reads.count("v.h5") == 1
    fingerprint(large)
    assert reads.count("v.h5") == 2


@pytest.mark.usefixtures("much_later")
def test_a_change_that_keeps_size_and_time_is_found(large: Path, tmp_path: Path) -> None:
    cache, path = tmp_path / "cache.json", tmp_path / "v.h5"
    before, times = fingerprint(large, cache=cache), path.stat()
    with path.open("rb+") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\xff")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert fingerprint(large, cache=cache)[str(path)] != before[str(path)]


def test_a_file_just_written_is_not_remembered(
    large: Path, reads: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        fingerprint(large, cache=tmp_path / "cache.json")
    assert reads.count("v.h5") == 2


@pytest.mark.usefixtures("much_later")
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"%s": 3}', '{"%s": {"hash": 1}}'])
def test_a_damaged_cache_is_ignored_and_mended(
    large: Path, reads: list[str], tmp_path: Path, text: str
) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(text.replace("%s", str(tmp_path / "v.h5")))
    first = fingerprint(large, cache=cache)
    assert fingerprint(large, cache=cache) == first == fingerprint(large)
    assert reads.count("v.h5") == 2  # again without a cache


@pytest.mark.usefixtures("much_later")
def test_a_cache_that_cannot_be_written_is_no_error(large: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fingerprint(large, cache=tmp_path / "file" / "cache.json") == fingerprint(large)


def test_of_a_huge_file_samples_are_read_and_its_ends_and_size_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(module, "SAMPLES", 5)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 100)
    path = write(tmp_path / "v.h5", np.arange(6000, dtype="f4").reshape(10, 20, 30))
    dataset = write_json(tmp_path, "v.h5")

    def value() -> str:
        return fingerprint(dataset)[str(path)]

    before, content = value(), path.read_bytes()
    assert before.startswith("sampled-sha256:")
    last = len(content) - 1
    for place in (last, last - 99, (last - 99) // 4 + 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert value() != before, place
    path.write_bytes(content + b"\0")
    assert value() != before
    changed = bytearray(content)
    changed[last - 200] ^= 1  # between two samples: the docs say that this is not found
    path.write_bytes(changed)
    assert value() == before


def test_a_file_written_to_meanwhile_is_refused(
    tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "v.h5", noise(4, 5, 6))
    original = hashlib.file_digest

    def digest(handle: Any, name: str) -> Any:
        result = original(handle, name)
        if handle.name == str(path):
            with path.open("ab") as other:
                other.write(b"more")
        return result

    monkeypatch.setattr(module.hashlib, "file_digest", digest)
    with pytest.raises(DataError, match=r"v\.h5 changed while it was being read"):
        fingerprint(write_json(tmp_path, "v.h5"))
