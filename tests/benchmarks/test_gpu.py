"""The benchmark for whoever gets a GPU first runs whole, in small, on a CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("peaks", "training", "enhancement", "score", "snapshots", "exactness")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        names = ("gpu", "gpu_parts", "gpu_step")
        yield {name: importlib.import_module(name) for name in names}


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent)


@pytest.mark.slow
def test_the_whole_runs_in_small_on_a_cpu(modules: dict[str, ModuleType]) -> None:
    done = call("--device", "cpu", "--quick", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert set(result) == {"hardware", "seconds", *PARTS}
    assert result["hardware"]["torch"] == torch.__version__
    assert {row["precision"] for row in result["training"]} == {"fp32", "bf16"}
    for row in result["training"]:
        assert row["flop"] > 0 and row["moved_bytes"] > 0 and row["of_roofline"] > 0
    assert result["enhancement"]["voxels_per_s"] > 0
    assert result["exactness"]["two_runs_identical"]
    assert result["exactness"]["resume_identical"]
    assert 0 < result["exactness"]["bf16_relative_error"] < 0.1
    assert result["score"]["report_s"] > 0
    assert 0 < result["snapshots"]["bytes_each"] < result["snapshots"]["budget_bytes"]
    text = "\n".join(modules["gpu"].lines(result))
    assert "failed" not in text
    assert "two runs identical, resumed identical" in text
    assert all(f"{part} " in text for part in PARTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    for arguments in ((), ("--json",), ("--device", "cpu")):
        done = call(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("nothing to measure: ")


def test_a_part_that_fails_is_reported_and_the_others_go_on(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = modules["gpu"]

    def fails(*arguments: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    for name in ("training_rows", "enhancement_row", "score_row", "exactness"):
        monkeypatch.setattr(gpu, name, fails)
    result = gpu.measured("cpu", modules["gpu_step"].QUICK)
    assert gpu.problems(result) == ["training", "enhancement", "score", "exactness"]
    assert result["snapshots"]["bytes_each"] > 0
    text = "\n".join(gpu.lines(result))
    assert "score failed: RuntimeError: CUDA error: an illegal memory access" in text
    assert "more" not in text


def test_the_work_of_a_step_is_counted(modules: dict[str, ModuleType]) -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)

    def step() -> None:
        product = a @ b
        product.add_(1.0)
        product.view(-1)

    flop, moved = modules["gpu_step"].work_of(step)
    assert flop == 2 * 8 * 16 * 4
    product = 8 * 4 * 4
    assert moved == a.nbytes + b.nbytes + product + 2 * product  # a view moves nothing


def test_synchronisations_are_what_pytorch_warns_of(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[Any] = ["default"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def report() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (internally)", stacklevel=2)
        warnings.warn("something else", stacklevel=2)

    count = modules["gpu_parts"].synchronisations
    assert count("cuda", report) == 3
    assert modes == ["default", "warn", 0]
    assert count("cpu", lambda: None) is None


def test_a_training_that_does_not_fit_is_a_row_of_the_table(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = modules["gpu_step"]

    def too_large(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(step, "_timed", too_large)
    rows = step.training_rows("cpu", step.QUICK, {})
    assert [row["problem"] for row in rows] == ["out of memory"] * 2
    assert "out of memory" in "\n".join(modules["gpu"]._training(rows))


def test_tf32_is_allowed_for_its_rows_alone(modules: dict[str, ModuleType]) -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for name, allowed in (("fp32", False), ("tf32", True), ("bf16", False)):
        with modules["gpu_step"].precision_of(name):
            assert [flag.allow_tf32 for flag in flags] == [allowed] * 2
    assert [flag.allow_tf32 for flag in flags] == before
