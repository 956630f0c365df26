"""Cost of each image loss, forward and backward, compared with L1 and with a training step.

    python benchmarks/loss_cost.py [--patch 64] [--batch 1] [--repeats 9]

The losses run in turn on the same random patch. The script prints ratios to L1 and the share of a
training step (two generators, cycle, UNetSim3d with nf = 32); it asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cyclegan import parse_config
from cyclegan.losses import IMAGE
from cyclegan.model import CycleGAN


def evaluation(name: str, shape: list[int]) -> Callable[[], None]:
    """Return a function that evaluates the loss `name` and its gradient once."""
    random = torch.Generator().manual_seed(0)
    image, target = (torch.randn(shape, generator=random) for _ in range(2))
    image.requires_grad_()

    def evaluate() -> None:
        image.grad = None
        IMAGE[name](image, target).backward()

    return evaluate


def seconds(function: Callable[[], None]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def step_seconds(patch: int, batch: int) -> float:
    """Return the seconds of a training step in fp32 with the usual losses, the second of two."""
    values = {"data_A": "-", "data_B": "-", "norm_D": "instance", "precision": "fp32"}
    config = parse_config(values | {"imsize_A": [patch] * 3, "batch_size": batch})
    model = CycleGAN(config, torch.device("cpu"))
    real_A, real_B = (torch.randn(batch, 1, patch, patch, patch) for _ in range(2))
    return [seconds(lambda: model.training_step(real_A, real_B) and None) for _ in range(2)][1]


def main() -> None:
    """Time the losses in turn and print the medians and their ratios to L1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    shape = [options.batch, 1] + [options.patch] * 3
    variants = {name: evaluation(name, shape) for name in IMAGE}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(options.repeats + 1):
        for name, variant in variants.items():
            elapsed = seconds(variant)
            if repeat:  # the first round warms up
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    step = step_seconds(options.patch, options.batch)
    print(f"{torch.get_num_threads()} threads, shape {shape}, training step {step:.2f} s")
    for name, median in medians.items():
        ratio = median / medians["l1"]
        print(f"{name:10s} {1e3 * median:7.2f} ms {ratio:6.1f} x l1 {100 * median / step:6.2f} %")


if __name__ == "__main__":
    main()
