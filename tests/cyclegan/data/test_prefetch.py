"""Batches drawn in the background are those of the sampler, in order; a resume loses none."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclegan.data import PatchSampler, Prefetcher, Volume
from cyclegan.errors import DataError

Make = Callable[..., PatchSampler]


@pytest.fixture
def make(write: Any, noise: Callable[..., np.ndarray]) -> Make:
    volume = Volume(write(noise(12, 12, 12)))
    return lambda seed=1: PatchSampler([volume], (4, 4, 4), seed=(seed,))


@pytest.fixture
def expected(make: Make) -> list[Tensor]:
    sampler = make()
    return [sampler.draw(2) for _ in range(20)]


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 2])
def test_batches_are_the_samplers_in_their_order(
    make: Make, expected: list[Tensor], depth: int
) -> None:
    prefetcher = Prefetcher(make(), 2, depth=depth)
    assert all(prefetcher.next().equal(batch) for batch in expected)
    prefetcher.close()


@pytest.mark.parametrize("used", [0, 1, 2, 5])
@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_a_resume_repeats_and_skips_nothing(
    make: Make, expected: list[Tensor], used: int, wait: float
) -> None:
    one = Prefetcher(make(), 2)
    for _ in range(used):
        one.next()
    time.sleep(wait)  # lets the thread draw ahead
    state = one.state_dict()
    other = Prefetcher(make(seed=99), 2)
    other.next()
    other.load_state_dict(state)
    for prefetcher in (one, other):
        assert all(prefetcher.next().equal(b) for b in expected[used : used + 4])
        prefetcher.close()
    assert threads() == 0


def test_the_state_moves_only_with_batches_handed_out(make: Make) -> None:
    sampler = make()
    prefetcher = Prefetcher(sampler, 2)
    prefetcher.next()
    state = prefetcher.state_dict()
    time.sleep(0.05)
    assert prefetcher.state_dict() == state
    assert sampler.state_dict() != state  # it has drawn ahead
    prefetcher.close()
    assert sampler.state_dict() == state


def test_a_closed_prefetcher_leaves_the_sampler_where_it_was_used_to(
    make: Make, expected: list[Tensor]
) -> None:
    sampler = make()
    prefetcher = Prefetcher(sampler, 2)
    for batch in expected[:3]:
        assert prefetcher.next().equal(batch)
    prefetcher.close()
    prefetcher.close()
    assert sampler.draw(2).equal(expected[3])


def test_close_ends_the_thread_also_when_never_used_or_forgotten(make: Make) -> None:
    Prefetcher(make(), 2).close()
    prefetcher = Prefetcher(make(), 2)
    prefetcher.next()
    assert threads() == 1
    prefetcher.close()
    assert threads() == 0
    forgotten = Prefetcher(make(), 2)
    forgotten.next()
    del forgotten
    gc.collect()
    assert threads() == 0


def test_an_error_of_the_thread_is_raised_where_the_batch_is_asked_for(
    make: Make, expected: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make()
    draw, drawn = sampler.draw, 0

    def failing(batch_size: int, *part: int) -> Tensor:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            raise DataError("the file is damaged")
        return draw(batch_size)

    monkeypatch.setattr(sampler, "draw", failing)
    prefetcher = Prefetcher(sampler, 2)
    assert prefetcher.next().equal(expected[0])
    assert prefetcher.next().equal(expected[1])
    with pytest.raises(DataError, match="the file is damaged"):
        prefetcher.next()
    assert threads() == 0
    assert prefetcher.next().equal(expected[2])  # the third, as soon as it can be read
    prefetcher.close()


def test_batches_are_drawn_while_the_caller_computes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make()
    draw, ready = sampler.draw, threading.Semaphore(0)

    def signalling(batch_size: int, *part: int) -> Tensor:
        batch = draw(batch_size)
        ready.release()
        return batch

    monkeypatch.setattr(sampler, "draw", signalling)
    prefetcher = Prefetcher(sampler, 2, depth=2)
    prefetcher.next()
    # Two more are drawn although nobody asks, but not a third.
    assert all(ready.acquire(timeout=5) for _ in range(3))
    assert not ready.acquire(timeout=0.1)
    prefetcher.close()


def test_pinning_is_left_out_without_cuda(make: Make) -> None:
    prefetcher = Prefetcher(make(), 2, pin=True)
    assert prefetcher.next().is_pinned() == torch.cuda.is_available()
    prefetcher.close()
