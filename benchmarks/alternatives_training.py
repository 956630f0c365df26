"""The trained rows of `alternatives.py`: our trainer with several recipes, the supervised bound.

All trainings of a data set get the same number of steps, or the same number of seconds. In that
case the script measures the rate first, because schedules must know their length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alternatives_results import LeftOut
from alternatives_sets import Array, Scans, read
from machine import work_seconds
from torch import Tensor

from cyclegan import Config, Trainer, enhance_array, load_generator, parse_config
from cyclegan.callbacks import Callback
from cyclegan.config import load_yaml, override
from cyclegan.enhance.network import Generator
from cyclegan.enhance.network import choose_precision as enhancing_precision
from cyclegan.files import write_text
from cyclegan.generator import save_generators
from cyclegan.keep_best import KeepBest
from cyclegan.model import CycleGAN
from cyclegan.networks import UNet3d
from cyclegan.precision import choose_device, choose_precision
from search.rollback import RollbackOptimizer

RECIPES = {
    "seed": {1: "seed_recipe.yaml", 2: "seed_recipe_2x.yaml", 4: "seed_recipe_4x.yaml"},
    "pseudo": {1: "pseudo_recipe.yaml", 2: "pseudo_recipe_2x.yaml", 4: "pseudo_recipe_4x.yaml"},
    "ours": {1: "recipe.yaml", 2: "recipe_2x.yaml", 4: "recipe_4x.yaml"},
}
"""Training YAMLs in `studies/` by recipe and super resolution."""
STUDIES = Path(__file__).resolve().parent.parent / "studies"
_RECORD = "training.json"
_MEAN = 0.999
"""Decay of the running mean of the supervised bound's weights."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The length of trainings: steps, seconds, or else the steps of our recipe."""

    steps: int | None
    minutes: float | None
    trial: float
    """Share of the length that a trial of a study gets."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training."""

    folder: Path
    seconds: float
    steps: int
    kept: int
    """Step of the best generator."""

    @property
    def best(self) -> Path:
        """Generators of the best score."""
        return self.folder / "generator.pt"

    @property
    def last(self) -> Path:
        """Generators of the last step."""
        return self.folder / "last.pt"


def recipe_path(kind: str, scale: int, override: Path | None) -> Path:
    """Return the YAML of a recipe. Errors: `LeftOut` if it is not there."""
    path = override or STUDIES / RECIPES[kind][scale]
    if not path.is_file():
        raise LeftOut(f"{path} is missing; name another file with {OPTIONS[kind]}")
    return path


OPTIONS = {"seed": "--seed-recipe", "pseudo": "--pseudo-recipe", "ours": "--recipe"}


def fitting(changes: Mapping[str, Any], recipe: Path) -> dict[str, Any]:
    """Return the `changes` that suit a recipe: pre-training only where the recipe has some."""
    whole = load_yaml(recipe)
    return {k: v for k, v in changes.items() if k != "pretrain_steps" or k in whole}


def configuration(
    recipe: Path, scans: Scans, name: str, seed: int, more: Mapping[str, Any] | None = None
) -> Config:
    """Return the configuration. Errors: `LeftOut` for a recipe of another super resolution."""
    values = _read(recipe, scans.data.scale)
    changes = {
        "run_name": name,
        "data_A": str(scans.folder / "fast.json"),
        "data_B": str(scans.folder / "slow.json"),
        "threads": 1,
        "seed": seed,
        **(more or {}),
    }
    return parse_config(override(values, changes), source=str(recipe))


def steps_of(config: Config, budget: Budget, share: float, ours: Path | None) -> int:
    """Return the number of steps: those given, those that fit into the time, or our recipe's."""
    if budget.minutes is not None:
        return max(int(60 * budget.minutes * share / _seconds_a_step(config)), 1)
    whole = budget.steps
    if whole is None:
        whole = load_yaml(ours).get("steps", config.steps) if ours else config.steps
    return max(round(whole * share), 1)


def finished(folder: Path, settings: Any) -> Trained | None:
    """Return the training in `folder`, if it was made with these settings."""
    try:
        content = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Trained(folder=folder, **content["done"]) if content["settings"] == settings else None


def train(config: Config, folder: Path, settings: Any) -> Trained:
    """Train with `config` and store the generators in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _RECORD).unlink(missing_ok=True)
    keeper = KeepBest(folder / "generator.pt")
    callbacks: list[Callback] = [keeper]
    if config.hp_optimizer.enabled:
        callbacks.append(RollbackOptimizer(config.hp_optimizer, folder=folder / "ring"))
    started = work_seconds()
    trainer = Trainer(config, callbacks)
    trainer.fit()
    seconds = work_seconds() - started
    scales = trainer.data.grey_scales()
    save_generators(trainer.model, folder / "last.pt", step=trainer.step, grey_scales=scales)
    done = {"seconds": seconds, "steps": trainer.step, "kept": keeper.step}
    write_text(folder / _RECORD, json.dumps({"done": done, "settings": settings}, indent=1))
    return Trained(folder=folder, **done)


def enhanced(path: Path, source: Array) -> tuple[Array, float]:
    """Enhance `source` with the stored generator in exact tiles; return it and the seconds."""
    generator = load_generator(path)
    bf16 = generator.config.precision == "bf16"
    return _enhanced(generator.network, source, choose_device(generator.config.device), bf16)


def supervised(
    config: Config, scans: Scans, *, steps: int | None, seconds: float | None
) -> tuple[Array, dict[str, Any]]:
    """Train G_A on aligned pairs of the fast training volume, with L1, and enhance.

    The judged volume is not among them. The training ends after a number of steps or seconds,
    whichever is given. Returns the image and the figures of a record.
    """
    device = choose_device(config.device)
    torch.set_num_threads(1)
    config = choose_precision(config, device)
    model = CycleGAN(config, device)
    names = ("fast_train", "aligned_train")
    pairs = _Pairs([read(scans.folder / f"{n}.h5") for n in names], config)
    started = work_seconds()
    done = _fit(model, pairs, config, steps, seconds)
    trained = work_seconds() - started
    bf16 = config.precision == "bf16"
    image, took = _enhanced(model.mean_G_A, scans.source, device, bf16)
    return image, {"train_seconds": trained, "enhance_seconds": took, "steps": done}


def _fit(
    model: CycleGAN, pairs: _Pairs, config: Config, steps: int | None, seconds: float | None
) -> int:
    """Train G_A and its running mean, with a rate that falls to 0; return the number of steps."""
    optimizer = torch.optim.Adam(model.G_A.parameters(), lr=config.lr_g)
    started, step, progress = work_seconds(), 0, 0.0
    while progress < 1:
        optimizer.param_groups[0]["lr"] = config.lr_g * (1 - progress)
        source, target = (batch.to(model.device) for batch in pairs.draw(config.batch_size))
        with model.autocast():
            loss = (model.G_A(source).float() - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        decay = min(_MEAN, (1 + step) / (10 + step))
        with torch.no_grad():
            means, now = list(model.mean_G_A.parameters()), list(model.G_A.parameters())
            torch._foreach_lerp_(means, now, 1 - decay)
        elapsed = work_seconds() - started
        progress = max(step / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)
    return step


class _Pairs:
    """Patches of the fast scan and of the slow scan at the same places, flipped at random."""

    def __init__(self, volumes: Sequence[Array], config: Config) -> None:
        self.volumes = volumes
        self.sizes = config.imsize_A, config.imsize_B
        self.factor = config.super_resolution
        self.random = np.random.default_rng([config.seed, 77])

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return batches (B, 1, Z, Y, X) of A and B."""
        drawn = [self._pair() for _ in range(count)]
        one, other = (np.stack(patches)[:, None] for patches in zip(*drawn, strict=True))
        return torch.from_numpy(one), torch.from_numpy(other)

    def _pair(self) -> tuple[Array, Array]:
        shape, size = self.volumes[0].shape, self.sizes[0]
        origin = [int(self.random.integers(0, n - m + 1)) for n, m in zip(shape, size, strict=True)]
        flipped = tuple(axis for axis in range(3) if self.random.random() < 0.5)
        one, other = (
            volume[tuple(slice(f * o, f * o + n) for o, n in zip(origin, length, strict=True))]
            for volume, length, f in zip(self.volumes, self.sizes, (1, self.factor), strict=True)
        )
        return np.flip(one, flipped).copy(), np.flip(other, flipped).copy()


def _enhanced(
    network: UNet3d, source: Array, device: torch.device, bf16: bool
) -> tuple[Array, float]:
    precision = enhancing_precision("auto", network, device=device, trained_in_bf16=bf16)
    operator = Generator(network, device=device, precision=precision)
    started = work_seconds()
    image = enhance_array(operator, source, device=device)
    return np.asarray(image, np.float32), work_seconds() - started


def _seconds_a_step(config: Config) -> float:
    """Return the seconds of a step, with its share of a validation."""
    trainer = Trainer(config)
    for _ in range(3):
        trainer._train_one_step()
    trainer.validator(trainer.model, step=0, iteration=0)
    started = work_seconds()
    for _ in range(10):
        trainer._train_one_step()
    middle = work_seconds()
    trainer.validator(trainer.model, step=0, iteration=0)
    validation = work_seconds() - middle
    trainer.data.close()
    return (middle - started) / 10 + validation / config.validate_every


def _read(recipe: Path, scale: int) -> dict[str, Any]:
    values = load_yaml(recipe)
    factor = values.get("super_resolution", 1)
    if factor != scale:
        raise LeftOut(f"{recipe} has super_resolution {factor}, {scale} is wanted here")
    return values
