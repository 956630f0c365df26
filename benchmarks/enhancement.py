"""Speed of enhancement, compared with MONAI's sliding window and one pass over everything.

    python benchmarks/enhancement.py [--size 160] [--filters 32] [--repeats 3] [--device cpu]

The script runs the variants in turn, each in a process of its own to measure its peak memory. It
repeats the round and prints medians with their ratio to MONAI. Seconds are those of a second pass
in the process; start-up and compilation are printed separately. Another column is the share of this
machine's matrix-product speed in the same precision. It counts the network's operations on the
volume once: operations repeated in halos and overlaps count as lost.

MONAI is not a dependency of this project. To compare with it, install it elsewhere and pass its
location:

    python -m venv /tmp/monai && /tmp/monai/bin/pip install --no-deps monai
    MONAI_PATH=$(echo /tmp/monai/lib/python3*/site-packages) python benchmarks/enhancement.py

From file to file, compared with the way before, which read, computed, compressed in HDF5 and wrote
one after the other (`FILES` lists the variants):

    python benchmarks/enhancement.py --files [--size 256] [--filters 4] [--repeats 3]

"no network" only copies each window: that is the limit for a device that takes no time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from enhancement_files import FILES, print_files, run_file
from machine import matmul_speed, peak_bytes
from torch.utils.flop_counter import FlopCounterMode

from cyclegan.enhance import enhance_array
from cyclegan.enhance.memory import keep_freed_memory
from cyclegan.enhance.network import Generator
from cyclegan.enhance.tiling import apply_tiled
from cyclegan.networks import UNet3d, build_generator

MONAI = "MONAI sliding window, fp32"
WHOLE = "one pass, fp32"
VARIANTS = (
    MONAI,
    WHOLE,
    "exact tiles, fp32",
    "exact tiles, fp32, 2 GB",
    "exact tiles, fp32, compiled",
    "exact tiles, bf16",
    "exact tiles, bf16, compiled",
)


def network(filters: int) -> UNet3d:
    """Return a UNetSim3d with the same random weights in every process."""
    torch.manual_seed(0)
    return build_generator("UNetSim3d", filters=filters).eval().requires_grad_(False)


def volume(size: int) -> np.ndarray:
    """Return white noise of standard deviation 1, the hardest case for tiles."""
    return np.random.default_rng(0).normal(size=(size,) * 3).astype(np.float32)


def flop_per_voxel(filters: int) -> float:
    """Return the operations of the network for one input voxel."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(filters)(torch.zeros(1, 1, 32, 32, 32))
    return counter.get_total_flops() / 32**3


def enhancer(variant: str, filters: int, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that enhances an array with `variant`."""
    net = network(filters).to(device)
    if variant == MONAI:
        from monai.inferers import sliding_window_inference

        def monai(image: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                whole = torch.from_numpy(image)[None, None].to(device)
                out = sliding_window_inference(whole, 64, 1, net, overlap=0.25, mode="gaussian")
            return np.asarray(out[0, 0].cpu())

        return monai
    precision: Any = "bf16" if "bf16" in variant else "fp32"
    compiled = "compiled" in variant
    generator = Generator(net, device=device, precision=precision, compiled=compiled)
    if variant == WHOLE:
        return lambda image: apply_tiled(generator, image)["data"][0]
    memory = 2.0 if "2 GB" in variant else None
    if memory is None:  # as the command does
        keep_freed_memory()
    return lambda image: enhance_array(generator, image, memory_gb=memory, device=device)


def run_one(variant: str, options: argparse.Namespace) -> None:
    """Enhance twice; print seconds, peak memory and the error against one pass as JSON."""
    reference: Path = options.reference
    image = volume(options.size)
    enhance = enhancer(variant, options.filters, options.device)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        result = enhance(image)  # the result is on the host, so a GPU has finished
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes(options.device)
    if variant == WHOLE:
        np.save(reference, result)
    whole = np.load(reference, mmap_mode="r")
    error = float(np.abs(result - whole).max() / whole.std())
    print(json.dumps({"first": seconds[0], "second": seconds[1], "peak": peak, "error": error}))


def in_a_process(variant: str, options: argparse.Namespace, reference: Path) -> dict[str, float]:
    """Run one variant in a process of its own and return what it prints.

    `reference`: file of the result of one pass; with `--files` the folder of input and output.
    """
    paths = [str(Path(__file__).parents[1]), os.environ.get("MONAI_PATH", "")]
    line = [
        *(sys.executable, __file__, "--variant", variant, "--reference", str(reference)),
        *("--size", str(options.size), "--filters", str(options.filters)),
        *("--device", options.device),
        *(["--files"] if options.files else []),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def has_monai() -> bool:
    """Return True if MONAI is installed or `MONAI_PATH` leads to it."""
    import importlib.util

    sys.path.append(os.environ.get("MONAI_PATH", ""))
    return importlib.util.find_spec("monai") is not None


def main() -> None:
    """Run all variants in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--files", action="store_true", help="from file to file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        if options.files:
            net = network(options.filters)
            run_file(options.variant, net, options.reference, options.size, options.device)
        else:
            run_one(options.variant, options)
        return
    if options.files:
        with tempfile.TemporaryDirectory() as folder:
            rounds = [
                {name: in_a_process(name, options, Path(folder)) for name in FILES}
                for _ in range(options.repeats)
            ]
        print_files(rounds, options.size, options.filters)
        return
    variants = [WHOLE, *(v for v in VARIANTS if v != WHOLE)]  # it makes the reference
    if not has_monai():
        print("MONAI is not there, so it is left out; the top of this file says how to get it")
        variants.remove(MONAI)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for variant in variants:
                found[variant].append(in_a_process(variant, options, Path(folder) / "whole.npy"))
    peaks = {
        "fp32": matmul_speed(options.device, torch.float32),
        "bf16": matmul_speed(options.device, torch.bfloat16),
    }
    flop = flop_per_voxel(options.filters) * options.size**3
    print(
        f"UNetSim3d, nf = {options.filters}, {options.size}^3 voxels, {options.device}, "
        f"{torch.get_num_threads()} threads, median of {options.repeats} (range); "
        f"{flop / 1e12:.2f} TFLOP; matrix products reach {peaks['fp32'] / 1e12:.2f} TFLOP/s in "
        f"fp32 and {peaks['bf16'] / 1e12:.2f} in bf16"
    )
    print(
        f"{'':30s}{'seconds':>16s}{'to MONAI':>10s}{'first':>8s}{'peak':>9s}{'error':>10s}"
        f"{'of products':>13s}"
    )
    seconds = {v: statistics.median(r["second"] for r in rs) for v, rs in found.items()}
    base = seconds.get(MONAI, float("nan"))
    for variant in (v for v in VARIANTS if v in found):
        rounds = found[variant]
        times = [r["second"] for r in rounds]
        peak = peaks["bf16" if "bf16" in variant else "fp32"]
        print(
            f"{variant:30s}{seconds[variant]:7.2f} ({min(times):.1f}-{max(times):.1f})"
            f"{base / seconds[variant]:8.2f} x"
            f"{statistics.median(r['first'] for r in rounds):7.1f}"
            f"{max(r['peak'] for r in rounds) / 1e9:6.2f} GB"
            f"{max(r['error'] for r in rounds):10.1e}"
            f"{100 * flop / seconds[variant] / peak:11.0f} %"
        )
    print("error: largest difference to one pass, in standard deviations of the result")


if __name__ == "__main__":
    main()
