"""Several processes share the tiles of a volume, and the result is that of one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cyclegan.data import VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file, enhance_shard
from cyclegan.enhance.memory import choose_grid
from cyclegan.enhance.partial import Shard, part_folder, shard_store
from cyclegan.enhance.volumes import as_operator
from cyclegan.errors import BusyError, CycleGANError, DataError
from cyclegan.networks import UNet3d, build_generator, initialise

TILE = (16, 16, 16)
Task = tuple[UNet3d, VolumeEntry, Path]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A network, a volume, and the path of the result."""
    torch.manual_seed(0)
    network = build_generator("UNetSim3d", filters=2, activation="leaky_relu")
    initialise(network, std=0.3)
    image = np.random.default_rng(0).normal(size=(40, 36, 33)).astype(np.float32)
    with h5py.File(tmp_path / "in.h5", "w") as handle:
        handle["data"] = image
    return network, VolumeEntry(path=tmp_path / "in.h5", dset="data"), tmp_path / "out.h5"


def stored(path: Path) -> list[tuple[tuple[int, ...], bytes]]:
    """Return every compressed chunk of a result, by its place."""
    with h5py.File(path) as handle:
        chunks = handle["data"].id
        places = [chunks.get_chunk_info(n).chunk_offset for n in range(chunks.get_num_chunks())]
        return sorted((place, bytes(chunks.read_direct_chunk(place)[1])) for place in places)


@pytest.mark.parametrize("count", [2, 3, 50])  # more than there are tiles
def test_shards_give_the_file_of_one_process(task: Task, tmp_path: Path, count: int) -> None:
    network, source, output = task
    alone = tmp_path / "alone.h5"
    enhance_file(network, source, alone, EnhanceSettings(tile=TILE))
    for number in reversed(range(2, count + 1)):  # in any order
        assert not enhance_shard(
            network, source, output, Shard(number, count), EnhanceSettings(tile=TILE)
        )
    assert enhance_shard(network, source, output, Shard(1, count), EnhanceSettings(tile=TILE))
    done = enhance_file(network, source, output, EnhanceSettings(tile=TILE))
    assert done.resumed == done.tiles
    assert stored(output) == stored(alone)
    assert not part_folder(output).exists()
    # Each shard may be called again, also after the end.
    assert enhance_shard(network, source, output, Shard(2, count), EnhanceSettings(tile=TILE))


def test_a_shard_that_begins_as_the_last_one_ends_holds_up_nothing(
    task: Task, tmp_path: Path
) -> None:
    """Of more processes than tiles some have nothing to do, and have only made a folder yet."""
    network, source, output = task
    for number in (2, 1):
        enhance_shard(network, source, output, Shard(number, 2), EnhanceSettings(tile=TILE))
    late = part_folder(output) / "shard-3-of-3"
    late.mkdir()
    (late / "lock").touch()
    done = enhance_file(network, source, output, EnhanceSettings(tile=TILE))
    assert done.resumed == done.tiles
    alone = tmp_path / "alone.h5"
    enhance_file(network, source, alone, EnhanceSettings(tile=TILE))
    assert stored(output) == stored(alone)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder in which nobody may write")
def test_a_folder_that_can_not_be_made_is_one_line(task: Task) -> None:
    network, source, _ = task
    output = Path("/proc/none/out.h5")
    for call in (
        lambda: enhance_file(network, source, output),
        lambda: enhance_shard(network, source, output, Shard(1, 2)),
    ):
        with pytest.raises(CycleGANError, match=r"/proc/none.*writing failed"):
            call()


def test_the_tiles_are_those_of_the_first_shard(task: Task, tmp_path: Path) -> None:
    """They don't depend on the memory that the others, or the last one, have free."""
    network, source, output = task
    assert not enhance_shard(network, source, output, Shard(2, 2), EnhanceSettings(tile=TILE))
    assert enhance_shard(network, source, output, Shard(1, 2))  # would take larger ones
    done = enhance_file(network, source, output)
    assert done.tile == TILE and done.resumed == done.tiles
    alone = tmp_path / "alone.h5"
    enhance_file(network, source, alone, EnhanceSettings(tile=TILE))
    assert stored(output) == stored(alone)


def test_every_process_gets_tiles_even_if_one_tile_would_hold_all() -> None:
    network = build_generator("UNetSim3d", filters=2, activation="leaky_relu")
    operator, shape = as_operator(network), (160, 200, 256)

    def voxels_of_the_busiest(shares: int) -> int:
        grid = choose_grid(operator, shape, budget=1e12, shares=shares)
        assert len(grid) >= shares
        return -(-len(grid) // shares) * math.prod(grid.window)

    alone, two, four, eight = map(voxels_of_the_busiest, (1, 2, 4, 8))
    assert alone > two > four > eight
    # A volume that is hardly larger than the halo is not worth sharing.
    assert len(choose_grid(operator, (24, 24, 24), budget=1e12, shares=8)) < 8


def test_a_killed_shard_computes_only_what_is_missing(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, source, output = task
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_shard(
            network, source, output, Shard(1, 2), EnhanceSettings(tile=TILE), on_progress=stop
        )
    (half, total), again = told[-1], []
    assert not enhance_shard(
        *(network, source, output, Shard(1, 2)),
        EnhanceSettings(tile=TILE),
        on_progress=lambda done, total: again.append((done, total)),
    )
    assert again[0] == (half, total) and again[-1] == (total, total)
    # The rest may also be done by one process, without shards.
    done = enhance_file(network, source, output)
    assert 0 < done.resumed < done.tiles


def test_a_tile_that_was_damaged_on_disk_is_computed_again(task: Task, tmp_path: Path) -> None:
    network, source, output = task
    for number in (1, 2):
        enhance_shard(network, source, output, Shard(number, 2), EnhanceSettings(tile=TILE))
    chunks = part_folder(output) / "shard-1-of-2" / "chunks.bin"
    content = bytearray(chunks.read_bytes())
    content[10] ^= 1
    chunks.write_bytes(content)
    done = enhance_file(network, source, output, EnhanceSettings(tile=TILE))
    assert done.resumed == done.tiles - 1
    enhance_file(network, source, tmp_path / "alone.h5", EnhanceSettings(tile=TILE))
    assert stored(output) == stored(tmp_path / "alone.h5")


def test_one_shard_is_one_process_and_its_work_is_not_taken_away(task: Task) -> None:
    network, source, output = task
    enhance_shard(network, source, output, Shard(1, 2), EnhanceSettings(tile=TILE))
    with shard_store(output, Shard(1, 2), {}):
        with pytest.raises(BusyError, match="another process is shard 1 of 2"):
            enhance_shard(network, source, output, Shard(1, 2), EnhanceSettings(tile=TILE))
        with pytest.raises(BusyError, match="another input, model or setting"):
            enhance_shard(network, source, output, Shard(2, 2), EnhanceSettings(tile=(8, 8, 8)))
        with pytest.raises(BusyError, match="another process is making"):
            enhance_file(network, source, output, EnhanceSettings(tile=TILE))
    # When it has ended, another job may begin, and removes what this one left.
    assert not enhance_shard(network, source, output, Shard(2, 2), EnhanceSettings(tile=(8, 8, 8)))
    assert not (part_folder(output) / "shard-1-of-2").exists()


def test_a_result_of_something_else_is_not_overwritten(task: Task) -> None:
    network, source, output = task
    enhance_file(network, source, output, EnhanceSettings(tile=TILE))
    with pytest.raises(DataError, match="exists"):
        enhance_shard(
            network, source, output, Shard(1, 2), EnhanceSettings(tile=TILE, scale=(1.0, 2.0))
        )


@pytest.mark.parametrize(
    ("text", "environment", "found"),
    [
        ("2/4", {}, (2, 4)),
        ("array", {"ID": "7", "MIN": "5", "COUNT": "3"}, (3, 3)),
    ],
)
def test_shards_on_the_command_line(
    text: str, environment: dict[str, str], found: tuple[int, int]
) -> None:
    from workbench.enhancement.request import parse_shard

    variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in environment.items()}
    assert parse_shard(text, variables) == Shard(*found)
    assert parse_shard(None) is None


def test_tiles_of_shards_cover_all_exactly_once() -> None:
    for tiles in (1, 2, 7, 100):
        for count in (1, 2, 3, 7, 13):
            taken: list[Any] = [
                [n for n in range(1, count + 1) if Shard(n, count).takes(tile, tiles)]
                for tile in range(tiles)
            ]
            assert all(len(shards) == 1 for shards in taken)
            assert taken == sorted(taken)  # neighbours


def test_a_folder_of_tiles_can_be_removed(task: Task) -> None:
    network, source, output = task
    enhance_shard(network, source, output, Shard(1, 2), EnhanceSettings(tile=TILE))
    shutil.rmtree(part_folder(output))
    assert not enhance_shard(network, source, output, Shard(1, 2), EnhanceSettings(tile=TILE))
