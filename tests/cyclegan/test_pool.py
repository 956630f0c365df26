"""The image pool: the images that discriminators see."""

from __future__ import annotations

import torch

from cyclegan.pool import ImagePool


def batch(value: float, size: int = 2) -> torch.Tensor:
    return torch.full((size, 1, 2, 2, 2), value)


def shown(pool: ImagePool, steps: int, seed: int = 0) -> list[list[float]]:
    random = torch.Generator().manual_seed(seed)
    batches = [pool.exchange(batch(float(step)), random) for step in range(steps)]
    return [[float(image.mean()) for image in b] for b in batches]


def test_a_pool_of_size_0_changes_nothing_and_draws_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    image = batch(3.0)
    assert ImagePool(0).exchange(image, random) is image
    assert torch.equal(random.get_state(), before)


def test_while_it_fills_the_batch_itself_is_shown() -> None:
    assert shown(ImagePool(8), 4) == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]


def test_half_of_the_images_shown_later_are_older_ones_each_shown_once_only() -> None:
    steps = list(enumerate(shown(ImagePool(10), 500)))[5:]
    values = [value for _, pair in steps for value in pair]
    old = sum(value < step for step, pair in steps for value in pair)
    assert 0.42 < old / len(values) < 0.58
    assert max(values.count(v) for v in set(values)) <= 2  # a step makes two images of its value


def test_it_keeps_copies_and_never_more_than_its_size() -> None:
    pool, random = ImagePool(3), torch.Generator().manual_seed(0)
    image = batch(1.0)
    pool.exchange(image, random)
    image.fill_(9.0)
    assert all(float(kept.mean()) == 1.0 for kept in pool.images)
    for _ in range(5):
        pool.exchange(image, random)
    assert len(pool.images) == 3


def test_restored_it_shows_the_same_again() -> None:
    pool, random = ImagePool(4), torch.Generator().manual_seed(1)
    for step in range(6):
        pool.exchange(batch(float(step)), random)
    kept = {"images": [image.clone() for image in pool.state_dict()["images"]]}
    state = random.get_state()
    first = [pool.exchange(batch(float(s)), random) for s in range(6, 12)]
    again, other = ImagePool(4), torch.Generator()
    again.load_state_dict(kept, torch.device("cpu"))
    other.set_state(state)
    second = [again.exchange(batch(float(s)), other) for s in range(6, 12)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
