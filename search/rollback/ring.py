"""The ring of snapshots: the newest few, the start and the best-known one, within a memory budget.

Snapshots that exceed the budget are dropped, the oldest first, or written to the training's folder
if that is wanted:

```
save/ring/snapshot-00000800.pt     named by iteration; a checkpoint names the files that it needs
```
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyclegan import checkpoints
from cyclegan.errors import CheckpointError, CycleGANError
from cyclegan.snapshot import Snapshot

logger = logging.getLogger(__name__)

SNAPSHOT_FORMAT = "cyclegan-snapshot-1"


@dataclass(eq=False, kw_only=True)
class RingSnapshot:
    """A snapshot in memory or, once spilled, in a file."""

    step: int
    iteration: int
    nbytes: int
    signs: frozenset[str] = field(default_factory=frozenset)
    """Kinds of faults that were visible when the snapshot was taken."""
    snapshot: Snapshot | None
    path: Path | None = None

    @classmethod
    def of(cls, snapshot: Snapshot, signs: Iterable[str] = ()) -> RingSnapshot:
        """Wrap a snapshot that was just taken."""
        return cls(
            step=snapshot.step,
            iteration=snapshot.iteration,
            nbytes=snapshot.nbytes(),
            signs=frozenset(signs),
            snapshot=snapshot,
        )

    def read(self) -> Snapshot | None:
        """Return the snapshot; or None, with a warning, if its file can't be read."""
        if self.snapshot is not None:
            return self.snapshot
        assert self.path is not None
        try:
            return Snapshot.from_plain(checkpoints.load(self.path, formats=(SNAPSHOT_FORMAT,)))
        except CheckpointError as error:
            logger.warning("rollback: a snapshot is lost: %s", error)
            return None

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for a checkpoint: the snapshot itself, or the name of its file."""
        plain: dict[str, Any] = {
            "step": self.step,
            "iteration": self.iteration,
            "nbytes": self.nbytes,
            "signs": sorted(self.signs),
        }
        if self.snapshot is not None:
            return plain | {"snapshot": self.snapshot.to_plain()}
        assert self.path is not None
        return plain | {"file": self.path.name}


class Ring:
    """Holds the newest `keep` snapshots, the start, and the best-known one.

    Args:
        keep: number of recent snapshots.
        memory: host memory for all of them, in bytes; at least one recent snapshot always stays.
        folder: where to write snapshots that exceed the memory; without it they are dropped.
    """

    def __init__(self, *, keep: int, memory: float = math.inf, folder: Path | None = None) -> None:
        self.keep, self.memory, self.folder = keep, memory, folder
        self.recent: list[RingSnapshot] = []
        """Recent snapshots by rising step."""
        self.start: RingSnapshot | None = None
        self.best: RingSnapshot | None = None
        self.complete = True
        """True while all snapshots since the start are still there."""
        self._warned = False
        self._unused: list[list[Path]] = [[], []]

    def begin(self, snapshot: Snapshot) -> None:
        """Add the start."""
        self.start = RingSnapshot.of(snapshot)

    def add(self, entry: RingSnapshot) -> None:
        """Add a new snapshot, and drop or spill older ones that are too many."""
        self.recent.append(entry)
        while len(self.recent) > self.keep:
            self.complete = False
            self._forget(self.recent.pop(0))
        self._fit()

    def keep_best(self, entry: RingSnapshot) -> None:
        """Hold this snapshot until there is a better one; it may be one of the recent ones."""
        before, self.best = self.best, entry
        if before is not None:
            self._forget(before)
        self._fit()

    def find(self, *, upto: int, fault: str, age: int, now: int) -> Snapshot:
        """Return the snapshot to fall back to after a fault of this kind, visible for `age` steps.

        This is the newest snapshot of step `upto` or before; if there is none, the oldest recent
        one. It is never a snapshot taken after the fault became visible, one that bears its sign,
        or one with values that are not finite. If no recent snapshot is left, it is the best-known
        one, or the start.

        Errors: `CheckpointError` if none of them can be read any more.
        """
        assert self.start is not None
        recent = [*([self.start] if self.complete else []), *self.recent]
        healthy = [k for k in recent if k.step < now - age and fault not in k.signs]
        far = [k for k in healthy if k.step <= upto]
        order = [*reversed(far), *(k for k in healthy if k not in far)]
        # The best-known one may be thousands of steps back, the start even more: a last resort.
        if self.best and self.best.step < now - age and fault not in self.best.signs:
            order.append(self.best)
        for entry in order:
            snapshot = entry.read()
            if snapshot is not None and snapshot.is_finite():
                return snapshot
        start = self.start.read()
        if start is None:
            raise CheckpointError(f"{self.start.path}: the training can't fall back without it")
        return start

    def discard_after(self, step: int) -> None:
        """Forget the snapshots of an abandoned path; the best-known one stays."""
        for entry in [k for k in self.recent if k.step > step]:
            self.recent.remove(entry)
            self._forget(entry)

    def nbytes(self) -> int:
        """Return the size of the snapshots in memory, in bytes."""
        return sum(entry.nbytes for entry in self._all() if entry.snapshot is not None)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; snapshots in files are named only.

        A file that is no longer needed stays until the second checkpoint without it is written: the
        checkpoint before the newest may still need it.
        """
        for path in self._unused.pop(0):
            path.unlink(missing_ok=True)
        self._unused.append([])
        everything = self._all()
        places = {id(entry): place for place, entry in enumerate(everything)}
        return {
            "snapshots": [entry.to_plain() for entry in everything],
            "recent": [places[id(entry)] for entry in self.recent],
            "start": places[id(self.start)] if self.start else None,
            "best": places[id(self.best)] if self.best else None,
            "complete": self.complete,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned; snapshots whose file is gone are lost."""
        entries = [self._from_plain(plain) for plain in state["snapshots"]]
        self.recent = [found for i in state["recent"] if (found := entries[i])]
        self.start = entries[state["start"]] if state["start"] is not None else None
        self.best = entries[state["best"]] if state["best"] is not None else None
        self.complete = bool(state["complete"]) and len(self.recent) == len(state["recent"])
        self._remove_strangers()

    def _from_plain(self, plain: Mapping[str, Any]) -> RingSnapshot | None:
        values: dict[str, Any] = {n: plain[n] for n in ("step", "iteration", "nbytes")}
        values["signs"] = frozenset(plain["signs"])
        if "snapshot" in plain:
            return RingSnapshot(**values, snapshot=Snapshot.from_plain(plain["snapshot"]))
        path = self.folder / Path(plain["file"]).name if self.folder else None
        if path is None or not path.is_file():
            logger.warning("rollback: the snapshot in %s is lost", plain["file"])
            return None
        return RingSnapshot(**values, snapshot=None, path=path)

    def _all(self) -> list[RingSnapshot]:
        """Return each snapshot once; the later in the list, the likelier it is needed."""
        named = [entry for entry in (self.start, self.best) if entry is not None]
        return list({id(entry): entry for entry in (*named, *self.recent)}.values())

    def _fit(self) -> None:
        """Spill or drop the snapshots that exceed the memory."""
        while self.nbytes() > self.memory:
            in_memory = [entry for entry in self._all() if entry.snapshot is not None]
            if self.folder is not None and len(in_memory) > 1:
                if not self._spill(in_memory[0]):
                    return
            elif self.folder is None and len(self.recent) > 1:
                self.complete = False
                self._forget(self.recent.pop(0))
                self._warn(f"only {len(self.recent)} recent snapshots fit in {self.memory:.3g} B")
            else:
                return

    def _spill(self, entry: RingSnapshot) -> bool:
        assert self.folder is not None
        assert entry.snapshot is not None
        path = self.folder / f"snapshot-{entry.iteration:08d}.pt"
        try:
            checkpoints.save({"format": SNAPSHOT_FORMAT, **entry.snapshot.to_plain()}, path)
        except (CycleGANError, OSError) as error:  # better to exceed the budget than to fail
            self._warn(f"a snapshot stays in memory: {error}")
            return False
        entry.path, entry.snapshot = path, None
        return True

    def _forget(self, entry: RingSnapshot) -> None:
        if entry.path is not None and not any(entry is other for other in self._all()):
            self._unused[-1].append(entry.path)

    def _remove_strangers(self) -> None:
        """Remove files of a process that was killed after this checkpoint."""
        if self.folder is None:
            return
        known = {entry.path for entry in self._all()}
        for path in self.folder.glob("snapshot-*.pt"):
            if path not in known:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("rollback: %s", text)
            self._warned = True
