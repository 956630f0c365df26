"""Batches drawn in the background while the caller computes."""

from __future__ import annotations

import queue
import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from cyclegan.data.sampler import PatchSampler

_Item = tuple[Tensor, dict[str, Any]] | Exception


class Prefetcher:
    """Hands out a sampler's batches in their order; one thread draws up to `depth` ahead.

    Its state is the sampler's as of the last batch handed out: what was drawn ahead and not used is
    drawn again after a resume. While it is open nobody else may draw from the sampler. One thread
    is all that helps: HDF5 is locked as a whole.

    Args:
        sampler: where from.
        batch_size: patches a batch.
        depth: batches that may wait.
        pin: copy batches to page-locked memory, if there is a CUDA device.
    """

    def __init__(
        self, sampler: PatchSampler, batch_size: int, *, depth: int = 2, pin: bool = False
    ) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._depth = depth
        self._pin = pin and torch.cuda.is_available()
        self._state = sampler.state_dict()
        self._worker: _Worker | None = None

    def next(self) -> Tensor:
        """The next batch (B, C, Z, Y, X). Errors: what went wrong when it was drawn."""
        if self._worker is None:
            self._worker = _Worker(self._sampler, self._batch_size, self._depth, self._pin)
            self._finish = weakref.finalize(self, self._worker.stop)
        item = self._worker.take()
        if isinstance(item, Exception):
            self.close()
            raise item
        batch, self._state = item
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state after the last batch that was handed out."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; what was drawn ahead is dropped."""
        self._stop()
        self._sampler.load_state_dict(state)
        self._state = dict(state)

    def close(self) -> None:
        """End the thread and leave the sampler as of the last batch handed out."""
        self._stop()
        self._sampler.load_state_dict(self._state)

    def _stop(self) -> None:
        if self._worker is not None:
            self._finish()
            self._worker = None


class _Worker:
    """The thread, which knows nothing of the prefetcher: a forgotten one can be collected."""

    def __init__(self, sampler: PatchSampler, batch_size: int, depth: int, pin: bool) -> None:
        self._ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._places = threading.Semaphore(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(sampler, batch_size, pin), name="prefetch", daemon=True
        )
        self._thread.start()

    def take(self) -> _Item:
        item = self._ready.get()
        self._places.release()
        return item

    def stop(self) -> None:
        self._stopping.set()
        self._places.release()
        # The collector may run in any thread, this one included.
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, sampler: PatchSampler, batch_size: int, pin: bool) -> None:
        while True:
            self._places.acquire()
            if self._stopping.is_set():
                return
            try:
                batch = sampler.draw(batch_size)
                self._ready.put((batch.pin_memory() if pin else batch, sampler.state_dict()))
            except Exception as error:  # noqa: BLE001  (raised where the batch is asked for)
                self._ready.put(error)
                return
