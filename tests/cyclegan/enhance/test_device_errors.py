"""Where a GPU's memory ends, tiles become smaller; a lost GPU ends the call and loses no tile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.data import VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.enhance.device_errors import explaining, is_gpu_lost, is_out_of_memory
from cyclegan.errors import CycleGANError

MORE = "\nCUDA kernel errors might be asynchronously reported at some other API call"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
        (RuntimeError("CUDA error: out of memory" + MORE), "memory"),
        (torch.AcceleratorError("CUDA error: out of memory" + MORE, 2), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "memory"),
        (RuntimeError("GET was unable to find an engine to execute this"), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("CUDA error: device-side assert triggered" + MORE), "lost"),
        (torch.AcceleratorError("CUDA error: an illegal memory access" + MORE, 700), "lost"),
        (RuntimeError("size mismatch"), "other"),
    ],
)
def test_errors_are_told_apart(error: RuntimeError, kind: str) -> None:
    assert is_out_of_memory(error) == (kind == "memory")
    assert is_gpu_lost(error) == (kind == "lost")
    with pytest.raises(RuntimeError if kind == "other" else CycleGANError) as caught, explaining():
        raise error
    assert "\n" not in str(caught.value)


class Full:
    """An operator with memory for windows of `voxels`; the call number `lost` loses the GPU."""

    alignment, halo_left, halo_right = 4, 4, 4
    channels_in, channels_out = 1, 1
    identity = "full"

    def __init__(self, voxels: float = math.inf, said: str = "", lost: int = -1) -> None:
        self.voxels, self.said, self.lost = voxels, said, lost
        self.calls, self.failures = 0, 0

    @property
    def outputs(self) -> Mapping[str, Fraction]:
        return {"data": Fraction(1)}

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        self.calls += 1
        if self.calls == self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered" + MORE)
        if patch.numel() > self.voxels:
            self.failures += 1
            raise RuntimeError(self.said)
        return {"data": functional.avg_pool3d(patch, 3, 1, 1, count_include_pad=False)}


@pytest.fixture
def entry(tmp_path: Path) -> VolumeEntry:
    image = np.random.default_rng(0).normal(size=(48, 32, 40)).astype(np.float32)
    with h5py.File(tmp_path / "in.h5", "w") as handle:
        handle["data"] = image
    return VolumeEntry(path=tmp_path / "in.h5", dset="data")


def data(path: Path) -> np.ndarray:
    with h5py.File(path) as handle:
        found: np.ndarray = handle["data"][...]
    return found


def test_memory_that_ends_costs_one_trial_and_changes_neither_result_nor_tiles(
    entry: VolumeEntry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enhance_file(Full(), entry, tmp_path / "all.h5", EnhanceSettings(tile=(16, 16, 16)))
    operator = Full(20 * 20 * 24, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    done = enhance_file(operator, entry, tmp_path / "out.h5", EnhanceSettings(tile=(16, 16, 16)))
    assert done.tile == (16, 16, 16)
    assert operator.failures == 1  # the other tiles are halved at once
    (said,) = [text for text in caplog.messages if "does not fit" in text]
    assert "two halves, with the same result" in said
    np.testing.assert_array_equal(data(tmp_path / "out.h5"), data(tmp_path / "all.h5"))
    with h5py.File(tmp_path / "out.h5") as one, h5py.File(tmp_path / "all.h5") as other:
        assert one["data"].chunks == other["data"].chunks


def test_if_nothing_fits_one_line_says_how_much_is_needed(
    entry: VolumeEntry, tmp_path: Path
) -> None:
    class Tiny(Full):
        device = torch.device("cpu")

        def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
            # The window on which memory is measured still fits.
            if patch.numel() > 4 * 4 * 4 and bool(patch.any()):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return {"data": patch}

    with pytest.raises(CycleGANError) as caught:
        enhance_file(Tiny(), entry, tmp_path / "out.h5", EnhanceSettings(tile=(16, 16, 16)))
    said = str(caught.value)
    assert "CUDA out of memory" in said and "It takes about" in said and "are free on cpu" in said
    assert "--precision bf16" in said and "\n" not in said


def test_a_lost_gpu_ends_in_one_line_and_the_next_call_goes_on(
    entry: VolumeEntry, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(CycleGANError, match="the GPU failed: CUDA error: an illegal") as caught:
        enhance_file(Full(lost=6), entry, out, EnhanceSettings(tile=(16, 16, 16)))
    assert "same command again" in str(caught.value) and caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    done = enhance_file(Full(), entry, out, EnhanceSettings(tile=(16, 16, 16)))
    assert done.resumed == 5
    enhance_file(Full(), entry, tmp_path / "all.h5", EnhanceSettings(tile=(16, 16, 16)))
    np.testing.assert_array_equal(data(out), data(tmp_path / "all.h5"))
