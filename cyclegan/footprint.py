"""Disk space and memory of a training in bytes, computed before it begins."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from cyclegan.config import Config, override, parse_config
from cyclegan.enhance.memory import available_bytes
from cyclegan.errors import ConfigError
from cyclegan.model import new_generator
from cyclegan.networks import PatchDiscriminator

_BYTES = 4  # weights, their means and Adam's moments are single precision
_TENSOR_BYTES = 600  # name, header and alignment of a tensor in the file
_ROW_BYTES = 300  # the history of one step: its losses and counters


def check_memory(config: Config, device: torch.device) -> None:
    """Refuse a training that can't fit into the memory that is free, before anything is built.

    Errors: `ConfigError` with the estimate and the keys to lower.
    """
    free, where = available_bytes(device), "GPU" if device.type == "cuda" else "machine"
    voxels = config.channels_A * math.prod(config.imsize_A)
    voxels += config.channels_B * math.prod(config.imsize_B)
    for needed, keys in (
        (state_bytes(config), ("filters", "filters_D")),
        (_BYTES * voxels * config.batch_size, ("batch_size", "imsize_A")),
        (_BYTES * voxels * config.validation_patches, ("validation_patches", "imsize_A")),
    ):
        if needed > free:
            values = ", ".join(f"{key} = {_plain(getattr(config, key))}" for key in keys)
            raise ConfigError(
                f"{values}: at least {needed / 1e9:,.1f} GB of memory are needed and "
                f"{free / 1e9:,.1f} GB of this {where} are free; lower one of them"
            )


def what_fits(config: Config, needed: int | None, available: int | None) -> str:
    """Return what to make smaller so that a training fits into a GPU's memory, as a clause.

    What a step needs beyond networks and optimizers grows with the voxels of its batch.

    Args:
        needed: bytes that the training needed at least when it ran out of memory, None if unknown.
        available: bytes that it could have had.
    """
    now = f"batch_size = {config.batch_size}, imsize_A = {list(config.imsize_A)}"
    if needed is None or available is None:
        return f"lower batch_size, imsize_A or filters (now {now}, filters = {config.filters})"
    fixed = state_bytes(config)
    networks = f"lower filters or filters_D (now {config.filters} and {config.filters_D})"
    if fixed >= available:
        return f"its networks and optimizers alone take {fixed / 1e9:.2g} GB: {networks}"
    share = min((available - fixed) / max(needed - fixed, 1), 1.0)
    batch = min(int(config.batch_size * share), config.batch_size - 1)
    if batch:
        return f"batch_size = {batch} may fit (now {now})"
    smaller = _smaller_patch(config, share * math.prod(config.imsize_A))
    return networks if smaller is None else f"imsize_A = {smaller} may fit (now {now})"


def _smaller_patch(config: Config, voxels: float) -> list[int] | None:
    """Return the largest patch with about the same shape and fewer voxels; None without any."""
    step = math.lcm(config.geometry("A").alignment, config.geometry("B").alignment)
    longest = max(config.imsize_A)
    for side in range(longest - 1, 0, -1):
        size = [max(n * side // longest // step * step, step) for n in config.imsize_A]
        if math.prod(size) > voxels or size == list(config.imsize_A):
            continue
        try:
            parse_config(override(config.to_dict(), {"imsize_A": size}))
        except ConfigError:  # too small for the networks
            return None
        return size
    return None


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def checkpoint_bytes(config: Config) -> int:
    """Return the approximate size of a complete checkpoint of `config` at its last step.

    It holds the weights of two generators and two discriminators, the generators' running means,
    two moments of Adam for every weight, full image pools, and the rollback optimizer's snapshots.
    """
    return round(state_bytes(config) * (1 + snapshots(config))) + _ROW_BYTES * config.steps


def state_bytes(config: Config) -> int:
    """Return the size of a snapshot in full precision: networks, optimizers, full image pools."""
    generators, discriminators = _networks(config)
    trained = [*generators, *discriminators]
    values = _size(trained) + _size(generators) + 2 * _size(trained, moments=True)
    tensors = _count(trained) + _count(generators) + 3 * _count(trained)
    return _BYTES * (values + _pooled(config)) + _TENSOR_BYTES * tensors


def snapshots(config: Config) -> float:
    """Return what the rollback optimizer adds to a checkpoint, in snapshots of full precision.

    It adds its ring, the start and the best. Compact snapshots count half. The result is an upper
    bound: snapshots that `memory_gb` drops are not subtracted.
    """
    ring = config.hp_optimizer
    if not ring.enabled or ring.policy == "replay":
        return 0.0
    return (ring.keep + 2) * (1.0 if ring.precision == "full" else 0.5)


def generator_bytes(config: Config) -> int:
    """Return the approximate size of a file with the two mean generators of `config`."""
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
    """Return the number of values in the networks' states, or only of those with Adam moments."""
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
