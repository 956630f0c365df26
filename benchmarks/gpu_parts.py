"""Enhancement, score, snapshots and exactness on one device, for `gpu.py`.

Functions take the device and the sizes, and return plain values for the tables and the JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from gpu_step import Row, Sizes, recipe
from machine import seconds_of
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cyclegan import Callback, Config, Trainer
from cyclegan.checkpoints import newest_checkpoint
from cyclegan.data import Volume, VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.enhance.memory import budget_bytes, choose_grid
from cyclegan.enhance.network import Generator
from cyclegan.enhance.tiling import apply_tiled
from cyclegan.model import CycleGAN
from cyclegan.networks import build_generator
from cyclegan.slurm import limited_bytes
from cyclegan.snapshot import tensors_of

# -- Enhancement -------------------------------------------------------------------------------


class Copied:
    """A tile operator that returns its input: what is left then is reading and writing."""

    alignment, halo_left, halo_right, channels_in, channels_out = 1, 0, 0, 1, 1
    outputs: Mapping[str, Fraction] = {"data": Fraction(1)}

    def __call__(self, patch: Tensor) -> Mapping[str, Tensor]:
        """Return the patch."""
        return {"data": patch}


def enhancement_row(device: str, sizes: Sizes) -> Row:
    """Return the time of an enhancement, and of its stages when each runs alone."""
    side = sizes.volume
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = np.random.default_rng(0).normal(size=(side,) * 3).astype(np.float32)
        with h5py.File(folder / "in.h5", "w") as file:
            file["data"] = image
        entry = VolumeEntry(path=folder / "in.h5", dset="data")
        torch.manual_seed(0)
        precision: Any = "bf16" if device.startswith("cuda") else "fp32"
        network = build_generator("UNetSim3d", filters=sizes.filters).eval()
        generator = Generator(network, device=device, precision=precision)

        def made(operator: Any, compression: Any) -> Callable[[], object]:
            settings = EnhanceSettings(device=device, compression=compression, overwrite=True)
            return lambda: enhance_file(operator, entry, folder / "out.h5", settings)

        budget = budget_bytes(torch.device(device), None)
        core = choose_grid(generator, (side,) * 3, budget=budget).core
        corner = image[: min(side, 32), : min(side, 32), : min(side, 32)]
        apply_tiled(generator, corner)  # the first call chooses algorithms
        read = seconds_of(device, lambda: Volume(entry).read((0, 0, 0), (side,) * 3))
        compute = seconds_of(device, lambda: apply_tiled(generator, image, core))
        plain = seconds_of(device, made(Copied(), "none"))
        packed = seconds_of(device, made(Copied(), "gzip"))
        whole = seconds_of(device, made(generator, "gzip"))
    return {
        "voxels": side**3,
        "filters": sizes.filters,
        "precision": precision,
        "tile": list(core),
        "seconds": whole,
        "voxels_per_s": side**3 / whole,
        "read_s": read,
        "compute_s": compute,
        "compress_s": max(packed - plain, 0.0),
        "write_s": max(plain - read, 0.0),
    }


# -- A training on small data: score, snapshots, exactness -------------------------------------


@contextlib.contextmanager
def small_training(device: str, sizes: Sizes) -> Iterator[Row]:
    """Yield the values of a configuration with volumes of its own: smooth, and smooth and noisy."""
    patch, random = sizes.score_patch, np.random.default_rng(1)
    shape = (2 * patch,) * 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for domain, noise in (("fast", 0.8), ("slow", 0.05)):
            entries = {}
            for part in ("train", "validate"):
                smooth = gaussian_filter(random.normal(size=shape), 2)
                image = np.tanh(2 * smooth / smooth.std()) + noise * random.normal(size=shape)
                with h5py.File(folder / f"{domain}_{part}.h5", "w") as file:
                    file["data"] = image.astype(np.float32)
                entries[part] = [{"path": f"{domain}_{part}.h5", "dset": "data"}]
            (folder / f"{domain}.json").write_text(json.dumps(entries), encoding="utf-8")
        yield {
            "data_A": str(folder / "fast.json"),
            "data_B": str(folder / "slow.json"),
            "imsize_A": [patch] * 3,
            "filters": sizes.filters,
            "filters_D": sizes.filters,
            "device": device,
            "precision": "fp32",
            "steps": sizes.exact_steps,
            "validate_every": sizes.exact_steps,
        }


def score_row(values: Mapping[str, Any], device: str) -> Row:
    """Return the time to build a score, again for the next trial, and that of a report."""
    config = recipe(values)
    began = time.perf_counter()
    trainer = Trainer(config)
    built = time.perf_counter() - began
    trainer.data.close()
    began = time.perf_counter()
    second = Trainer(recipe(dict(values) | {"lr_g": 5e-4}))
    again = time.perf_counter() - began
    second.data.close()

    def report() -> object:
        return trainer.validator(trainer.model, step=1, iteration=1)

    def score() -> object:
        model = trainer.model
        return trainer.validator.score(model.mean_G_A, model.mean_G_B)

    report()
    return {
        "patch": config.imsize_A[0],
        "patches": config.validation_patches,
        "first_trainer_s": built,
        "second_trainer_s": again,
        "report_s": statistics.median(seconds_of(device, report) for _ in range(3)),
        "score_synchronisations": synchronisations(device, score),
        "report_synchronisations": synchronisations(device, report),
    }


def synchronisations(device: str, call: Callable[[], object]) -> int | None:
    """Return how often PyTorch says that `call` waited for the GPU; None on a CPU."""
    if not device.startswith("cuda"):
        call()
        return None
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(one.message) for one in caught)


def snapshot_row(values: Mapping[str, Any], device: str, count: int = 5) -> Row:
    """Return the time of snapshots, and their bytes in pinned memory against the ring's budget."""
    config = recipe(values)
    trainer = Trainer(config)
    trainer.data.close()
    trainer.snapshot().state()
    asked, arrived, kept = [], [], []
    for _ in range(count):
        began = time.perf_counter()
        snapshot = trainer.snapshot()
        asked.append(time.perf_counter() - began)
        snapshot.state()
        arrived.append(time.perf_counter() - began)
        kept.append(snapshot)
    tensors = [tensor for snapshot in kept for tensor in tensors_of(snapshot.training)]
    return {
        "snapshots": count,
        "seconds_asked": statistics.median(asked),
        "seconds_arrived": statistics.median(arrived),
        "bytes_each": kept[0].nbytes(),
        "pinned_bytes": sum(t.nbytes for t in tensors if t.is_pinned())
        if device.startswith("cuda")
        else 0,
        "budget_bytes": round(limited_bytes(1e9 * config.hp_optimizer.memory_gb)),
    }


class _StopAt(Callback):
    """Interrupts a training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Stop the training if it is time."""
        if trainer.step == self.step:
            trainer.request_stop("half-way", outcome="interrupted")


def exactness(values: Mapping[str, Any]) -> Row:
    """Return whether trainings repeat and resume to the bit, and the error of bf16."""
    steps = int(values["steps"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, model = _trained(values, folder / "whole")
        again, _ = _trained(values, folder / "again")
        _trained(values, folder / "parts", _StopAt(steps // 2))
        resumed, _ = _trained(values, folder / "parts")
    return {
        "steps": steps,
        "values": sum(map(len, whole)),
        "two_runs_identical": whole == again,
        "resume_identical": whole == resumed,
        "bf16_relative_error": bf16_error(model, recipe(values)),
    }


def _trained(
    values: Mapping[str, Any], folder: Path, *callbacks: Callback
) -> tuple[list[dict[str, str]], CycleGAN]:
    """Train or resume; return all metrics of each step in hexadecimal, and the model."""
    trainer = Trainer(recipe(values), callbacks, folder=folder)
    trainer.fit(newest_checkpoint(folder))
    rows = [{n: float(v).hex() for n, v in row.values.items()} for row in trainer.history.rows()]
    return rows, trainer.model


def bf16_error(model: CycleGAN, config: Config) -> float:
    """Return the root mean square difference of a generator's outputs in bf16 and in fp32.

    It is relative to the output's own root mean square.
    """
    device = next(model.G_A.parameters()).device
    random = torch.Generator().manual_seed(2)
    patch = torch.randn(1, 1, *config.imsize_A, generator=random).to(device)
    with torch.no_grad():
        exact = model.mean_G_A(patch).float()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            rough = model.mean_G_A(patch).float()
    return math.sqrt(float((rough - exact).square().mean() / exact.square().mean()))
