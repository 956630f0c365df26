"""What an exported generator says of itself, as plain JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from cyclegan.enhance.network import weights_hash
from cyclegan.generator import Direction, TrainedGenerator
from cyclegan.networks import UNet3d

FORMAT = "cyclegan-portable-1"
AXES = ("B", "C", "Z", "Y", "X")


def describe(
    trained: TrainedGenerator, direction: Direction, origin: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """All that somebody needs to apply `trained` to a volume; lengths in input voxels.

    ```
    format                    cyclegan-portable-1
    direction                 A (from A to B) or B
    input, output             name, dtype, axes, shape (-1: any), domain, and grey_scale: mean and
                              std that training took off this domain, None if it took off nothing
    scale                     output voxels per input voxel; a voxel's size is divided by it
    alignment                 Z, Y and X of the input are multiples of it
    halo_left, halo_right     what a tile needs around what is kept of it
    standardise               auto, always or never, as in the configuration
    step, score               of the training
    config                    YAML
    origin                    whatever the caller knows: study, trial, run, version
    weights_sha256, versions
    ```
    """
    geometry, config = trained.network.geometry, trained.config
    source, target = ("A", "B") if direction == "A" else ("B", "A")
    inputs, outputs = channels(trained.network)
    return {
        "format": FORMAT,
        "direction": direction,
        "input": _image("x", inputs, source, trained),
        "output": _image("y", outputs, target, trained),
        "scale": float(geometry.factor),
        "alignment": geometry.alignment,
        "halo_left": geometry.halo_left,
        "halo_right": geometry.halo_right,
        "standardise": config.standardise,
        "step": trained.step,
        "score": trained.score,
        "config": config.to_yaml(),
        "origin": {name: str(value) for name, value in (origin or {}).items()},
        "weights_sha256": weights_hash(trained.network),
        "versions": {"torch": str(torch.__version__), "cyclegan3d": _own_version()},
    }


def channels(network: UNet3d) -> tuple[int, int]:
    """Of the input and of the output."""
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    return convolutions[0].in_channels, convolutions[-1].out_channels


def _image(name: str, count: int, domain: str, trained: TrainedGenerator) -> dict[str, Any]:
    scale = trained.grey_scales.get(domain)
    return {
        "name": name,
        "dtype": "float32",
        "axes": list(AXES),
        "shape": [-1, count, -1, -1, -1],
        "domain": domain,
        "grey_scale": None if scale is None else {k: float(scale[k]) for k in ("mean", "std")},
    }


def _own_version() -> str:
    try:
        return version("cyclegan3d")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
