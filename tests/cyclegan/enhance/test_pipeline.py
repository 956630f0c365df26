"""Reading, computing, compressing and writing overlap, in bounded memory and in one order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import Statistics, Volume, VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file, pipeline
from cyclegan.enhance.chunks import FILTERS, Compression
from cyclegan.enhance.partial import Layout, PartStore, part_folder
from cyclegan.enhance.pipeline import TileWriter, read_ahead
from cyclegan.errors import CycleGANError, DataError
from cyclegan.networks import build_generator, initialise

LONG = 20.0
"""Seconds after which something that should happen counts as never happening."""


def layout() -> dict[str, Layout]:
    return {"data": Layout(shape=(64, 16, 16), chunks=(8, 8, 8))}


def core(number: int) -> dict[str, Any]:
    array = np.random.default_rng(number).normal(size=(16, 16, 16)).astype(np.float32)
    return {"data": ((16 * number, 0, 0), array)}


@contextlib.contextmanager
def store_in(folder: Path) -> Iterator[PartStore]:
    folder.mkdir()
    with contextlib.closing(PartStore(folder, layout())) as store:
        yield store


# -- reading ahead --------------------------------------------------------------------------------


def test_the_next_item_is_read_while_one_is_in_use_and_no_more() -> None:
    begun = [threading.Event() for _ in range(5)]

    def read(item: int) -> int:
        begun[item].set()
        return item**2

    seen = []
    for item, value in read_ahead(range(5), read):
        seen.append((item, value))
        if item < 4:
            assert begun[item + 1].wait(LONG)
        assert not any(event.is_set() for event in begun[item + 2 :])
    assert seen == [(n, n**2) for n in range(5)]


def test_what_can_not_be_read_fails_in_its_turn() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise DataError("chunk 2 is damaged")
        return item

    seen = []
    with pytest.raises(DataError, match="chunk 2"):
        for item, _ in read_ahead(range(5), read):
            seen.append(item)
    assert seen == [0, 1]


# -- writing behind -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 7])
def test_threads_change_no_byte(tmp_path: Path, threads: int) -> None:
    for folder, count in (("one", 1), ("more", threads)):
        with store_in(tmp_path / folder) as store, TileWriter(store, count) as writer:
            for number in range(4):
                writer.add(number, core(number))
    for name in ("chunks.bin", "journal.jsonl"):
        one = (tmp_path / "one" / name).read_bytes()
        assert one == (tmp_path / "more" / name).read_bytes() != b""


class Slow(PartStore):
    """A store that writes when it may, and remembers how many tiles it was ever behind."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, layout())
        self.may, self.fails = threading.Event(), False

    def add(self, tile: int, chunks: Any) -> None:
        assert self.may.wait(LONG)
        if self.fails:
            raise OSError(28, "No space left on device")
        super().add(tile, chunks)


def test_the_caller_goes_on_while_a_tile_is_written_but_not_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_PER_THREAD", 1)  # every tile is larger
    with contextlib.closing(Slow(tmp_path)) as store, TileWriter(store, 2) as writer:
        writer.add(0, core(0))  # returns although nothing is written
        assert not store.finished
        second = threading.Thread(target=writer.add, args=(1, core(1)))
        second.start()
        second.join(0.2)
        assert second.is_alive()  # two tiles would be in memory
        store.may.set()
        second.join(LONG)
        assert not second.is_alive() and 0 in store.finished


def test_small_tiles_wait_together(tmp_path: Path) -> None:
    """Otherwise tiles of one chunk would occupy one thread."""
    with contextlib.closing(Slow(tmp_path)) as store, TileWriter(store, 2) as writer:
        for number in range(4):
            writer.add(number, core(number))
        store.may.set()
    assert store.finished == set(range(4))


def test_a_full_disk_is_the_callers_error_and_leaves_no_hole(tmp_path: Path) -> None:
    store = Slow(tmp_path)
    with (
        contextlib.closing(store),
        pytest.raises(OSError, match="No space"),
        TileWriter(store, 1) as writer,
    ):
        store.may.set()
        writer.add(0, core(0))
        writer._waiting[-1][1].result(LONG)
        store.fails = True
        writer.add(1, core(1))
        assert isinstance(writer._waiting[-1][1].exception(LONG), OSError)
        store.fails = False  # somebody made room
        writer.add(2, core(2))
    assert store.finished == {0}


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, CycleGANError])
def test_tiles_that_were_computed_before_an_error_are_written(
    tmp_path: Path, error: type[BaseException]
) -> None:
    store = Slow(tmp_path)
    with contextlib.closing(store), pytest.raises(error), TileWriter(store, 1) as writer:
        for number in range(3):
            writer.add(number, core(number))
        threading.Timer(0.1, store.may.set).start()
        raise error
    assert store.finished == {0, 1, 2}


def test_a_second_interruption_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Slow(tmp_path)

    def again(self: TileWriter, most: int) -> None:
        store.may.set()  # what is being written is not torn
        raise KeyboardInterrupt

    with (
        contextlib.closing(store),
        pytest.raises(KeyboardInterrupt),
        TileWriter(store, 1) as writer,
    ):
        for number in range(4):
            writer.add(number, core(number))
        monkeypatch.setattr(TileWriter, "_wait", again)
        raise KeyboardInterrupt
    assert len(store.finished) < 4


# -- whole enhancements ---------------------------------------------------------------------------

TILE = (16, 16, 16)


@pytest.fixture
def task(tmp_path: Path) -> tuple[Any, VolumeEntry, Path]:
    """A network, a volume, and the path of the result."""
    network = build_generator("UNetSim3d", filters=2, activation="leaky_relu")
    initialise(network, std=0.3)
    image = np.random.default_rng(0).normal(size=(48, 32, 20)).astype(np.float32)
    with h5py.File(tmp_path / "in.h5", "w") as handle:
        handle.create_dataset("data", data=image, chunks=(4, 32, 20), compression="gzip")
    return network, VolumeEntry(path=tmp_path / "in.h5", dset="data"), tmp_path / "out.h5"


def as_hdf5_does(
    block: np.ndarray, chunks: tuple[int, ...], compression: Compression
) -> tuple[int, bytes]:
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        shape = (None,) * block.ndim
        made = file.create_dataset(
            "d", block.shape, "f4", chunks=chunks, maxshape=shape, **FILTERS[compression]
        )
        made[...] = block
        file.flush()
        mask, data = made.id.read_direct_chunk((0,) * block.ndim)
        return int(mask), bytes(data)


def test_tiles_of_the_version_before_are_continued(
    task: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It compressed them in HDF5: other bytes, the same filter and the same voxels."""
    network, source, output = task

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "encode", as_hdf5_does)
        with pytest.raises(KeyboardInterrupt):
            enhance_file(network, source, output, EnhanceSettings(tile=TILE), on_progress=stop)
        enhance_file(network, source, tmp_path / "before.h5", EnhanceSettings(tile=TILE))
    done = enhance_file(network, source, output, EnhanceSettings(tile=TILE))
    assert 0 < done.resumed < done.tiles
    with h5py.File(output) as new, h5py.File(tmp_path / "before.h5") as old:
        np.testing.assert_array_equal(new["data"][...], old["data"][...])


def test_a_damaged_input_is_refused_while_tiles_before_it_are_in_work(task: Any) -> None:
    network, source, output = task
    with h5py.File(source.path) as handle:
        place = handle["data"].id.get_chunk_info(11)
    with source.path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(bytes(place.size))
    known = Volume(source, statistics=Statistics(48 * 32 * 20, 0, 0.0, 1.0))
    with pytest.raises(DataError, match="damaged"):
        enhance_file(network, known, output, EnhanceSettings(tile=TILE))
    assert not part_folder(output).exists() and not output.exists()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("read", "encode", "write"))]
