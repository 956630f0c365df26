"""How many bytes a training takes on disk, computed before it has begun."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from cyclegan.config import Config
from cyclegan.model import new_generator
from cyclegan.networks import PatchDiscriminator

_BYTES = 4  # weights, their means and Adam's moments are single precision
_TENSOR_BYTES = 600  # name, header and alignment of a tensor in the file
_ROW_BYTES = 300  # a step's losses in the history, and its numbers


def checkpoint_bytes(config: Config) -> int:
    """The size of a complete checkpoint of `config` at its last step, about.

    The weights of two generators and two discriminators, the generators' running means, two moments
    of Adam for every weight, full image pools, and the snapshots that a rollback optimizer keeps.
    """
    generators, discriminators = _networks(config)
    trained = [*generators, *discriminators]
    values = _size(trained) + _size(generators) + 2 * _size(trained, moments=True)
    tensors = _count(trained) + _count(generators) + 3 * _count(trained)
    state = _BYTES * (values + _pooled(config)) + _TENSOR_BYTES * tensors
    snapshots = config.hp_optimizer.keep + 2 if config.hp_optimizer.enabled else 0
    return state * (1 + snapshots) + _ROW_BYTES * config.steps


def generator_bytes(config: Config) -> int:
    """The size of a file with the two mean generators of `config`, about."""
    generators, _ = _networks(config)
    return _BYTES * _size(generators) + _TENSOR_BYTES * _count(generators)


def _networks(config: Config) -> tuple[list[nn.Module], list[nn.Module]]:
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        generators: list[nn.Module] = [new_generator(config, "A"), new_generator(config, "B")]
        discriminators: list[nn.Module] = [
            PatchDiscriminator(
                filters=config.filters_D,
                layers=config.layers_D,
                norm=config.norm_D,
                channels=channels,
                spectral_norm=config.spectral_norm_D,
            )
            for channels in (config.channels_B, config.channels_A)
        ]
    return generators, discriminators


def _size(networks: Iterable[nn.Module], *, moments: bool = False) -> int:
    """Values in the networks' states, or only those that an optimizer has moments of."""
    return sum(
        tensor.numel()
        for network in networks
        for tensor in (network.parameters() if moments else network.state_dict().values())
    )


def _count(networks: Iterable[nn.Module]) -> int:
    return sum(len(network.state_dict()) for network in networks)


def _pooled(config: Config) -> int:
    voxels_A = config.channels_A * math.prod(config.imsize_A)
    voxels_B = config.channels_B * math.prod(config.imsize_B)
    return config.pool_size * (voxels_A + voxels_B)
