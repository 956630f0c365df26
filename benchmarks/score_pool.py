"""A pool of trainings of which everything is kept that a score could be made from.

The configurations are drawn at random from a space as wide as a study's (`SPACE`), so that good,
mediocre and broken trainings occur. Each lies in a folder of its own:

    POOL/c07-s1/config.yaml
    POOL/c07-s1/step-00120.pt     the mean generators
    POOL/c07-s1/losses.json       {step: {loss: mean over the steps since the step before}}

`losses.json` is written last and marks a training as complete; started again, `train_pool` does
what is missing. Used by `score_validity.py`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from cyclegan import Config, Trainer, parse_config
from cyclegan.callbacks import Callback
from cyclegan.files import write_text
from cyclegan.generator import save_generators

SPACE = {
    "lr_g": (2e-4, 1e-2),
    "lr_d": (5e-5, 5e-3),
    "C_A": (0.05, 20.0),
    "C_B": (0.05, 20.0),
    "I": (0.1, 10.0),
    "G": (0.3, 3.0),
}
"""Ranges, log-uniform; `I` and `G` are the lambdas of both directions."""
FIXED = {
    "filters": 8,
    "activation": "leaky_relu",
    "init_std": 0.07,
    "filters_D": 16,
    "layers_D": 2,
    "norm_D": "none",
    "imsize_A": [32, 32, 32],
    "batch_size": 1,
    "net_A": "UNetSim3d",
    "net_B": "UNetSim3d",
    "lossFuncs": dict.fromkeys(("G_A", "G_B", "D_A", "D_B"), "lsgan"),
    "threads": 1,
    "device": "cpu",
}
"""What studies/demo.yaml has, too."""


@dataclass(frozen=True)
class Member:
    """One training of the pool."""

    number: int
    seed: int
    values: Mapping[str, float]

    def folder(self, pool: Path) -> Path:
        """Where it lies."""
        return pool / f"c{self.number:02d}-s{self.seed}"


def members(configurations: int, seeds: int) -> list[Member]:
    """All configurations with the first seed, then all with the next: a part is of use, too."""
    random = np.random.default_rng(20)
    drawn = [
        {
            name: float(math.exp(random.uniform(math.log(low), math.log(high))))
            for name, (low, high) in SPACE.items()
        }
        for _ in range(configurations)
    ]
    return [Member(n, seed, values) for seed in range(seeds) for n, values in enumerate(drawn)]


def configuration(member: Member, data: Path, steps: int, precision: str) -> Config:
    """What to train."""
    v = member.values
    cycle = {"C_A": v["C_A"], "C_B": v["C_B"], "I_A": v["I"], "I_B": v["I"]}
    return parse_config(
        {
            **FIXED,
            "run_name": f"pool-c{member.number:02d}-s{member.seed}",
            "data_A": str(data / "fast.json"),
            "data_B": str(data / "slow.json"),
            "lr_g": v["lr_g"],
            "lr_d": v["lr_d"],
            "lambdas": {"G_A": v["G"], "G_B": v["G"], "D_A": 1, "D_B": 1, **cycle},
            "seed": member.seed,
            "steps": steps,
            "validate_every": steps,
            "checkpoint_every": 10 * steps,
            "precision": precision,
        }
    )


class Recorder(Callback):
    """Stores the mean generators every so many steps, and the mean losses in between."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.losses: dict[int, dict[str, float]] = {}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Due or not, see the class."""
        if trainer.step % self.every:
            return
        path = self.folder / f"step-{trainer.step:05d}.pt"
        save_generators(trainer.model, path, step=trainer.step)
        rows = trainer.history.rows(after=trainer.iteration - self.every)
        names = [name for name in trainer.history.names if name.startswith("loss/")]
        self.losses[trainer.step] = {
            name: float(np.mean([row.values[name] for row in rows])) for name in names
        }


def train_pool(
    pool: Path,
    data: Path,
    *,
    configurations: int,
    seeds: int,
    steps: int,
    every: int,
    precision: str,
) -> None:
    """Train what is missing, one after the other, and say how long each took."""
    for member in members(configurations, seeds):
        folder = member.folder(pool)
        if (folder / "losses.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        config = configuration(member, data, steps, precision)
        recorder = Recorder(folder, every)
        start = time.perf_counter()
        Trainer(config, [recorder]).fit()
        seconds = time.perf_counter() - start
        write_text(folder / "config.yaml", config.to_yaml())
        write_text(folder / "losses.json", json.dumps(recorder.losses, indent=1))
        print(f"{folder.name}: {seconds:.0f} s, {1000 * seconds / steps:.0f} ms a step", flush=True)
