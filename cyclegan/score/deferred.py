"""Numbers whose computation is under way on the device, and the one transfer that brings them.

Each question to a GPU, `float(tensor)` or `tensor.cpu()`, waits until it has computed everything
that was asked of it, and leaves it idle meanwhile. So the parts of the score only start their
computations and say which tensors they need; all of them arrive together, and the rest is
arithmetic on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Deferred(Generic[T]):
    """A result that `finish` computes from `tensors` once they are on the host."""

    tensors: Sequence[Tensor]
    finish: Callable[..., T]
    """Function of as many tensors on the host."""

    def result(self) -> T:
        """Return the result; waits for the device."""
        return self.finish(*to_host(self.tensors))


def combined(parts: Sequence[Deferred[Any]], finish: Callable[..., T]) -> Deferred[T]:
    """Return the result that `finish` makes of the parts, which arrive in one transfer.

    It gets a function for each part that gives its result. It need not call all of them: a failed
    gate leaves others undefined.
    """

    def finish_all(*tensors: Tensor) -> T:
        arrived = iter(tensors)
        return finish(*[partial(one.finish, *islice(arrived, len(one.tensors))) for one in parts])

    return Deferred([tensor for one in parts for tensor in one.tensors], finish_all)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors on the host, in one transfer; those that are there already stay."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    return unpacked(packed(tensors).cpu(), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Return the bytes of all tensors in one, the widest types first, which keeps them aligned."""
    order = sorted(tensors, key=lambda tensor: -tensor.element_size())
    return torch.cat([t.contiguous().reshape(-1).view(torch.uint8) for t in order])


def unpacked(together: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that `packed` put together, of the shapes and types of `like`."""
    found: dict[int, Tensor] = {}
    start = 0
    for place in sorted(range(len(like)), key=lambda place: -like[place].element_size()):
        end = start + like[place].nbytes
        found[place] = together[start:end].view(like[place].dtype).view(like[place].shape)
        start = end
    return [found[place] for place in range(len(like))]
