"""Read, compute, compress and write tiles at the same time, with few of them in memory.

```
thread "read"      window 3  │ window 4  │ window 5  │
caller             tile 2    │ tile 3    │ tile 4    │      computes
threads "encode"   chunks of 1           │ of 2      │ of 3
thread "write"                tile 1     │ tile 2    │
```

One window is read ahead. Computed tiles wait for the threads that compress their chunks as long as
they are no more than these have to do at once; a tile that is larger than that waits alone. Tiles
are written in the order in which they were computed, so that threads change no byte.

If the caller fails or is interrupted, the tiles that it has computed are still written: they may
have taken minutes. A second interruption drops them. A failure of a thread is raised in the caller,
as if it had done the work itself.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

from cyclegan.enhance.chunks import blocks_of, encode
from cyclegan.enhance.partial import Chunk, Core, Layout, PartStore

Item = TypeVar("Item")
Value = TypeVar("Value")

MOST_THREADS = 8
"""Most threads that compress: they keep up with any disk, and a host may have several processes."""
_PER_THREAD = 2_000_000
"""Bytes of computed voxels per thread that may wait: a chunk in work, and the next one."""


def encoding_threads() -> int:
    """Return the number of threads that compress, by those that PyTorch may use."""
    return min(torch.get_num_threads(), MOST_THREADS)


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Value]
) -> Generator[tuple[Item, Value], None, None]:
    """Yield each item with what `read` returns for it, while a thread reads that of the next one.

    Errors: those of `read`, when its item's turn comes.
    """
    with ThreadPoolExecutor(1, "read") as thread:
        waiting: deque[tuple[Item, Future[Value]]] = deque()
        try:
            for item in items:
                waiting.append((item, thread.submit(read, item)))
                if len(waiting) > 1:
                    yield _first_of(waiting)
            while waiting:
                yield _first_of(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _first_of(waiting: deque[tuple[Item, Future[Value]]]) -> tuple[Item, Value]:
    item, future = waiting.popleft()
    return item, future.result()


class TileWriter:
    """Compresses and stores tiles in threads; a context manager, at whose end all are stored.

    `threads` changes the speed and no byte of the store.
    """

    def __init__(self, store: PartStore, threads: int | None = None) -> None:
        threads = encoding_threads() if threads is None else threads
        self._store = store
        self._most = threads * _PER_THREAD
        self._encoders = ThreadPoolExecutor(threads, "encode")
        self._writer = ThreadPoolExecutor(1, "write")
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._failed = False

    def __enter__(self) -> TileWriter:
        return self

    def add(self, tile: int, cores: Mapping[str, Core]) -> None:
        """Take over a computed tile; wait until there is room for it.

        Errors: those of an earlier tile, e.g. `OSError` for a full disk.
        """
        size = sum(array.nbytes for _, array in cores.values())
        self._wait(self._most - size)
        chunks = [
            self._encoders.submit(_chunk, name, layout, origin, first, block)
            for name, (origin, array) in cores.items()
            for layout in (self._store.layouts[name],)
            for first, block in blocks_of(array, layout.chunks)
        ]
        self._waiting.append((size, self._writer.submit(self._write, tile, chunks)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._wait(-1)
            else:
                # What happened first is what the user is told.
                with contextlib.suppress(Exception):
                    self._wait(-1)
        finally:
            for pool in (self._writer, self._encoders):
                pool.shutdown(cancel_futures=True)

    def _wait(self, most: int) -> None:
        """Wait until at most `most` bytes are neither stored nor dropped."""
        while self._waiting and sum(size for size, _ in self._waiting) > most:
            self._waiting[0][1].result()  # if this is interrupted, the tile still waits
            self._waiting.popleft()

    def _write(self, tile: int, chunks: list[Future[Chunk]]) -> None:
        if self._failed:  # after a failed write a later one could leave a hole
            return
        try:
            self._store.add(tile, [chunk.result() for chunk in chunks])
        except BaseException:
            self._failed = True
            raise


def _chunk(
    name: str, layout: Layout, origin: tuple[int, ...], first: tuple[int, ...], block: object
) -> Chunk:
    mask, data = encode(block, layout.chunks, layout.compression)  # type: ignore[arg-type]
    return name, [o + n for o, n in zip(origin, first, strict=True)], mask, data
