"""Pinned memory: what is taken is a power of two a block, and little of it is unused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from cyclegan import parse_config
from cyclegan.model import CycleGAN
from cyclegan.pinned import bytes_taken, empty_like, layout, power_of_two
from cyclegan.snapshot import tensors_of

MB = 1 << 20


@pytest.mark.parametrize(
    "sizes",
    [
        [33 * MB],
        [9 * MB] * 7,
        [33 * MB, 17 * MB, 9 * MB, *[5 * MB] * 6, *[300] * 40, *[MB + 1] * 12],
        [1],
        [],
        [0, 0, 12],
    ],
)
def test_tensors_do_not_overlap_and_lie_within_their_blocks(sizes: list[int]) -> None:
    found = layout(sizes)
    assert all(block == power_of_two(block) for block in found.blocks)
    for number in range(len(found.blocks)):
        spans = sorted(
            (offset, offset + size)
            for size, (block, offset) in zip(sizes, found.places, strict=True)
            if block == number and size
        )
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
        assert not spans or spans[-1][1] <= found.blocks[number]
        assert all(begin % 64 == 0 for begin, _ in spans)


def test_a_snapshot_of_real_networks_wastes_little(tiny: dict[str, Any]) -> None:
    """Block by block it would be a third more or even double."""
    for changes in ({"filters": 16}, {"filters": 24, "filters_D": 48}, {"filters": 12}):
        config = parse_config(tiny | changes | {"imsize_A": [24, 24, 24], "layers_D": 2})
        weights = list(CycleGAN(config, torch.device("cpu")).parameters())
        sizes = [tensor.nbytes for tensor in weights for _ in range(3)]  # Adam has two moments
        found = layout(sizes)
        assert found.nbytes < sum(map(power_of_two, sizes))
        assert found.nbytes < 1.15 * sum(sizes) + MB


def test_views_hold_what_is_copied_into_them_and_count_once() -> None:
    random = torch.Generator().manual_seed(0)
    originals = [
        torch.randn(3, 5, 7, generator=random),
        torch.randn(1000, generator=random).to(torch.bfloat16),
        torch.arange(9).reshape(3, 3),
        torch.tensor(2.0),
        torch.empty(0),
        torch.randn(4, 3, 2, 2, 2, generator=random).to(memory_format=torch.channels_last_3d),
    ]
    places = empty_like(originals, lambda size: torch.empty(size, dtype=torch.uint8))
    for place, original in zip(places, originals, strict=True):
        place.copy_(original)
    for place, original in zip(places, originals, strict=True):
        assert place.dtype == original.dtype and torch.equal(place, original)
        assert place.stride() == original.stride()
    assert bytes_taken(places) == layout([t.nbytes for t in originals]).nbytes
    assert bytes_taken(tensors_of({"a": originals})) == sum(t.nbytes for t in originals)
