"""An enhanced volume whose bytes were damaged is refused, whatever its compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cyclegan.data import Volume, VolumeEntry
from cyclegan.data.statistics import Statistics
from cyclegan.enhance.chunks import COMPRESSIONS
from cyclegan.enhance.partial import Layout, resumable
from cyclegan.enhance.pipeline import TileWriter
from cyclegan.errors import DataError


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path, compression: Any) -> None:
    image = np.random.default_rng(0).normal(size=(8, 16, 20)).astype(np.float32)
    layout = Layout(shape=image.shape, chunks=(4, 16, 16), compression=compression)
    output = tmp_path / "out.h5"
    with resumable(output, {}, {"data": layout}) as (store, temporary):
        with TileWriter(store) as writer:
            writer.add(0, {"data": ((0, 0, 0), image)})
        store.write(temporary, lambda file: None)
    np.testing.assert_array_equal(read(output), image)
    with h5py.File(output) as handle:
        chunks = handle["data"].id
        found = [chunks.get_chunk_info(i) for i in range(chunks.get_num_chunks())]
    content = output.read_bytes()
    refused = 0
    for chunk in found:
        for position in range(0, chunk.size, 97):
            damaged = bytearray(content)
            damaged[chunk.byte_offset + position] ^= 1
            output.write_bytes(damaged)
            try:
                np.testing.assert_array_equal(read(output), image)
            except DataError as error:
                assert "the file is damaged" in str(error) and "\n" not in str(error)
                refused += 1
    assert refused > sum(chunk.size for chunk in found) // 97 - len(found)


def read(path: Path) -> np.ndarray:
    volume = Volume(VolumeEntry(path=path, dset="data"), statistics=Statistics(1, 0, 0.0, 1.0))
    return volume.read((0, 0, 0), (8, 16, 20))[0]
