"""A pool of trainings that stores everything from which a score could be made.

The configurations are drawn at random from spaces as wide as a study's (`SPACES`), so that good,
mediocre and broken trainings occur. There are two kinds: `random`, by which the score's weights
were chosen, and `recipe`, with the loss on pseudo pairs, which teaches a network the very
degradation that the score uses. Each training has a folder of its own; those of a recipe are
called `r07-s1`:

    POOL/c07-s1/config.yaml
    POOL/c07-s1/step-00120.pt     the mean generators
    POOL/c07-s1/losses.json       {step: {loss: mean over the steps since the step before}}

`losses.json` is written last and marks a training as complete; on another call, `train_pool` trains
only what is missing. `score_validity.py` uses this module.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cyclegan import Config, Trainer, parse_config
from cyclegan.callbacks import Callback
from cyclegan.config import Lambdas, override
from cyclegan.files import write_text
from cyclegan.generator import save_generators

Space = Mapping[str, tuple[float, float]]
SPACES: Mapping[str, Space] = {
    "random": {
        "lr_g": (2e-4, 1e-2),
        "lr_d": (5e-5, 5e-3),
        "lambdas.C_A": (0.05, 20.0),
        "lambdas.C_B": (0.05, 20.0),
        "lambdas.I_A": (0.1, 10.0),
        "lambdas.G_A": (0.3, 3.0),
    },
    "recipe": {
        "lambdas.P_A": (0.5, 20.0),
        "lambdas.G_A": (0.1, 10.0),
        "lambdas.G_B": (0.1, 10.0),
        "lambdas.C_A": (0.05, 20.0),
        "lambdas.C_B": (0.05, 20.0),
        "lr_g": (2e-4, 1e-2),
        "lr_d": (5e-5, 5e-3),
    },
}
"""Ranges of configuration keys by kind, log-uniform."""
TIES = {"random": {"lambdas.I_B": "lambdas.I_A", "lambdas.G_B": "lambdas.G_A"}, "recipe": {}}
"""Keys that take the value of another key."""
OFTEN_ZERO = "lambdas.P_A"
"""A key that is 0 in every third configuration that has it, to show the effect of the new term."""
OF_KIND: Mapping[str, Mapping[str, Any]] = {
    "random": {},
    "recipe": {"upsampling": "resize", "lambdas.I_A": 3.0, "lambdas.I_B": 3.0},
}
"""Settings of all configurations of a kind; identity losses are those of studies/demo.yaml."""
FIRST_LETTERS = {"random": "c", "recipe": "r"}
"""First letter of the folders, by kind."""
STREAMS = {"random": 20, "recipe": 21}
"""Seeds of the draws, by kind."""
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
"""Settings of all trainings, the same as in studies/demo.yaml."""


@dataclass(frozen=True)
class Member:
    """One training of the pool; `values` are configuration keys, e.g. `lambdas.C_A`."""

    number: int
    seed: int
    values: Mapping[str, float]
    kind: str = "random"

    @property
    def configuration(self) -> str:
        """Name of the configuration, which all its seeds share."""
        return f"{FIRST_LETTERS[self.kind]}{self.number:02d}"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.configuration}-s{self.seed}"

    def folder(self, pool: Path) -> Path:
        """Return its folder."""
        return pool / self.name


def members(configurations: int, seeds: int, kind: str = "random") -> list[Member]:
    """Return all configurations with the first seed, then with the next: a part is useful, too."""
    drawn = list(_drawn(configurations, kind))
    return [
        Member(number, seed, values, kind)
        for seed in range(seeds)
        for number, values in enumerate(drawn)
    ]


def _drawn(configurations: int, kind: str) -> Iterator[dict[str, float]]:
    random = np.random.default_rng(STREAMS[kind])
    for number in range(configurations):
        values = {
            key: float(math.exp(random.uniform(math.log(low), math.log(high))))
            for key, (low, high) in SPACES[kind].items()
        }
        if OFTEN_ZERO in values and number % 3 == 0:
            values[OFTEN_ZERO] = 0.0
        yield values | {key: values[source] for key, source in TIES[kind].items()}


def configuration(member: Member, data: Path, steps: int, precision: str) -> Config:
    """Return the configuration. Errors: `ConfigError` for a key that this version doesn't know."""
    fixed = {
        **FIXED,
        "run_name": f"pool-{member.name}",
        "data_A": str(data / "fast.json"),
        "data_B": str(data / "slow.json"),
        "lambdas": {"D_A": 1, "D_B": 1},
        "seed": member.seed,
        "steps": steps,
        "validate_every": steps,
        "checkpoint_every": 10 * steps,
        "precision": precision,
    }
    return parse_config(override(fixed, {**OF_KIND[member.kind], **_known(member.values)}))


def _known(values: Mapping[str, float]) -> dict[str, float]:
    """Return `values` without losses of weight 0 that this version doesn't have."""
    groups = {f"lambdas.{group}" for group in Lambdas.model_fields}
    return {
        key: value
        for key, value in values.items()
        if value or key in groups or not key.startswith("lambdas.")
    }


class Recorder(Callback):
    """Store the mean generators at regular steps, and the mean losses in between."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.losses: dict[int, dict[str, float]] = {}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        """Store the generators if they are due."""
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
    pool: Path, data: Path, wanted: Iterable[Member], steps: int, every: int, precision: str
) -> None:
    """Train what is missing, one after the other, and print the time of each."""
    for member in wanted:
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
