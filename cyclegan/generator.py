"""A trained generator as one file: what enhancement needs and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclegan import state as states
from cyclegan.config import Config, parse_config
from cyclegan.errors import CheckpointError
from cyclegan.model import CycleGAN
from cyclegan.networks import UNet3d, build_generator

Direction = Literal["A", "B"]


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """A generator ready to enhance: `network` is in evaluation mode, on the CPU."""

    network: UNet3d
    config: Config
    """Of the training it comes from."""
    step: int
    """Training steps it has seen."""
    score: float | None
    """Of the validation at that step, if there was one."""


def save_generators(model: CycleGAN, path: Path, *, step: int, score: float | None = None) -> None:
    """Write the mean generators of `model`, both directions, to `path`."""
    states.save(
        {
            "format": states.GENERATOR_FORMAT,
            "config": model.config.to_dict(),
            "step": step,
            "score": score,
            "mean_G_A": states.to_host(model.mean_G_A.state_dict()),
            "mean_G_B": states.to_host(model.mean_G_B.state_dict()),
        },
        path,
    )


def load_generator(path: Path, direction: Direction = "A") -> TrainedGenerator:
    """The mean generator A -> B (or B -> A) in a generator file or a checkpoint.

    Errors: `CheckpointError` if the file is neither, or damaged.
    """
    state = states.load(path, formats=(states.GENERATOR_FORMAT, states.CHECKPOINT_FORMAT))
    config = parse_config(state["config"], source=str(path))
    name = config.net_A if direction == "A" else config.net_B
    network = build_generator(name, filters=config.filters, activation=config.activation)
    try:
        network.load_state_dict(_weights(state, f"mean_G_{direction}"))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: holds no weights of {name}: {error}") from error
    return TrainedGenerator(
        network=network.requires_grad_(False).eval(),
        config=config,
        step=int(state["step"]),
        score=state["score"],
    )


def _weights(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if state["format"] == states.GENERATOR_FORMAT:
        weights: Mapping[str, Any] = state[name]
        return weights
    networks = state["training"]["networks"]
    return {
        key.removeprefix(f"{name}."): value
        for key, value in networks.items()
        if key.startswith(f"{name}.")
    }
