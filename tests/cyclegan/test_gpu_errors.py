"""Errors of a GPU are told apart by the messages that PyTorch really writes."""

from __future__ import annotations

import pytest
import torch

from cyclegan import gpu_errors
from cyclegan.errors import ConfigError, CycleGANError
from cyclegan.gpu_errors import gpu_error, gpu_name, has_lost_device, require_gpu

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of "
    "which 12.73 GiB is free. Including non-PyTorch memory, this process has 18.73 GiB memory in "
    "use. Of the allocated memory 9.08 GiB is allocated by PyTorch, and 9.35 GiB is reserved by "
    "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
    "for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html)"
)
LATER = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
MESSAGES = {
    "out_of_memory": (
        OUT_OF_MEMORY,
        "CUDA error: out of memory" + LATER,
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":995, '
        "please report a bug to PyTorch. ",
        "GET was unable to find an engine to execute this computation",
        "NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled cuda error\nLast error:\n"
        "Cuda failure 2 'out of memory'",
    ),
    "sticky": (
        "CUDA error: device-side assert triggered" + LATER,
        "CUDA error: an illegal memory access was encountered" + LATER,
        "CUDA error: unspecified launch failure" + LATER,
        "CUDA error: uncorrectable ECC error encountered" + LATER,
        "CUDA error: misaligned address" + LATER,
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable" + LATER,
        "CUDA error: the launch timed out and was terminated" + LATER,
        "CUDA error: unknown error" + LATER,
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, ...)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuFFT error: CUFFT_INTERNAL_ERROR",
        "NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled cuda error (run with NCCL_DEBUG=INFO)",
        "No CUDA GPUs are available",
    ),
    None: (
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
        "non-contiguous input.",
        "CUDA error: invalid argument" + LATER,
        "CUDA error: no kernel image is available for execution on the device" + LATER,
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
        "and cpu!",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        "the disk ran out of memory",
    ),
}


@pytest.mark.parametrize(
    ("kind", "message"), [(k, m) for k, all_of_them in MESSAGES.items() for m in all_of_them]
)
def test_a_message_says_its_kind(kind: str | None, message: str) -> None:
    found = gpu_error(RuntimeError(message))
    assert (found.kind if found else None) == kind
    if found:
        assert "\n" not in found.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, "out_of_memory"), (710, "sticky"), (214, "sticky"), (999, "sticky"), (1, None), (9, None)],
)
def test_the_code_counts_whatever_the_words_of_a_later_version(code: int, kind: str | None) -> None:
    error = torch.AcceleratorError("CUDA error: in other words")
    error.error_code = code
    found = gpu_error(error)
    assert (found.kind if found else None) == kind


def test_only_runtime_errors_are_errors_of_a_gpu() -> None:
    assert gpu_error(ValueError("CUDA error: device-side assert triggered")) is None
    assert gpu_error(OSError("CUDA out of memory")) is None


def test_an_error_is_seen_through_the_one_that_wraps_it() -> None:
    try:
        try:
            raise RuntimeError("CUDA error: device-side assert triggered")
        except RuntimeError as error:
            raise ConfigError("lossFuncs.C_A: my:Loss raised something") from error
    except ConfigError as wrapped:
        found = gpu_error(wrapped)
    assert found is not None
    assert found.kind == "sticky"
    assert found.message == "RuntimeError: CUDA error: device-side assert triggered"


def test_a_cause_that_was_dealt_with_does_not_count() -> None:
    error = ConfigError("something else")
    error.__context__ = torch.OutOfMemoryError(OUT_OF_MEMORY)
    error.__suppress_context__ = True
    assert gpu_error(error) is None


def test_the_numbers_of_an_out_of_memory_error_are_read() -> None:
    found = gpu_error(torch.OutOfMemoryError(OUT_OF_MEMORY))
    assert found is not None
    gib = 2**30
    assert found.tried == pytest.approx(22.78 * gib)
    assert found.needed == pytest.approx((22.78 + 9.08) * gib)
    assert found.available == pytest.approx((12.73 + 18.73) * gib)
    bare = gpu_error(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert bare is not None
    assert (bare.tried, bare.needed, bare.available) == (None, None, None)


@pytest.fixture
def device_says(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return monkeypatch


def fails(message: str) -> object:
    def call(*arguments: object, **options: object) -> None:
        raise RuntimeError(message)

    return call


def test_a_device_that_no_longer_answers_is_lost_whatever_it_says(
    device_says: pytest.MonkeyPatch,
) -> None:
    device_says.setattr(torch.cuda, "synchronize", lambda: None)
    assert not has_lost_device()
    device_says.setattr(torch.cuda, "synchronize", fails("CUDA error: words of a later version"))
    assert has_lost_device()
    device_says.setattr(torch.cuda, "empty_cache", fails("not on a lost device"))
    gpu_errors.free_memory()


def test_a_process_that_never_used_a_gpu_has_not_lost_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", fails("must not be called"))
    assert not has_lost_device()
    gpu_errors.free_memory()


def test_a_dead_gpu_is_named_in_one_line(device_says: pytest.MonkeyPatch) -> None:
    device_says.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f3a")
    device_says.setattr(torch, "ones", fails("CUDA error: uncorrectable ECC error" + LATER))
    with pytest.raises(CycleGANError) as caught:
        require_gpu(torch.device("cuda"))
    assert str(caught.value).startswith("GPU-8f3a can't be used: CUDA error: uncorrectable ECC")
    assert "\n" not in str(caught.value)
    device_says.setattr(torch, "ones", fails("CUDA out of memory. Tried to allocate 2.00 MiB."))
    require_gpu(torch.device("cuda"))  # it lives, others have its memory
    device_says.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CycleGANError, match="sees no GPU any more"):
        require_gpu(torch.device("cuda"))


@pytest.mark.parametrize(
    ("visible", "device", "name"),
    [
        (None, "cuda", "GPU 0"),
        (None, "cuda:2", "GPU 2"),
        ("3,5", "cuda:1", "GPU 5"),
        ("MIG-41b3", "cuda", "MIG-41b3"),
    ],
)
def test_a_gpu_has_the_name_by_which_it_was_made_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, name: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_name(torch.device(device)) == name
