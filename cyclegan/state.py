"""Checkpoints: the complete state of a training on disk, and models for enhancement.

A checkpoint is written to a temporary file, flushed and renamed, so the one that is there is whole.
Files are read with `weights_only`: they can hold tensors and plain values, no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cyclegan.errors import CheckpointError
from cyclegan.files import replacing

CHECKPOINT_FORMAT = "cyclegan-checkpoint-1"
GENERATOR_FORMAT = "cyclegan-generator-1"


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, atomically."""
    with replacing(path) as temporary:
        torch.save(dict(state), temporary)


def load(path: Path, *, formats: tuple[str, ...]) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU.

    Errors: `CheckpointError` if the file is missing, damaged or of none of the `formats`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".pt2":
        raise CheckpointError(
            f"{path}: a generator exported for use elsewhere; give the generator.pt it was made of"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        summary = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one: {summary}") from error
    if not isinstance(state, dict) or state.get("format") not in formats:
        raise CheckpointError(f"{path}: not a file of this software (wanted {', '.join(formats)})")
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """State of PyTorch's global generators; the sampler has its own."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def load_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def to_host(value: Any) -> Any:
    """A copy of nested state in host memory, independent of the original."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value
