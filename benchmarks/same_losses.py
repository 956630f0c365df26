"""Does a refactor leave every loss as it was, bit for bit?

    python benchmarks/same_losses.py > before.txt
    ... change the code ...
    python benchmarks/same_losses.py > after.txt
    diff before.txt after.txt

Three small trainings on volumes made here, a few seconds each: `fp32` with everything that the
recipe switches on (pseudo pairs, adversaries, cycles, spectral norm, falling rates), `bf16`, and
`rollback`, in which a fault is forced twice, so that the run falls back and tries again with other
values. Printed are all metrics of all steps, discarded ones included, and the weights' sum, as
hexadecimal floating-point numbers. One thread: more of them add up in another order.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from cyclegan import Callback, Trainer, parse_config
from search.rollback import RollbackOptimizer

SHAPE = (32, 40, 40)
STEPS = 24
ADVERSARIAL = ("G_A", "G_B", "D_A", "D_B")
LAMBDAS = {"G_A": 0.3, "G_B": 0.3, "D_A": 1, "D_B": 1, "C_A": 0.1, "C_B": 1, "P_A": 10, "P_B": 1}
BASE: dict[str, Any] = {
    "run_name": "same",
    "filters": 4,
    "activation": "leaky_relu",
    "upsampling": "resize",
    "filters_D": 4,
    "layers_D": 1,
    "norm_D": "none",
    "spectral_norm_D": True,
    "imsize_A": [16, 16, 16],
    "batch_size": 1,
    "steps": STEPS,
    "pretrain_steps": 6,
    "validate_every": 8,
    "validation_patches": 4,
    "lossFuncs": dict.fromkeys(ADVERSARIAL, "hinge"),
    "lambdas": LAMBDAS,
    "lr_g": 5e-3,
    "lr_d": 2e-4,
    "lr_schedule": {"kind": "linear"},
    "precision": "fp32",
    "device": "cpu",
    "threads": 1,
    "seed": 3,
}
ROLLBACKS = {
    "enabled": True,
    "snapshot_every": 2,
    "check_every": 2,
    "warmup": 4,
    "fall_back": 4,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "rollback": {"hp_optimizer": ROLLBACKS},
}


class Faults(Callback):
    """Asks for a rollback at two iterations, whatever the training looks like."""

    def on_step_end(self, trainer: Trainer, metrics: object) -> None:
        """Break a weight, which the guard finds not to be finite."""
        if trainer.iteration in (12, 19):
            with torch.no_grad():
                next(trainer.model.G_A.parameters()).fill_(float("nan"))


def volume(seed: int, noise: float) -> np.ndarray:
    """Return a smooth two-phase material with white noise, standardised: (Z, Y, X)."""
    random = np.random.default_rng(seed)
    field = gaussian_filter(random.normal(size=SHAPE), 2)
    image = np.tanh(2 * field / field.std()) + noise * random.normal(size=SHAPE)
    return ((image - image.mean()) / image.std()).astype(np.float32)


def dataset(folder: Path, name: str, noise: float, seed: int) -> str:
    """Write training and validation volumes and their dataset JSON; return its path."""
    for number, part in enumerate(("train", "validate")):
        with h5py.File(folder / f"{name}_{part}.h5", "w") as handle:
            handle["data"] = volume(seed + number, noise)
    parts = ("train", "validate")
    content = {part: [{"path": f"{name}_{part}.h5", "dset": "data"}] for part in parts}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return str(path)


def lines(name: str, changes: dict[str, Any], folder: Path) -> Iterator[str]:
    """Train once; yield every metric of every step, and the weights at the end."""
    data = {
        "data_A": dataset(folder, "fast", 0.8, 1),
        "data_B": dataset(folder, "slow", 0.05, 11),
    }
    config = parse_config(BASE | data | changes)
    callbacks: list[Callback] = []
    if config.hp_optimizer.enabled:
        callbacks = [Faults(), RollbackOptimizer(config.hp_optimizer, folder=folder / "ring")]
    trainer = Trainer(config, callbacks)
    result = trainer.fit()
    for row in trainer.history.rows():
        values = " ".join(f"{k}={float(v).hex()}" for k, v in sorted(row.values.items()))
        yield f"{name} {row.iteration} {row.step} {'' if row.accepted else 'discarded '}{values}"
    weights = sum(float(p.double().sum()) for p in trainer.model.mean_G_A.parameters())
    score = "none" if result.score is None else result.score.hex()
    yield f"{name} rollbacks={len(trainer.rollbacks)} score={score} weights={weights.hex()}"


def main() -> None:
    """Print all three."""
    torch.set_num_threads(1)
    for name, changes in TRAININGS.items():
        with tempfile.TemporaryDirectory() as folder:
            for line in lines(name, changes, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
