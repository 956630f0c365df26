"""Memory for volumes: one budget for all volumes of a process, and one copy of each region."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray


class MemoryBudget:
    """How many bytes of volumes may be held in memory, by everybody who was given this object."""

    def __init__(self, nbytes: float) -> None:
        self.nbytes = nbytes
        self._taken = 0
        # The collector may give a share back in the middle of `take`.
        self._lock = threading.RLock()

    @property
    def free(self) -> float:
        """Bytes not taken yet."""
        return self.nbytes - self._taken

    def take(self, nbytes: int) -> bool:
        """Take a share if it is there; whether it was."""
        with self._lock:
            if nbytes > self.free:
                return False
            self._taken += nbytes
            return True

    def give_back(self, nbytes: int) -> None:
        """Give a share back."""
        with self._lock:
            self._taken -= nbytes


class Held:
    """A region (C, Z, Y, X) in memory, in the file's own kind of number."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array


_held: weakref.WeakValueDictionary[Hashable, Held] = weakref.WeakValueDictionary()
_loading = threading.RLock()


def hold(
    key: Hashable,
    nbytes: int,
    budget: MemoryBudget | None,
    load: Callable[[], NDArray[np.generic]],
) -> Held | None:
    """The region called `key`: the copy somebody holds already, else loaded if `budget` allows.

    The share is given back when the last who holds it lets go.
    """
    with _loading:
        found = _held.get(key)
        if found is not None or budget is None or not budget.take(nbytes):
            return found
        try:
            held = Held(load())
        except BaseException:
            budget.give_back(nbytes)
            raise
        weakref.finalize(held, budget.give_back, nbytes)
        _held[key] = held
        return held
