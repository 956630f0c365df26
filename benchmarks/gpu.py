"""Measure what we would like to know of a GPU, in one command meant to take under ten minutes.

    python benchmarks/gpu.py [--json] [--device cuda:1]
    python benchmarks/gpu.py --device cpu --quick

The first line is for whoever has a GPU; send us what it prints. The second one runs the same code
in small on a CPU, which shows that it works, and whose figures mean nothing.

- training: a step of the recipe in fp32, TF32 and bf16, with peak memory and its share of the
  roofline. The device's peaks are those of large matrix products and of a copy in the same run.
- enhancement: a whole volume on disk, and each stage alone.
- score: what it takes to build, and how often a report waits for the device.
- snapshots: the rollback optimizer's, and what they take of the memory's budget.
- exactness: do two runs of one seed, and an interrupted one, end the same to the last bit?

A part that fails is reported with its error, and the others go on. The exit code is 2 without a
GPU, and 1 if a part failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_parts import enhancement_row, exactness, score_row, small_training, snapshot_row
from gpu_step import QUICK, Row, Sizes, peaks, training_rows

from cyclegan.errors import CycleGANError
from cyclegan.gpu_errors import free_memory
from cyclegan.precision import choose_device


def hardware(device: str) -> Row:
    """Return names and versions of what is measured."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    found: Row = {
        "device": platform.processor() or platform.machine(),
        "driver": None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        facts = torch.cuda.get_device_properties(device)
        found |= {"device": facts.name, "memory_bytes": facts.total_memory, "driver": driver()}
        found["compute_capability"] = f"{facts.major}.{facts.minor}"
    return found


def driver() -> str | None:
    """Return the version of NVIDIA's driver; None if nobody knows."""
    line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def measured(device: str, sizes: Sizes) -> Row:
    """Return the results of all parts, by name."""
    result: Row = {"hardware": hardware(device), "seconds": {}}

    def part(name: str, call: Callable[[], Any]) -> None:
        began = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            result[name] = call()
        except Exception as error:  # noqa: BLE001  (the other parts may still say something)
            first = next(iter(str(error).splitlines()), "")
            result[name] = {"problem": f"{type(error).__name__}: {first}"}
        free_memory()
        result["seconds"][name] = round(time.perf_counter() - began, 1)

    part("peaks", lambda: peaks(device, sizes))
    part("training", lambda: training_rows(device, sizes, result["peaks"]))
    part("enhancement", lambda: enhancement_row(device, sizes))
    with small_training(device, sizes) as values:
        part("score", lambda: score_row(values, device))
        part("snapshots", lambda: snapshot_row(values, device))
        part("exactness", lambda: exactness(values))
    return result


def problems(result: Row) -> list[str]:
    """Return the names of the parts that failed."""
    return [
        name for name, found in result.items() if isinstance(found, dict) and "problem" in found
    ]


def lines(result: Row) -> Iterator[str]:
    """Yield the results as text for people."""
    facts = result["hardware"]
    yield (
        f"{facts['device']}, driver {facts['driver']}, PyTorch {facts['torch']}, CUDA "
        f"{facts['cuda']}, cuDNN {facts['cudnn']}, {facts['threads']} threads of the CPU"
    )
    for name in problems(result):
        yield f"{name} failed: {result[name]['problem']}"
    good = {name: found for name, found in result.items() if name not in problems(result)}
    if "peaks" in good:
        speeds = good["peaks"]["flop_per_s"].items()
        products = ", ".join(f"{speed / 1e12:.3g} in {name}" for name, speed in speeds)
        copied = good["peaks"]["copied_bytes_per_s"] / 1e9
        yield f"peaks: TFLOP/s {products}; a copy reads and writes {copied:.3g} GB/s"
    if "training" in good:
        yield from _training(good["training"])
    if "enhancement" in good:
        row = good["enhancement"]
        yield (
            f"enhancement of {row['voxels'] / 1e6:.3g} Mvoxel, nf = {row['filters']}, "
            f"{row['precision']}, tile {row['tile']}: {row['seconds']:.3g} s, "
            f"{row['voxels_per_s'] / 1e6:.3g} Mvoxel/s; alone: read {row['read_s']:.3g} s, compute "
            f"{row['compute_s']:.3g} s, compress {row['compress_s']:.3g} s, write "
            f"{row['write_s']:.3g} s"
        )
    if "score" in good:
        row = good["score"]
        yield (
            f"score on {row['patches']} patches of {row['patch']}^3: a trainer takes "
            f"{row['first_trainer_s']:.3g} s, the next {row['second_trainer_s']:.3g} s; a report "
            f"{row['report_s']:.3g} s, {row['score_synchronisations']} synchronisations in the "
            f"score, {row['report_synchronisations']} with the images"
        )
    if "snapshots" in good:
        row = good["snapshots"]
        yield (
            f"snapshots of {row['bytes_each'] / 1e6:.3g} MB: {1e3 * row['seconds_asked']:.3g} ms, "
            f"{1e3 * row['seconds_arrived']:.3g} ms until on the host; {row['snapshots']} pin "
            f"{row['pinned_bytes'] / 1e6:.3g} MB of a budget of {row['budget_bytes'] / 1e6:.3g} MB"
        )
    if "exactness" in good:
        row = good["exactness"]
        yield (
            f"exactness, {row['steps']} steps: two runs {_same(row['two_runs_identical'])}, "
            f"resumed {_same(row['resume_identical'])}; a generator in bf16 is "
            f"{100 * row['bf16_relative_error']:.2g} % off fp32"
        )
    yield "seconds: " + ", ".join(f"{name} {took}" for name, took in result["seconds"].items())


def _same(identical: bool) -> str:
    return "identical" if identical else "DIFFERENT"


def _training(rows: list[Row]) -> Iterator[str]:
    yield (
        f"{'training step':22s}{'s/step':>9s}{'Mvoxel/s':>10s}{'GB peak':>9s}{'TFLOP':>8s}"
        f"{'GB moved':>10s}{'of products':>13s}{'of roofline':>13s}"
    )
    for row in rows:
        name = f"nf = {row['filters']}, {row['patch']}^3, {row['precision']}"
        if "problem" in row:
            yield f"{name:22s} {row['problem']}"
            continue
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}"
        yield (
            f"{name:22s}{row['seconds']:9.4f}{row['voxels_per_s'] / 1e6:10.3g}{peak:>9s}"
            f"{row['flop'] / 1e12:8.3g}{row['moved_bytes'] / 1e9:10.3g}"
            f"{100 * row['of_products']:11.0f} %{100 * row['of_roofline']:9.0f} % "
            f"({row['bound']})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a test of the code")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except CycleGANError as error:
        print(f"nothing to measure: {error}", file=sys.stderr)
        sys.exit(2)
    if device.type == "cpu" and not options.quick:
        print("nothing to measure: a CPU needs --quick", file=sys.stderr)
        sys.exit(2)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    result = measured(str(device), QUICK if options.quick else Sizes())
    print(json.dumps(result) if options.json else "\n".join(lines(result)))
    sys.exit(1 if problems(result) else 0)


if __name__ == "__main__":
    main()
