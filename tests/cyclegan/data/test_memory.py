"""A volume far beyond memory costs what a small one costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

_PROGRAM = r"""
import json, re, sys
from pathlib import Path
from cyclegan.data import MemoryBudget, PatchSampler, Volume, VolumeEntry
budget = MemoryBudget(100e6)
volume = Volume(VolumeEntry(path=Path(sys.argv[1]), dset="data"), budget=budget)
sampler = PatchSampler([volume], (32, 32, 32), seed=(0,))
drawn = [float(sampler.draw(1).std()) for _ in range(50)]
# Not getrusage: its peak begins with that of the process that started this one.
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"peak": peak, "held": volume.in_memory, "std": volume.statistics.std}))
"""


def cube(path: Path, side: int, written: int) -> Path:
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as handle:
        data = handle.create_dataset(
            "data", (side,) * 3, "f4", chunks=(32, 32, 32), compression="gzip"
        )
        for z, y, x in random.integers(0, side // 32, (written, 3)) * 32:
            # Surrounded by the fill value, so that the rest is background and not a hole.
            block = np.pad(random.integers(0, 99, (30, 30, 30)), 1)
            data[z : z + 32, y : y + 32, x : x + 32] = block
    return path


def measured(path: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _PROGRAM, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_sparse_volume_of_4096_cubed_takes_no_more_memory_than_a_small_one(
    tmp_path: Path,
) -> None:
    small = measured(cube(tmp_path / "small.h5", 64, 8))
    path = cube(tmp_path / "large.h5", 4096, 60)
    assert path.stat().st_size < 10e6
    large = measured(path)
    assert small["held"]
    assert not large["held"]
    assert large["std"] > 0
    assert large["peak"] < small["peak"] + 50
