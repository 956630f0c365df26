"""Generator files: the trained generators of both directions, for enhancement and pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cyclegan import checkpoints
from cyclegan.config import Config, parse_config
from cyclegan.data import Scan
from cyclegan.errors import CheckpointError, ConfigError
from cyclegan.model import CycleGAN, new_generator
from cyclegan.networks import UNet3d

Direction = Literal["A", "B"]


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """A generator ready to enhance: `network` is in evaluation mode, on the CPU."""

    network: UNet3d
    config: Config
    """Configuration of the training it comes from."""
    step: int
    """Number of training steps."""
    score: float | None
    """Score of the validation at that step, if there was one."""
    grey_scales: Mapping[str, Mapping[str, float]]
    """`mean` and `std`, in the files' units, of each domain (`A`, `B`) standardised on load."""
    scans: Mapping[str, Sequence[Scan]] = field(default_factory=dict)
    """Scans of the training, by domain; empty in files of earlier versions."""


def save_generators(
    model: CycleGAN,
    path: Path,
    *,
    step: int,
    score: float | None = None,
    grey_scales: Mapping[str, Mapping[str, float]] | None = None,
    scans: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    """Write the mean generators of `model`, both directions, to `path`.

    `grey_scales` and `scans` come from the training's data (`TrainingData`).
    """
    checkpoints.save(
        {
            "format": checkpoints.GENERATOR_FORMAT,
            "config": model.config.to_dict(),
            "step": step,
            "score": score,
            "grey_scales": grey_scales or {},
            "scans": scans or {},
            "mean_G_A": checkpoints.to_host(model.mean_G_A.state_dict()),
            "mean_G_B": checkpoints.to_host(model.mean_G_B.state_dict()),
        },
        path,
    )


def load_generator(path: Path, direction: Direction = "A") -> TrainedGenerator:
    """Return the mean generator A -> B (or B -> A) of a generator file or a checkpoint.

    Errors: `CheckpointError` if the file is neither, or damaged.
    """
    state = checkpoints.load(
        path, formats=(checkpoints.GENERATOR_FORMAT, checkpoints.CHECKPOINT_FORMAT)
    )
    _check_contents(state, path)
    try:
        config = parse_config(state["config"], source=f"{path}: config")
    except ConfigError as error:
        raise CheckpointError(f"{error}; did a newer version of this software write it?") from error
    network = new_generator(config, direction)
    try:
        weights = _weights(state, f"mean_G_{direction}")
        _check_finite(weights, path, f"mean_G_{direction}")
        network.load_state_dict(weights)
    except (RuntimeError, KeyError) as error:
        name = config.net_A if direction == "A" else config.net_B
        summary = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: holds no weights of {name}: {summary}") from error
    return TrainedGenerator(
        network=network.requires_grad_(False).eval(),
        config=config,
        step=int(state["step"]),
        score=state["score"],
        grey_scales=state["grey_scales"],
        scans={
            domain: [Scan.from_plain(plain) for plain in scans]
            for domain, scans in state.get("scans", {}).items()
        },
    )


_CONTENTS: Mapping[str, tuple[type, ...]] = {
    "config": (dict,),
    "step": (int,),
    "score": (int, float, type(None)),
    "grey_scales": (dict,),
}


def _check_contents(state: Mapping[str, Any], path: Path) -> None:
    for name, kinds in _CONTENTS.items():
        if not isinstance(state.get(name), kinds):
            found = repr(state[name])[:60] if name in state else "missing"
            raise CheckpointError(
                f"{path}: its {name} is {found}; the file is incomplete or was changed"
            )


def load_pretrained(model: CycleGAN, path: Path) -> None:
    """Load the networks of `model` from a generator file or a checkpoint.

    A checkpoint holds the discriminators, too; a generator file only the mean generators, from
    which the generators and their running means both start. Optimizers and counters start afresh.

    Errors: `CheckpointError` if the file is neither, or its networks have other shapes.
    """
    state = checkpoints.load(
        path, formats=(checkpoints.GENERATOR_FORMAT, checkpoints.CHECKPOINT_FORMAT)
    )
    pairs = {"G_A": "mean_G_A", "G_B": "mean_G_B", "mean_G_A": "mean_G_A", "mean_G_B": "mean_G_B"}
    if state["format"] == checkpoints.CHECKPOINT_FORMAT:
        pairs |= {"G_A": "G_A", "G_B": "G_B", "D_A": "D_A", "D_B": "D_B"}
    for name, source in pairs.items():
        try:
            weights = _weights(state, source)
            _check_finite(weights, path, source)
            getattr(model, name).load_state_dict(weights)
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"pretrained = {path}: its {source} differs from this configuration's (networks, "
                "filters, depth, channels, discriminators must be the same)"
            ) from error


def _check_finite(weights: Mapping[str, Any], path: Path, network: str) -> None:
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{path}: {network} has weights that are not finite ({name}); it comes from a "
                "training that diverged; use another file"
            )


def _weights(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if state["format"] == checkpoints.GENERATOR_FORMAT:
        weights: Mapping[str, Any] = state[name]
        return weights
    networks = state["training"]["networks"]
    return {
        key.removeprefix(f"{name}."): value
        for key, value in networks.items()
        if key.startswith(f"{name}.")
    }
