"""Choice of the device and of the precision, where the configuration says `auto`."""

from __future__ import annotations

import json
import logging
import time
from functools import lru_cache

import torch

from cyclegan.config import Config, parse_config
from cyclegan.degrader import Degrader
from cyclegan.errors import ConfigError
from cyclegan.numbers import round_up
from cyclegan.selftest import reason_for_distrust, under_autocast

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the first GPU, else the CPU.

    Errors: `ConfigError` if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device = {name}: not a device; use auto, cpu, cuda or cuda:0"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {name}: not supported; use auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = {name}: PyTorch sees no GPU here; use device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device = {name}: there are {torch.cuda.device_count()} GPUs here")
    return device


def use_device(name: str) -> torch.device:
    """Return the device called `name` and make it the current one, if it is a GPU with a number.

    Streams, events and workspaces of libraries belong to the current GPU unless told otherwise.

    Errors: those of `choose_device`.
    """
    device = choose_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def choose_precision(config: Config, device: torch.device) -> Config:
    """Return `config` with `precision: auto` replaced by the faster precision on `device`.

    A GPU that computes bf16 natively gets bf16. On a CPU both are timed: with bf16 units a step
    takes a third of the time, without them it takes longer. bf16, chosen or given, becomes fp32,
    with a warning, if it is wrong on this device (see `cyclegan.selftest`).

    Errors: `ConfigError` for bf16 on a CPU with patches too small for it.
    """
    return _trusted(_chosen(config, device), device)


def _trusted(config: Config, device: torch.device) -> Config:
    if config.precision != "bf16":
        return config
    reason = _reason_for_distrust(json.dumps(config.to_dict()), str(device))
    if reason is None:
        return config
    logger.warning("precision: fp32, because bf16 is wrong on %s: %s", device, reason)
    return parse_config(config.to_dict() | {"precision": "fp32"})


@lru_cache(maxsize=8)
def _reason_for_distrust(values: str, device: str) -> str | None:
    """Compare both generators with fp32 on a patch of the training's size."""
    from cyclegan.model import CycleGAN

    config = parse_config(json.loads(values) | {"precision": "fp32", "pool_size": 0})
    stand_in = Degrader.stand_in(config.channels_A, config.super_resolution, config.imsize_A)
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(0)
        model = CycleGAN(config, torch.device(device), stand_in)
        for network, channels, size in (
            (model.G_A, config.channels_A, config.imsize_A),
            (model.G_B, config.channels_B, config.imsize_B),
        ):
            window = torch.randn(1, channels, *size).to(device)
            reason = reason_for_distrust(network, under_autocast(network), window)
            if reason is not None:
                return reason
    return None


def _chosen(config: Config, device: torch.device) -> Config:
    problem = _too_small_for_bf16(config) if device.type == "cpu" else None
    if config.precision == "bf16" and problem:
        raise ConfigError(f"precision = bf16: {problem}; make imsize_A larger or use fp32")
    if config.precision != "auto":
        return config
    if problem:
        logger.info("precision: fp32 (%s)", problem)
        precision = "fp32"
    elif device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    else:
        seconds = {p: _seconds_per_step(config, p) for p in ("fp32", "bf16")}
        precision = min(seconds, key=seconds.__getitem__)
        logger.info(
            "precision: %s (a small step takes %.2f s in fp32, %.2f s in bf16)",
            precision,
            seconds["fp32"],
            seconds["bf16"],
        )
    return parse_config(config.to_dict() | {"precision": precision})


def _too_small_for_bf16(config: Config) -> str | None:
    """Return the reason why bf16 would give wrong gradients on a CPU, or None.

    PyTorch 2.13's weight gradient of a bf16 `conv3d` on the CPU reads uninitialised memory when the
    image is smaller than the kernel (seen in comparisons with fp32 over many shapes; results differ
    from call to call and can be infinite).
    """
    for domain, size, geometry in (
        ("A", config.imsize_A, config.geometry("A")),
        ("B", config.imsize_B, config.geometry("B")),
    ):
        bottom = min(size) // geometry.alignment
        judged = min(size) // 2**config.layers_D - 1  # input of the last 4x4x4 convolution
        if bottom < 3 or judged < 4:
            return (
                f"with patches of {list(size)} voxels in domain {domain} some layers see images "
                "smaller than their kernels, for which PyTorch's bf16 gradients on a CPU are wrong"
            )
    return None


def _seconds_per_step(config: Config, precision: str) -> float:
    from cyclegan.model import CycleGAN

    smallest = max(
        5 * 2**config.layers_D,
        3 * config.geometry("A").alignment,
        3 * config.geometry("B").alignment,
    )
    smallest = min(round_up(smallest, 16), *config.imsize_A)
    changes = {"precision": precision, "imsize_A": [smallest] * 3, "batch_size": 1, "pool_size": 0}
    small = parse_config(config.to_dict() | changes)
    stand_in = Degrader.stand_in(small.channels_A, small.super_resolution, small.imsize_A)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CycleGAN(small, torch.device("cpu"), stand_in)
        real_A = torch.randn(1, small.channels_A, *small.imsize_A)
        real_B = torch.randn(1, small.channels_B, *small.imsize_B)
        times = []
        for _ in range(3):  # the first one includes the libraries' preparations
            start = time.perf_counter()
            model.training_step(real_A, real_B)
            times.append(time.perf_counter() - start)
    return min(times[1:])
