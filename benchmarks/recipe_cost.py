"""Cost of a step of the recipe, compared with the earlier cycles, adversaries and identities.

    python benchmarks/recipe_cost.py [--recipe FILE] [--filters 8] [--patch 32] [--repeats 10]

The peer is the base of the studies before there were pseudo pairs: least squares, cycles and
identities, no spectral norm, transposed convolutions. Networks and patches have the same size for
all. The models take turns in one process on one thread, in the precision that is faster here, each
time for as many steps as there are between gradient penalties. The script prints ratios of medians,
with the smallest and the largest ratio over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import seconds_of

from cyclegan import Config, parse_config
from cyclegan.config import load_yaml, override
from cyclegan.degrader import Degrader
from cyclegan.model import CycleGAN
from cyclegan.precision import choose_precision

RECIPE = Path(__file__).resolve().parent.parent / "studies" / "recipe.yaml"
BEFORE = {
    "upsampling": "transposed",
    "spectral_norm_D": False,
    "pretrain_steps": 0,
    "penalty_R1": 0.0,
    "penalty_R2": 0.0,
    "lossFuncs": dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan"),
    "lambdas": {"G_A": 1, "G_B": 1, "C_A": 0.5, "C_B": 5, "I_A": 3, "I_B": 3},
}


def model_of(options: argparse.Namespace, changes: dict[str, Any]) -> tuple[CycleGAN, Config]:
    """Return a model of the requested size, with white noise for its pseudo pairs."""
    sizes = {"filters": options.filters, "imsize_A": [options.patch] * 3, "threads": 1}
    config = parse_config(override(load_yaml(options.recipe), sizes | changes))
    config = choose_precision(config, torch.device("cpu"))
    stand_in = Degrader.stand_in(1, config.super_resolution, config.imsize_A)
    return CycleGAN(config, torch.device("cpu"), stand_in), config


def main() -> None:
    """Time the steps in turn and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before, _ = model_of(options, BEFORE)
    recipe, config = model_of(options, {})
    shape = (1, 1, *config.imsize_A)
    real_A, real_B = torch.randn(shape), torch.randn(shape)
    count = config.penalty_every

    def turn(model: CycleGAN, start: int) -> Callable[[], None]:
        def call() -> None:
            for step in range(start, start + count):
                model.training_step(real_A, real_B, step=step)

        return call

    steps = {
        "before": turn(before, 0),
        "recipe": turn(recipe, config.pretrain_steps),
        "recipe, pre-training": turn(recipe, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats + 1):
        for name, step in steps.items():
            seconds[name].append(seconds_of("cpu", step))
    base = statistics.median(seconds["before"][1:])
    for name, found in seconds.items():
        ratios = [value / base for value in found[1:]]  # the first one includes preparations
        print(
            f"{name:22} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  {1000 * statistics.median(found[1:]) / count:.0f} ms, {config.precision}"
        )


if __name__ == "__main__":
    main()
