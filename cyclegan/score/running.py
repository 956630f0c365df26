"""Running a generator for judgement: in evaluation mode, in small batches, leaving no trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Generator = Callable[[Tensor], Tensor]
"""Maps (n, C, Z, Y, X) to (n, C', sZ, sY, sX)."""

BATCH = 4
"""Patches a generator gets at once."""


def run(generator: Generator, inputs: Tensor) -> Tensor:
    """`generator`'s outputs for all `inputs`, (N, C', sZ, sY, sX), as float32."""
    with _evaluating(generator), _own_random_state(inputs.device), torch.no_grad():
        outputs = [generator(batch).detach().float() for batch in torch.split(inputs, BATCH)]
    return torch.cat(outputs)


@contextlib.contextmanager
def _evaluating(generator: Generator) -> Iterator[None]:
    """Every layer in eval mode, and afterwards in the mode it was in, which may be mixed."""
    layers = list(generator.modules()) if isinstance(generator, nn.Module) else []
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """A generator that draws random numbers leaves the global state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
