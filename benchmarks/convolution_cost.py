"""A step of the recipe with our convolutions on a CPU, compared with PyTorch's own choice.

    python benchmarks/convolution_cost.py [--filters 8 16] [--patch 32] [--repeats 10]

The steps take turns in one process, on one thread, in fp32, where `cyclegan/convolution.py` chooses
(bf16 leaves the choice to PyTorch). The script prints medians and the ratio of medians, with the
smallest and the largest ratio over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from machine import seconds_of
from recipe_cost import RECIPE, model_of

from cyclegan import convolution


def seconds(options: argparse.Namespace, filters: int, pretraining: bool) -> Iterator[list[float]]:
    """Yield the seconds of a step with PyTorch's convolutions and with ours, once a repeat."""
    options.filters = filters
    model, config = model_of(options, {"precision": "fp32"})
    shape = (1, 1, *config.imsize_A)
    real_A, real_B = torch.randn(shape), torch.randn(shape)
    first, count = 0 if pretraining else config.pretrain_steps, config.penalty_every

    def steps() -> None:
        for step in range(first, first + count):
            model.training_step(real_A, real_B, step=step)

    for repeat in range(options.repeats + 1):
        found = []
        for convolution.USE_ONEDNN in (False, True):
            found.append(seconds_of("cpu", steps) / count)
        if repeat:  # the first one includes preparations
            yield found


def main() -> None:
    """Time the steps in turn and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--filters", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(torch.backends.cpu.get_cpu_capability())
    for filters in options.filters:
        for pretraining in (True, False):
            found = list(seconds(options, filters, pretraining))
            ratios = [ours / theirs for theirs, ours in found]
            theirs, ours = (1000 * statistics.median(values) for values in zip(*found, strict=True))
            print(
                f"{filters:3} filters, {'pre-training' if pretraining else 'whole step':12} "
                f"PyTorch {theirs:.0f} ms, ours {ours:.0f} ms: {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
