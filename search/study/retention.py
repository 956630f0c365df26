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
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

from cyclegan.checkpoints import BEST_NAME, CHECKPOINT_NAME, older_checkpoints
from cyclegan.errors import BusyError
from cyclegan.locks import exclusive
from cyclegan.score import GATED
from search.launch import SAVE_FOLDER
from search.study.disk import check_disk, expected_bytes
from search.study.study import OpenStudy, TrialSummary

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
    trials: Sequence[TrialSummary], keep_trials: int, revived: Collection[int] = ()
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


def _is_candidate(trial: TrialSummary, state: str) -> bool:
    if trial.state != state or trial.score is None or math.isnan(trial.score):
        return False
    return state == "complete" or trial.score > GATED


def _rank(trial: TrialSummary) -> tuple[float, int]:
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
