"""How much faster a training step is in bf16 and with one discriminator pass, on this machine.

    python benchmarks/training_step.py [--filters 8] [--patch 32] [--repeats 5]

Compares, interleaved in one run, a step of the configured network against the same step in plain
fp32 with separate passes for real and generated images. Prints ratios; nothing is asserted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cyclegan import Config, parse_config
from cyclegan.model import CycleGAN


def stepper(config: Config, *, separate: bool) -> Callable[[], None]:
    """A function that does one training step of a fresh model on fixed random patches."""
    model = CycleGAN(config, torch.device("cpu"))
    for judge in (model.D_A, model.D_B):
        judge._mixes_samples = separate
    random = torch.Generator().manual_seed(0)
    real_A, real_B = (torch.randn(1, 1, *config.imsize_A, generator=random) for _ in range(2))

    def step() -> None:
        model.training_step(real_A, real_B)

    return step


def main() -> None:
    """Time the variants in turn and print the medians and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    base = {
        "data_A": "-",
        "data_B": "-",
        "norm_D": "none",
        "layers_D": 2,
        "batch_size": 1,
        "filters": options.filters,
        "filters_D": 2 * options.filters,
        "imsize_A": [options.patch] * 3,
        "lambdas": {"I_A": 1, "I_B": 1},
    }
    variants = {
        "fp32, separate passes": stepper(parse_config(base | {"precision": "fp32"}), separate=True),
        "fp32, one pass": stepper(parse_config(base | {"precision": "fp32"}), separate=False),
        "bf16, one pass": stepper(parse_config(base | {"precision": "bf16"}), separate=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(options.repeats + 1):
        for name, step in variants.items():
            start = time.perf_counter()
            step()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    print(f"{torch.get_num_threads()} threads, nf = {options.filters}, patch {options.patch}^3")
    for name, median in medians.items():
        print(f"{name:24s} {median:7.3f} s a step  {first / median:5.2f} x")


if __name__ == "__main__":
    main()
