"""Retention of checkpoints: which ones a study's trials keep, and the disk space a study takes.

A trial's generators (`generator.pt`) and pictures are small and stay. Its checkpoints are needed to
continue it: to promote it, or to revive it after it was pruned. These checkpoints stay:

- all of a trial that runs, waits or was interrupted; the newest and `best.pt` of a paused one;
- the newest and `best.pt` of the `checkpoints.keep_trials` best complete trials, of as many best
  pruned ones, and of a pruned trial that is to be revived;
- none of any other trial. A trial that a gate ended (not finite, collapsed, inverted) never counts
  among the best, however few there are: continuing it leads nowhere.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from cyclegan.checkpoints import BEST_NAME, CHECKPOINT_NAME, older_checkpoints
from cyclegan.config import Config
from cyclegan.errors import BusyError, ConfigError, CycleGANError
from cyclegan.footprint import checkpoint_bytes, generator_bytes
from cyclegan.locks import exclusive
from cyclegan.score import GATED
from search.launch import SAVE_FOLDER
from search.study.definition import StudyDefinition
from search.study.study import StudyHandle
from search.study.trials import Trial, front_of
from viz.units import disk_size

__all__ = [
    "Keep",
    "can_continue",
    "check_disk",
    "checkpoints_to_keep",
    "expected_bytes",
    "release_checkpoints",
]
logger = logging.getLogger(__name__)
Keep = Literal["all", "newest", "none"]
"""The checkpoints of a trial that stay; `newest` includes the best one, if there is one."""
_FINISHED = ("complete", "pruned", "failed")


def checkpoints_to_keep(
    trials: Sequence[Trial], keep_trials: int, needed: Collection[int] = ()
) -> dict[int, Keep]:
    """Return by number which checkpoints every trial keeps; those of a Pareto front keep theirs.

    `needed`: numbers of trials that unfinished trials continue, or that would be promoted.
    """
    best = {
        trial.number
        for state in ("complete", "pruned")
        for trial in sorted((t for t in trials if _is_candidate(t, state)), key=_rank)[:keep_trials]
    }
    best |= {trial.number for trial in front_of(trials)}
    kept: dict[int, Keep] = {}
    for trial in trials:
        wanted = trial.number in best or trial.number in needed
        kept[trial.number] = "newest" if wanted else "none"
        if trial.state == "paused":
            kept[trial.number] = "newest"
        elif trial.state not in _FINISHED:
            kept[trial.number] = "all"
    return kept


def _is_candidate(trial: Trial, state: str) -> bool:
    if trial.state != state or trial.score is None or math.isnan(trial.score):
        return False
    return state == "complete" or trial.score > GATED


def _rank(trial: Trial) -> tuple[float, int]:
    return -(trial.score or 0.0), trial.number


def release_checkpoints(handle: StudyHandle) -> list[Path]:
    """Remove the checkpoints that no trial needs any more, and return the removed files.

    Only files below `results/<study>/trial-NNN` are removed, of trainings that the study knows and
    no process trains in.
    """
    removed: list[Path] = []
    kept = _kept(handle)
    for number, folder in _trainings(handle.results):
        if _spare(folder, kept.get(number, "all")):
            removed += _release(handle, number, folder)
    return removed


def can_continue(folder: Path) -> bool:
    """Return True if the training in `folder` has a checkpoint to be promoted or revived from."""
    save = folder / SAVE_FOLDER
    return any(path.is_file() for path in (save / CHECKPOINT_NAME, *older_checkpoints(save)))


def _kept(handle: StudyHandle) -> dict[int, Keep]:
    trials = handle.trials()
    unfinished = {t.number for t in trials if t.state not in _FINISHED}
    frozen = handle.study.get_trials(deepcopy=False)
    revived = {int(t.user_attrs.get("revives", -1)) for t in frozen if t.number in unfinished}
    first = {trial.number for trial in handle.recommended()[:1]}
    return checkpoints_to_keep(trials, handle.definition.checkpoints.keep_trials, revived | first)


def _trainings(results: Path) -> Iterator[tuple[int, Path]]:
    """Yield the trial's number and the folder of every training, further seeds included."""
    for folder in sorted(results.glob("trial-*")):
        match = re.fullmatch(r"trial-(\d{3,})", folder.name)
        for training in (folder, *sorted(folder.glob("seed-*"))) if match else ():
            save = training / SAVE_FOLDER
            # A link that leads elsewhere is the user's own; its files don't belong to the study.
            inside = save.resolve() == results.resolve() / save.relative_to(results)
            if match and inside and (training / "run.json").is_file():
                yield int(match[1]), training


def _release(handle: StudyHandle, number: int, folder: Path) -> list[Path]:
    removed: list[Path] = []
    try:
        with exclusive(folder / ".lock", f"training folder {folder}"):
            # Check again under the lock: someone may have revived the trial meanwhile.
            for path in _spare(folder, _kept(handle).get(number, "all")):
                path.unlink()
                removed.append(path)
    except BusyError:
        pass
    except OSError as error:
        logger.warning("%s: an unneeded checkpoint can't be removed: %s", folder, error)
    return removed


def _spare(folder: Path, kept: Keep) -> list[Path]:
    """Return the checkpoints of a training that may be removed."""
    if kept == "all":
        return []
    save = folder / SAVE_FOLDER
    resumable = [p for p in (save / CHECKPOINT_NAME, *older_checkpoints(save)) if p.is_file()]
    spare = resumable[1:] if kept == "newest" else [*resumable, save / BEST_NAME]
    return [path for path in spare if path.is_file() and not path.is_symlink()]


# -- Disk space: the need of one more trial, and whether there is room for it ------------------

_GB = 1e9


_MARGIN = 1.05
"""Free space required, as a multiple of the expected bytes: others write to the disk, too."""


def check_disk(
    definition: StudyDefinition,
    results: Path,
    expected_bytes: int,
    *,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> None:
    """Refuse to write `expected_bytes` more below the study's folder `results` if there is no room.

    Errors: `CycleGANError` if they would exceed the budget `checkpoints.disk_gb`, or fill the disk.
    """
    wanted = f"one more trial takes about {disk_size(expected_bytes)} at its peak"
    fewer = f"checkpoints.keep_trials = {definition.checkpoints.keep_trials}"
    ways = f"remove folders you do not need there, or take a smaller {fewer}"
    budget = definition.checkpoints.disk_gb
    if budget is not None:
        used = sum(_sizes(results))
        if used + expected_bytes > budget * _GB:
            raise CycleGANError(
                f"study {definition.name}: {results} takes {disk_size(used)} and {wanted}, which "
                f"checkpoints.disk_gb = {budget:g} does not allow; raise it, {ways}"
            )
    left = free(_existing(results))
    if left < _MARGIN * expected_bytes:
        raise CycleGANError(
            f"study {definition.name}: the disk of {results} has {disk_size(left)} free and "
            f"{wanted}; free some space, {ways}"
        )


def expected_bytes(handle: StudyHandle) -> int:
    """Return the bytes that one more trial takes at its peak: checkpoints, generators, pictures.

    The estimate is that of the largest trial so far, or that of the networks' sizes if it is
    larger: no trial may have been trained yet, or a searched key may make the networks larger.
    """
    configs = list(_extremes(handle.definition))
    seeds = handle.definition.seeds
    checkpoint = max((checkpoint_bytes(config) for config in configs), default=0)
    rest = max(((seeds + 1) * generator_bytes(config) for config in configs), default=0)
    for folder in handle.results.glob("trial-*"):
        found = list(folder.rglob("save/*.pt"))
        saved = [_size(p) for p in found if p.name.startswith("checkpoint") or p.name == BEST_NAME]
        checkpoint = max(checkpoint, *saved) if saved else checkpoint
        rest = max(rest, sum(_sizes(folder)) - sum(saved))
    kept = max(
        (config.keep_checkpoints + config.keep_best_checkpoint for config in configs), default=1
    )
    # One more while the next is written under its temporary name.
    return (kept * handle.definition.seeds + 1) * checkpoint + rest


def _extremes(definition: StudyDefinition) -> Iterator[Config]:
    """Yield the configurations at both ends of the space, if they are valid."""
    space: Any = definition.space
    dimensions = space if isinstance(space, dict) else {}  # a function's ends are unknown
    for end in (0, -1):
        values = {key: dimension.examples()[end] for key, dimension in dimensions.items()}
        tied = {key: values[source] for key, source in definition.ties.items() if source in values}
        try:
            yield definition.config_of(0, values | tied)
        except ConfigError:
            continue


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the bytes of all files below a folder, each file once; links elsewhere are left out."""
    seen: set[tuple[int, int]] = set()
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                stat = Path(parent, name).lstat()
            except OSError:  # a temporary file that is gone
                continue
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                yield stat.st_size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
