"""Patches cover every voxel, in every orientation, equally often, and go on where they stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from cyclegan.data import MemoryBudget, PatchSampler, Size, Volume, open_volumes
from cyclegan.data.sampler import orientations
from cyclegan.errors import DataError

Noise = Callable[..., np.ndarray]


def plain(entry: Any, **options: Any) -> Volume:
    return Volume(entry, standardise="never", budget=MemoryBudget(1e9), **options)


def counting(*shape: int, start: int = 0) -> np.ndarray:
    return start + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def equally_likely(values: Iterable[Hashable], kinds: int) -> bool:
    counts = Counter(values)
    assert len(counts) == kinds
    return bool(chisquare(list(counts.values())).pvalue > 0.001)


def test_patch_larger_than_the_volume(write: Any, noise: Noise) -> None:
    volume = Volume(write(noise(8, 8, 8)))
    with pytest.raises(DataError, match=r"\[16, 8, 8\] voxels does not fit into its \[8, 8, 8\]"):
        PatchSampler([volume], (16, 8, 8), seed=(0,))


def test_region_of_exactly_one_patch_works(write: Any, noise: Noise) -> None:
    array = noise(10, 9, 8)
    volume = Volume(write(array, roi=((2, 10), (1, 9), None)), standardise="never")
    sampler = PatchSampler([volume], (8, 8, 8), seed=(0,), flips=False)
    np.testing.assert_array_equal(sampler.draw(1)[0, 0].numpy(), array[2:, 1:])


def test_every_origin_of_every_file_is_equally_likely(write: Any) -> None:
    small = write(counting(4, 3, 2), name="0.h5")
    large = write(counting(6, 3, 4, start=100), name="1.h5")
    sampler = PatchSampler([plain(small), plain(large)], (2, 2, 2), seed=(3,))
    # 3 x 2 x 1 origins in the small file, 5 x 2 x 3 in the large one, the last ones included.
    assert equally_likely((float(patch.min()) for patch in sampler.draw(7200)), 36)


def test_every_voxel_of_a_region_is_seen_and_none_beyond_it(write: Any) -> None:
    array = counting(7, 6, 5)
    entry = write(array, roi=((1, 6), (0, 5), (2, 5)))
    sampler = PatchSampler([plain(entry)], (2, 3, 2), seed=(0,))
    assert set(sampler.draw(2000).unique().tolist()) == set(array[1:6, 0:5, 2:5].ravel().tolist())


@pytest.mark.parametrize("channels", [1, 3])
def test_flips_are_equally_likely_and_nothing_else_happens(write: Any, channels: int) -> None:
    array = counting(channels, 2, 3, 2)
    sampler = PatchSampler([plain(write(array), channels=channels)], (2, 3, 2), seed=(0,))
    patches = sampler.draw(1600)
    assert patches.shape == (1600, channels, 2, 3, 2)
    flips = [
        tuple(np.flip(array, [a for a in (1, 2, 3) if bits >> a & 1]).ravel().tolist())
        for bits in range(0, 16, 2)
    ]
    seen = [tuple(patch.flatten().tolist()) for patch in patches]
    assert set(seen) == set(flips)
    assert equally_likely(seen, 8)


def generated(size: Size, *, flips: bool) -> set[tuple[float, ...]]:
    """Return all orientations of a patch: turn it with `numpy.rot90` until none is new."""
    first = counting(*size)
    found, waiting = {tuple(first.ravel())}, [first]
    planes = [(a, b) for a, b in ((0, 1), (0, 2), (1, 2)) if size[a] == size[b]]
    while waiting:
        patch = waiting.pop()
        turned = [np.rot90(patch, 1, plane) for plane in planes]
        for other in turned + [np.flip(patch, axis) for axis in range(3) if flips]:
            if tuple(other.ravel()) not in found:
                found.add(tuple(other.ravel()))
                waiting.append(other)
    return found


@pytest.mark.parametrize(
    ("size", "flips", "kinds"),
    [
        ((2, 2, 2), True, 48),
        ((2, 2, 2), False, 24),
        ((1, 2, 2), True, 8),
        ((2, 3, 3), True, 16),
        ((2, 3, 3), False, 4),
        ((3, 3, 2), False, 4),
        ((2, 3, 4), True, 8),
        ((2, 3, 4), False, 1),
    ],
)
def test_rotations_are_the_whole_group_and_equally_likely(
    write: Any, size: Size, flips: bool, kinds: int
) -> None:
    volume = plain(write(counting(*size)))
    sampler = PatchSampler([volume], size, seed=(1,), flips=flips, rotations=True)
    seen = [tuple(patch.flatten().tolist()) for patch in sampler.draw(60 * kinds)]
    expected = generated(size, flips=flips)
    assert set(seen) == expected
    assert len(expected) == kinds
    assert kinds == 1 or equally_likely(seen, kinds)


def test_a_patch_with_equal_sides_across_z_only_turns_about_z() -> None:
    assert all(order[0] == 0 for order, _ in orientations((4, 8, 8), flips=True))
    assert all(0 not in flipped for _, flipped in orientations((4, 8, 8), flips=False))


def test_volumes_must_agree_in_their_channels(write: Any, noise: Noise) -> None:
    one = plain(write(noise(4, 4, 4), name="1.h5"))
    two = plain(write(noise(2, 4, 4, 4), name="2.h5"), channels=2)
    for volumes in ([one, two], []):
        with pytest.raises(ValueError, match="the same number of channels"):
            PatchSampler(volumes, (2, 2, 2), seed=(0,))


def test_patches_are_contiguous_copies(write: Any, noise: Noise) -> None:
    volume = Volume(write(noise(6, 6, 6)), budget=MemoryBudget(1e9))
    before = volume.read((0, 0, 0), (6, 6, 6))
    sampler = PatchSampler([volume], (6, 6, 6), seed=(0,), rotations=True)
    for _ in range(20):
        patch = sampler.draw(1)
        assert patch.is_contiguous()
        assert patch.dtype == torch.float32
        patch.fill_(99)
    volume.read((0, 0, 0), (6, 6, 6)).fill(99)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (6, 6, 6)), before)


def test_sampler_goes_on_where_its_state_was_taken(write: Any, noise: Noise) -> None:
    entry = write(noise(9, 9, 9))
    one = PatchSampler([Volume(entry)], (4, 4, 4), seed=(5,), rotations=True)
    one.draw(3)
    state = json.loads(json.dumps(one.state_dict()))
    expected = one.draw(4)
    other = PatchSampler([Volume(entry)], (4, 4, 4), seed=(99,), rotations=True)
    other.load_state_dict(state)
    assert other.draw(4).equal(expected)


def test_memory_budget_decides_where_patches_come_from_not_what_they_are(write: Any) -> None:
    array = np.random.default_rng(0).normal(30, 5, (9, 9, 9))
    array[3, 3, 3] = np.nan
    held, lazy = (
        PatchSampler(open_volumes([entry], budget=budget), (4, 4, 4), seed=(5,))
        for entry, budget in (
            (write(array, name="a.h5", chunks=(4, 3, 5), compression="gzip"), MemoryBudget(1e9)),
            (write(array, name="b.h5", chunks=(4, 3, 5), compression="gzip"), MemoryBudget(10)),
        )
    )
    assert held.volumes[0].in_memory
    assert not lazy.volumes[0].in_memory
    assert held.draw(30).equal(lazy.draw(30))
