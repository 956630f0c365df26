"""Checkpoint and model files: how to read and write them, and one training's checkpoint folder.

```
checkpoint.pt             the newest
checkpoint-00001200.pt    older ones, named by iteration, as many as `keep_checkpoints` allows
best.pt                   the one with the best score, if `keep_best_checkpoint` is set
```
Each gets its name when a complete file is renamed, so a kill at any moment leaves a complete one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cyclegan.errors import CheckpointError
from cyclegan.files import replacing

logger = logging.getLogger(__name__)
CHECKPOINT_NAME = "checkpoint.pt"
BEST_NAME = "best.pt"
_OLDER = "checkpoint-{iteration:08d}.pt"


class Cadence:
    """Schedule of checkpoints: one every `every` steps, and after `minutes` at the latest."""

    def __init__(
        self, every: int, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.every, self.minutes, self._clock = every, minutes, clock
        self._last = clock()

    def due(self, step: int) -> bool:
        """Return True if a checkpoint is due now, at this step."""
        late = self.minutes is not None and self._clock() - self._last >= 60 * self.minutes
        return late or step % self.every == 0

    def written(self) -> None:
        """Note that a checkpoint was written just now."""
        self._last = self._clock()


class CheckpointFolder:
    """Folder of one training's checkpoints, in which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder, self.keep = folder, keep
        self.newest = folder / CHECKPOINT_NAME
        self._iteration: int | None = None
        """Iteration of the checkpoint `newest`, as far as this process knows it."""

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write `state` as the newest checkpoint, then remove the oldest beyond `keep`."""
        iteration = int(state["iteration"])
        if self._iteration is not None and self._iteration != iteration and self.keep > 1:
            _give_name(self.newest, self.folder / _OLDER.format(iteration=self._iteration))
        save(state, self.newest)
        self._iteration = iteration
        for path in older_checkpoints(self.folder)[self.keep - 1 :]:
            path.unlink(missing_ok=True)
        return self.newest

    def save_best(self, state: Mapping[str, Any]) -> Path:
        """Write `state` as the best checkpoint."""
        path = self.folder / BEST_NAME
        save(state, path)
        return path

    def continued_at(self, iteration: int) -> None:
        """Note that the training continues from this folder's newest, taken at `iteration`."""
        self._iteration = iteration


def older_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints older than the newest, the latest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest readable checkpoint in `folder`, or None if there is no checkpoint at all.

    Errors: `CheckpointError` if there are checkpoints but none can be read.
    """
    found = newest_state(folder)
    return None if found is None else found[0]


def newest_state(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest readable checkpoint in `folder` and its content: reading it takes long.

    Errors: those of `newest_checkpoint`.
    """
    newest = folder / CHECKPOINT_NAME
    candidates = [*([newest] if newest.is_file() else []), *older_checkpoints(folder)]
    problem: CheckpointError | None = None
    for path in candidates:
        try:
            return path, load(path, formats=(CHECKPOINT_FORMAT,))
        except CheckpointError as error:
            problem = problem or error
            logger.warning("%s; trying the previous one", error)
    if problem is not None:
        raise problem
    return None


def _give_name(path: Path, other: Path) -> None:
    """Make `other` a second name of the file `path`, or a copy of it."""
    with contextlib.suppress(FileNotFoundError):
        other.unlink(missing_ok=True)
        try:
            os.link(path, other)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(path, other)


# -- Files: the complete state of a training (checkpoint), or models for enhancement -----------
#
# A file is written under a temporary name, flushed and renamed, so a file under its final name is
# complete. Files are read with `weights_only`: they can hold tensors and plain values, no code.

CHECKPOINT_FORMAT = "cyclegan-checkpoint-1"


GENERATOR_FORMAT = "cyclegan-generator-1"


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, atomically."""
    with replacing(path) as temporary:
        torch.save(dict(state), temporary)


def load(path: Path, *, formats: tuple[str, ...]) -> dict[str, Any]:
    """Return the state that `save` wrote to `path`, with its tensors on the CPU.

    PyTorch reads damaged files without a word, so the checksums in the file are compared first.

    Errors: `CheckpointError` if the file is missing, damaged or in none of the `formats`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".pt2":
        raise CheckpointError(
            f"{path}: this is an exported generator; give the generator.pt it was made from"
        )
    _check_whole(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, so reading it could run code; "
            "this software did not write it and does not read it"
        ) from error
    except Exception as error:
        summary = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one: {summary}") from error
    found = state.get("format") if isinstance(state, dict) else None
    if isinstance(state, dict) and found in formats:
        return state
    if isinstance(found, str) and _is_newer(found, formats):
        raise CheckpointError(
            f"{path}: made by a newer version of this software (format {found}; this version reads "
            f"{', '.join(formats)}); update it"
        )
    raise CheckpointError(f"{path}: not a file of this software (expected {', '.join(formats)})")


def _check_whole(path: Path) -> None:
    """Compare the checksum of every part of the file, which PyTorch does not do."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile has many ways to fail on bytes that are no archive
        raise CheckpointError(
            f"{path}: not a checkpoint, or a damaged one: {error}; copy it again or use another"
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged: the checksum of its part {damaged} is wrong; copy it again or use "
            "another"
        )


def _is_newer(found: str, formats: Sequence[str]) -> bool:
    """Return True if `found` is a later version of one of the `formats`."""
    kind, _, version = found.rpartition("-")
    known = {known.rpartition("-")[0]: known.rpartition("-")[2] for known in formats}
    if kind not in known or not (version.isdecimal() and known[kind].isdecimal()):
        return False
    return int(version) > int(known[kind])


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of PyTorch's global random generators; the patch sampler has its own."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def load_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def to_host(value: Any) -> Any:
    """Return a copy of nested state in host memory, independent of the original."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value
