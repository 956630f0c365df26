"""Draw patches from volumes, at every origin and in every orientation, and prefetch batches."""

from __future__ import annotations

import itertools
import json
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.data.blocks import Size
from cyclegan.data.volume import Volume
from cyclegan.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    _Item = tuple[Tensor, dict[str, Any]] | Exception


Orientation = tuple[tuple[int, int, int], tuple[int, ...]]
"""Axes (Z, Y, X) in their new order, and those of the new axes that are flipped."""


def orientations(size: Size, *, flips: bool) -> list[Orientation]:
    """Return the orientations that keep a patch's shape, the identity first.

    A cube has all 48 (with flips) or 24 (rotations only). A patch with two equal sides turns in
    their plane (if Y = X, about Z) and has 16 or 4. A patch without equal sides has the 8 flips
    or 1.
    """
    found = []
    for order in itertools.permutations(range(3)):
        if any(size[axis] != n for axis, n in zip(order, size, strict=True)):
            continue
        for signs in itertools.product((1, -1), repeat=3):
            if flips or _is_rotation(order, signs, size):
                z, y, x = order
                found.append(((z, y, x), tuple(a for a, s in enumerate(signs) if s < 0)))
    return found


def _is_rotation(order: tuple[int, ...], signs: tuple[int, ...], size: Size) -> bool:
    """Return True if it consists of 90-degree turns in planes with equal sides."""
    matrix = np.zeros((3, 3))
    matrix[range(3), order] = signs
    alone = [axis for axis in range(3) if size.count(size[axis]) == 1]
    return bool(np.linalg.det(matrix) > 0) and all(signs[axis] > 0 for axis in alone)


class PatchSampler:
    """Draws patches (B, C, Z, Y, X); every origin of every volume is equally likely.

    Args:
        volumes: source of the patches; the chance of each is proportional to its number of origins.
        size: size of a patch, (Z, Y, X) in voxels.
        seed: seed of the random generator.
        flips: flip along each axis, with probability 1/2.
        rotations: turn by 90 degrees in every plane whose two sides are equal, each orientation
            equally likely. This suits isotropic data. If a scan's resolution or artefacts differ
            between Z and X, Y, only a patch with Y = X != Z keeps its Z axis.

    The random generator's state is the sampler's state: once restored, the sampler goes on with
    the next patch and neither repeats nor skips any. Errors: `DataError` if a patch does not fit
    into a volume.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        size: Size,
        *,
        seed: Sequence[int],
        flips: bool = True,
        rotations: bool = False,
    ) -> None:
        self.volumes = list(volumes)
        self.size = size
        self.flips = flips
        self.rotations = rotations
        if len({volume.channels for volume in self.volumes}) != 1:
            raise ValueError("give at least one volume, all with the same number of channels")
        for volume in self.volumes:
            if any(n > have for n, have in zip(size, volume.shape, strict=True)):
                raise DataError(
                    f"{volume.name}: a patch of {list(size)} voxels does not fit into its "
                    f"{list(volume.shape)}; make imsize_A smaller or the region larger"
                )
            volume.expect_patches(size)
        self._origins = [
            np.array(v.shape, dtype=np.int64) - np.array(size, dtype=np.int64) + 1
            for v in self.volumes
        ]
        counts = np.array([origins.prod() for origins in self._origins], dtype=np.float64)
        self._shares = counts / counts.sum()
        self._orientations = orientations(size, flips=flips)
        self._random = np.random.default_rng(list(seed))

    def draw(self, batch_size: int, rank: int = 0, ranks: int = 1) -> Tensor:
        """Return a batch (B, C, Z, Y, X), float32, on the CPU, in memory of its own.

        With several `ranks` it is this one's part of the batch: number `rank` and every `ranks`th
        patch from there. All are chosen and only these are read, so the patches of a step do not
        depend on the number of ranks, and all ranks have the same state.
        """
        import torch  # imported here, so that preparing files works without it

        chosen = [self._choose() for _ in range(batch_size)][rank::ranks]
        channels = self.volumes[0].channels
        batch = np.empty((len(chosen), channels, *self.size), dtype=np.float32)
        for place, choice in zip(batch, chosen, strict=True):
            place[...] = self._read(*choice)
        return torch.from_numpy(batch)

    def _choose(self) -> tuple[int, Size, Orientation]:
        index = int(self._random.choice(len(self.volumes), p=self._shares))
        z, y, x = (int(n) for n in self._random.integers(0, self._origins[index]))
        return index, (z, y, x), self._orientation()

    def _read(self, index: int, origin: Size, orientation: Orientation) -> NDArray[np.float32]:
        order, flipped = orientation
        patch = self.volumes[index].read(origin, self.size)
        patch = patch.transpose(0, *(axis + 1 for axis in order))
        return np.flip(patch, tuple(axis + 1 for axis in flipped))

    def _orientation(self) -> Orientation:
        if self.rotations:
            return self._orientations[int(self._random.integers(0, len(self._orientations)))]
        if self.flips:
            bits = self._random.integers(0, 2, size=3)
            return (0, 1, 2), tuple(int(axis) for axis in np.flatnonzero(bits))
        return (0, 1, 2), ()

    def state_dict(self) -> dict[str, Any]:
        """Return the random generator's state as JSON: its integers are wider than a tensor's."""
        return {"generator": json.dumps(self._random.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._random.bit_generator.state = json.loads(state["generator"])


# -- Batches drawn in the background while the caller computes ---------------------------------


class Prefetcher:
    """Hands out a sampler's batches in order; one thread draws up to `depth` of them ahead.

    Its state is the sampler's state after the last batch handed out: batches that were drawn ahead
    but not used are drawn again after a resume. While it is open, nobody else may draw from the
    sampler. More threads would not help, because HDF5 is locked as a whole.

    Args:
        sampler: source of the batches.
        batch_size: patches per batch.
        depth: most batches that may wait.
        pin: copy batches to page-locked memory, if there is a CUDA device.
        rank, ranks: see `PatchSampler.draw`.
    """

    def __init__(
        self,
        sampler: PatchSampler,
        batch_size: int,
        *,
        depth: int = 2,
        pin: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        import torch

        self._sampler = sampler
        self._draw = partial(sampler.draw, batch_size, rank, ranks)
        self._depth = depth
        self._pin = pin and torch.cuda.is_available()
        self._state = sampler.state_dict()
        self._worker: _Worker | None = None

    def next(self) -> Tensor:
        """Return the next batch (B, C, Z, Y, X), or raise the error that occurred in drawing it."""
        if self._worker is None:
            self._worker = _Worker(self._sampler, self._draw, self._depth, self._pin)
            self._finish = weakref.finalize(self, self._worker.stop)
        item = self._worker.take()
        if isinstance(item, Exception):
            self.close()
            raise item
        batch, self._state = item
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state after the last batch that was handed out."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken, and drop the batches drawn ahead."""
        self._stop()
        self._sampler.load_state_dict(state)
        self._state = dict(state)

    def close(self) -> None:
        """End the thread, and set the sampler back to the last batch handed out."""
        self._stop()
        self._sampler.load_state_dict(self._state)

    def _stop(self) -> None:
        if self._worker is not None:
            self._finish()
            self._worker = None


class _Worker:
    """The thread. It doesn't refer to the prefetcher, so that a forgotten one can be collected."""

    def __init__(
        self, sampler: PatchSampler, draw: Callable[[], Tensor], depth: int, pin: bool
    ) -> None:
        self._ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._places = threading.Semaphore(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(sampler, draw, pin), name="prefetch", daemon=True
        )
        self._thread.start()

    def take(self) -> _Item:
        item = self._ready.get()
        self._places.release()
        return item

    def stop(self) -> None:
        self._stopping.set()
        self._places.release()
        # The garbage collector may run in any thread, this one included.
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, sampler: PatchSampler, draw: Callable[[], Tensor], pin: bool) -> None:
        while True:
            self._places.acquire()
            if self._stopping.is_set():
                return
            try:
                batch = draw()
                self._ready.put((batch.pin_memory() if pin else batch, sampler.state_dict()))
            except Exception as error:  # noqa: BLE001  (raised where the batch is asked for)
                self._ready.put(error)
                return
