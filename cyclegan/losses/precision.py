"""Compute losses in at least single precision, whatever the networks run in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")
PairLoss = Callable[Concatenate[Tensor, Tensor, P], Tensor]


def at_least_single(function: PairLoss[P]) -> PairLoss[P]:
    """Return `function` of two tensors so that it runs in at least float32, without autocast.

    Sums over a patch and differences of second moments lose too much in half precision, and there
    are no bf16 Fourier transforms. Double precision stays as it is.
    """

    @functools.wraps(function)
    def wrapper(first: Tensor, second: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return function(widened(first), widened(second), *args, **kwargs)

    return wrapper


def widened(values: Tensor) -> Tensor:
    """Return `values` in float32 if they are in half precision, else unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
