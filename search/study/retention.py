"""What a study's trials keep on disk, and when it would be too much.

A trial's generators (`generator.pt`) and pictures are small and stay. Its checkpoints are what it
is continued from: promoted, or revived after it was pruned. They stay

- whole, while the trial runs, waits or was interrupted;
- the newest and `best.pt`, of the `checkpoints.keep_trials` best complete trials, of as many best
  pruned ones, and of a pruned trial that is to be revived;
- not at all, of the others. A trial that a gate ended (not finite, collapsed, inverted) is no
  candidate however few there are: going on with it leads nowhere.
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
from search.study.study import OpenStudy
from search.study.trials import Trial
from viz.units import disk_size

__all__ = [
    "Kept",
    "can_continue",
    "check_disk",
    "expected_bytes",
    "kept_checkpoints",
    "release_checkpoints",
]
logger = logging.getLogger(__name__)
Kept = Literal["all", "newest", "none"]
"""Which checkpoints of a trial stay; `newest`: with the best, if there is one."""
_FINISHED = ("complete", "pruned", "failed")


def kept_checkpoints(
    trials: Sequence[Trial], keep_trials: int, revived: Collection[int] = ()
) -> dict[int, Kept]:
    """Which checkpoints every trial keeps, by its number.

    `revived` are the numbers of trials that others, not finished yet, continue.
    """
    best = {
        trial.number
        for state in ("complete", "pruned")
        for trial in sorted((t for t in trials if _is_candidate(t, state)), key=_rank)[:keep_trials]
    }
    kept: dict[int, Kept] = {}
    for trial in trials:
        wanted = trial.number in best or trial.number in revived
        kept[trial.number] = "newest" if wanted else "none"
        if trial.state not in _FINISHED:
            kept[trial.number] = "all"
    return kept


def _is_candidate(trial: Trial, state: str) -> bool:
    if trial.state != state or trial.score is None or math.isnan(trial.score):
        return False
    return state == "complete" or trial.score > GATED


def _rank(trial: Trial) -> tuple[float, int]:
    return -(trial.score or 0.0), trial.number


def release_checkpoints(opened: OpenStudy) -> list[Path]:
    """Remove the checkpoints that no trial needs any more; the files that were removed.

    Only below `results/<study>/trial-NNN`, of trainings the study knows and nobody trains in.
    """
    removed: list[Path] = []
    kept = _kept(opened)
    for number, folder in _trainings(opened.results):
        if _spare(folder, kept.get(number, "all")):
            removed += _release(opened, number, folder)
    return removed


def can_continue(folder: Path) -> bool:
    """Whether the training in `folder` has a checkpoint to be promoted or revived from."""
    save = folder / SAVE_FOLDER
    return any(path.is_file() for path in (save / CHECKPOINT_NAME, *older_checkpoints(save)))


def _kept(opened: OpenStudy) -> dict[int, Kept]:
    trials = opened.trials()
    unfinished = {t.number for t in trials if t.state not in _FINISHED}
    frozen = opened.study.get_trials(deepcopy=False)
    revived = {int(t.user_attrs.get("revives", -1)) for t in frozen if t.number in unfinished}
    return kept_checkpoints(trials, opened.definition.checkpoints.keep_trials, revived)


def _trainings(results: Path) -> Iterator[tuple[int, Path]]:
    """The folder of every trial and of its further seeds, with the trial's number."""
    for folder in sorted(results.glob("trial-*")):
        match = re.fullmatch(r"trial-(\d{3,})", folder.name)
        for training in (folder, *sorted(folder.glob("seed-*"))) if match else ():
            save = training / SAVE_FOLDER
            # A link that leads elsewhere is the user's own: what lies there is not the study's.
            inside = save.resolve() == results.resolve() / save.relative_to(results)
            if match and inside and (training / "run.json").is_file():
                yield int(match[1]), training


def _release(opened: OpenStudy, number: int, folder: Path) -> list[Path]:
    removed: list[Path] = []
    try:
        with exclusive(folder / ".lock", f"training folder {folder}"):
            # Asked again under the lock: somebody may have revived the trial meanwhile.
            for path in _spare(folder, _kept(opened).get(number, "all")):
                path.unlink()
                removed.append(path)
    except BusyError:
        pass
    except OSError as error:
        logger.warning("%s: a checkpoint is not needed and can't be removed: %s", folder, error)
    return removed


def _spare(folder: Path, kept: Kept) -> list[Path]:
    """The checkpoints of a training that may go."""
    if kept == "all":
        return []
    save = folder / SAVE_FOLDER
    resumable = [p for p in (save / CHECKPOINT_NAME, *older_checkpoints(save)) if p.is_file()]
    spare = resumable[1:] if kept == "newest" else [*resumable, save / BEST_NAME]
    return [path for path in spare if path.is_file() and not path.is_symlink()]


# -- The disk a study takes: what one more trial needs, and whether there is room for it -------

_GB = 1e9


_MARGIN = 1.05
"""Of free space over what is expected: others write to the disk, too."""


def check_disk(
    definition: StudyDefinition,
    results: Path,
    expected_bytes: int,
    *,
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> None:
    """Stop in time: before `expected_bytes` more are written below `results`, the study's folder.

    Errors: `CycleGANError` if that would break the budget `checkpoints.disk_gb`, or fill the disk.
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


def expected_bytes(opened: OpenStudy) -> int:
    """What one more trial takes at its peak: checkpoints, generators, pictures.

    By the largest trial so far, and by the networks where none was trained yet or a searched key
    can make them larger.
    """
    configs = list(_extremes(opened.definition))
    seeds = opened.definition.seeds
    checkpoint = max((checkpoint_bytes(config) for config in configs), default=0)
    rest = max(((seeds + 1) * generator_bytes(config) for config in configs), default=0)
    for folder in opened.results.glob("trial-*"):
        found = list(folder.rglob("save/*.pt"))
        saved = [_size(p) for p in found if p.name.startswith("checkpoint") or p.name == BEST_NAME]
        checkpoint = max(checkpoint, *saved) if saved else checkpoint
        rest = max(rest, sum(_sizes(folder)) - sum(saved))
    kept = max(
        (config.keep_checkpoints + config.keep_best_checkpoint for config in configs), default=1
    )
    # One more while the next is written under its temporary name.
    return (kept * opened.definition.seeds + 1) * checkpoint + rest


def _extremes(definition: StudyDefinition) -> Iterator[Config]:
    """Configurations at both ends of the space, as far as they are possible."""
    space: Any = definition.space
    dimensions = space if isinstance(space, dict) else {}  # a function keeps its space to itself
    for end in (0, -1):
        values = {key: dimension.examples()[end] for key, dimension in dimensions.items()}
        tied = {key: values[source] for key, source in definition.ties.items() if source in values}
        try:
            yield definition.config_of(0, values | tied)
        except ConfigError:
            continue


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of all files below a folder, each file once; links that lead elsewhere left out."""
    seen: set[tuple[int, int]] = set()
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                stat = Path(parent, name).lstat()
            except OSError:  # a temporary file that has gone
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
