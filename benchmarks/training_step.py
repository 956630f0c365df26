"""Speed of a training step, compared with the same step written plainly.

    python benchmarks/training_step.py [--filters 32] [--patch 64] [--repeats 5] [--device cpu]

The peer is the same CycleGAN step as in a textbook: eager, fp32, PyTorch's own convolutions, real
and generated images in separate discriminator passes, discriminators' gradients computed in the
generators' step and thrown away, PyTorch's default Adam. Variants run interleaved in one process;
the peak memory of each is that of a process of its own. The table also has the share of this
machine's matrix-product speed in the same precision, measured in the same run. The script prints
ratios and asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import torch
from machine import matmul_speed, peak_bytes, seconds_of
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cyclegan import Config, convolution, parse_config
from cyclegan.model import CycleGAN

Step = Callable[[], None]
VARIANTS = ("plain fp32", "ours fp32", "ours bf16")


def configuration(options: argparse.Namespace, precision: str) -> Config:
    """Return a configuration with least squares, cycle and identity losses; batch 1, no norm."""
    adversarial = dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan")
    return parse_config(
        {
            "data_A": "-",
            "data_B": "-",
            "norm_D": "none",
            "layers_D": options.layers,
            "batch_size": 1,
            "filters": options.filters,
            "filters_D": 2 * options.filters,
            "imsize_A": [options.patch] * 3,
            "precision": precision,
            "lossFuncs": adversarial,
            "lambdas": {"I_A": 1, "I_B": 1},
        }
    )


def patches(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return fixed random patches of both domains."""
    random = torch.Generator().manual_seed(0)
    shape = (1, 1, *[options.patch] * 3)
    one, other = (torch.randn(shape, generator=random).to(options.device) for _ in range(2))
    return one, other


def plain_step(options: argparse.Namespace) -> Step:
    """Return a function for one step of the peer."""
    model = CycleGAN(configuration(options, "fp32"), torch.device(options.device))
    judges = [*model.D_A.parameters(), *model.D_B.parameters()]
    generators = [*model.G_A.parameters(), *model.G_B.parameters()]
    optimizer_G = torch.optim.Adam(generators, lr=2e-4, betas=(0.5, 0.999))
    optimizer_D = torch.optim.Adam(judges, lr=1e-4, betas=(0.5, 0.999))
    lambdas = model.hparams.lambdas
    real_A, real_B = patches(options)

    def step() -> None:
        fake_B, fake_A = model.G_A(real_A), model.G_B(real_B)
        rec_A, rec_B = model.G_B(fake_B), model.G_A(fake_A)
        optimizer_D.zero_grad()
        loss_D = sum(
            (judge(real) - 1).square().mean() + judge(fake.detach()).square().mean()
            for judge, real, fake in ((model.D_A, real_B, fake_B), (model.D_B, real_A, fake_A))
        )
        loss_D.backward()
        optimizer_D.step()
        optimizer_G.zero_grad()
        loss_G = lambdas["G_A"][0] * (model.D_A(fake_B) - 1).square().mean()
        loss_G = loss_G + lambdas["G_B"][0] * (model.D_B(fake_A) - 1).square().mean()
        loss_G = loss_G + lambdas["C_A"][0] * functional.l1_loss(rec_A, real_A)
        loss_G = loss_G + lambdas["C_B"][0] * functional.l1_loss(rec_B, real_B)
        loss_G = loss_G + functional.l1_loss(model.G_A(real_B), real_B)
        loss_G = loss_G + functional.l1_loss(model.G_B(real_A), real_A)
        loss_G.backward()
        torch.nn.utils.clip_grad_norm_(generators, 1.0)
        optimizer_G.step()

    return step


def our_step(options: argparse.Namespace, precision: str) -> Step:
    """Return a function for a step of the trainer, with running means of the generators."""
    model = CycleGAN(configuration(options, precision), torch.device(options.device))
    real_A, real_B = patches(options)

    def step() -> None:
        model.training_step(real_A, real_B)
        model.update_mean(1)

    return step


def build(options: argparse.Namespace, variant: str) -> Step:
    """Return the step of one of `VARIANTS`."""
    kind, precision = variant.split()
    return (
        with_pytorchs_convolutions(plain_step(options))
        if kind == "plain"
        else our_step(options, precision)
    )


def with_pytorchs_convolutions(step: Step) -> Step:
    """Return a step whose convolutions run on whatever PyTorch chooses."""

    def plain() -> None:
        with mock.patch.object(convolution, "USE_ONEDNN", False):
            step()

    return plain


def peak_memory(options: argparse.Namespace, variant: str) -> float:
    """Return the GB that a process of its own takes for two steps of `variant`."""
    line = [sys.executable, __file__, "--memory-of", variant]
    line += ["--filters", str(options.filters), "--patch", str(options.patch)]
    line += ["--layers", str(options.layers), "--device", options.device]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["gb"])


def report_memory(options: argparse.Namespace) -> None:
    """Print the peak memory, in the process of `peak_memory`."""
    step = build(options, options.memory_of)
    step()
    step()
    print(json.dumps({"gb": peak_bytes(options.device) / 1e9}))


def main() -> None:
    """Time the variants in turn and print medians, ratios, memory and the share of the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        report_memory(options)
        return
    steps = {variant: build(options, variant) for variant in VARIANTS}
    with FlopCounterMode(display=False) as counter:
        with_pytorchs_convolutions(steps["ours fp32"])()  # the counter does not know oneDNN's
    flop = counter.get_total_flops()
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for repeat in range(options.repeats + 1):
        for variant, step in steps.items():
            lasted = seconds_of(options.device, step)
            if repeat:  # the first round warms up
                seconds[variant].append(lasted)
    peaks = {"fp32": matmul_speed(options.device, torch.float32)}
    peaks["bf16"] = matmul_speed(options.device, torch.bfloat16)
    first = statistics.median(seconds[VARIANTS[0]])
    print(
        f"{options.device}, {torch.get_num_threads()} threads, nf = {options.filters}, patch "
        f"{options.patch}^3, {flop / 1e12:.2f} TFLOP a step; matrix products reach "
        f"{peaks['fp32'] / 1e12:.2f} TFLOP/s in fp32 and {peaks['bf16'] / 1e12:.2f} in bf16"
    )
    for variant, times in seconds.items():
        median = statistics.median(times)
        share = flop / median / peaks[variant.split()[1]]
        print(
            f"{variant:12s} {median:8.3f} s a step {first / median:6.2f} x   "
            f"{peak_memory(options, variant):6.2f} GB   {100 * share:4.0f} % of matrix products"
        )


if __name__ == "__main__":
    main()
