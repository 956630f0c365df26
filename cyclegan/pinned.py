"""Pinned host memory without waste: many tensors in few blocks.

PyTorch takes a power of two for each block of pinned memory (`CachingHostAllocator`), so that a
tensor of 33 MB would take 64. Here tensors lie one after the other in blocks whose sizes are powers
of two themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Bytes between possible places; any dtype may begin there."""
_SMALLEST = 1 << 20
_WIDER = 5
"""Number of doublings of the smallest possible block that are tried."""


@dataclass(frozen=True)
class Layout:
    """Places of tensors in blocks."""

    blocks: tuple[int, ...]
    """Sizes in bytes, each a power of two."""
    places: tuple[tuple[int, int], ...]
    """Block and offset in bytes of each tensor, in the order in which they were given."""

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(self.blocks)


def layout(sizes: Sequence[int]) -> Layout:
    """Return a layout for tensors of these sizes in bytes that takes little memory."""
    whole = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    least = power_of_two(max([_SMALLEST, *whole]))
    tried = (_packed(whole, least << wider) for wider in range(_WIDER + 1))
    return min(tried, key=lambda found: found.nbytes)


def _packed(sizes: Sequence[int], most: int) -> Layout:
    """Put the largest first, each into the first block of at most `most` bytes with room for it."""
    used: list[int] = []
    places = [(0, 0)] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        size = sizes[number]
        block = next((at for at, full in enumerate(used) if full + size <= most), len(used))
        if block == len(used):
            used.append(0)
        places[number] = (block, used[block])
        used[block] += size
    return Layout(tuple(power_of_two(max(full, 1)) for full in used), tuple(places))


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is not less than `size`."""
    return 1 << (size - 1).bit_length()


def _pinned_block(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def empty_like(
    tensors: Iterable[Tensor], allocate: Callable[[int], Tensor] = _pinned_block
) -> list[Tensor]:
    """Return uninitialised tensors of the same shapes, strides and dtypes in pinned memory.

    A fused optimizer needs moments with the strides of their weights, which bf16 networks have in
    another order. Tensors must be dense, as copies are.

    Args:
        allocate: returns a block of so many bytes, as uint8.
    """
    wanted = list(tensors)
    found = layout([tensor.nbytes for tensor in wanted])
    blocks = [allocate(size) for size in found.blocks]
    return [
        blocks[block][offset : offset + like.nbytes]
        .view(like.dtype)
        .as_strided(like.shape, like.stride())
        for like, (block, offset) in zip(wanted, found.places, strict=True)
    ]


def bytes_taken(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory in which tensors lie; what they share counts once."""
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())
