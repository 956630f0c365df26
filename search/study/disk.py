"""The disk a study takes: what one more trial needs, and whether there is room for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cyclegan.checkpoints import BEST_NAME
from cyclegan.config import Config
from cyclegan.errors import ConfigError, CycleGANError
from cyclegan.footprint import checkpoint_bytes, generator_bytes
from search.study.definition import StudyDefinition
from search.study.study import OpenStudy

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
    wanted = f"one more trial takes about {_shown(expected_bytes)} at its peak"
    fewer = f"checkpoints.keep_trials = {definition.checkpoints.keep_trials}"
    ways = f"remove folders you do not need there, or take a smaller {fewer}"
    budget = definition.checkpoints.disk_gb
    if budget is not None:
        used = sum(_sizes(results))
        if used + expected_bytes > budget * _GB:
            raise CycleGANError(
                f"study {definition.name}: {results} takes {_shown(used)} and {wanted}, which "
                f"checkpoints.disk_gb = {budget:g} does not allow; raise it, {ways}"
            )
    left = free(_existing(results))
    if left < _MARGIN * expected_bytes:
        raise CycleGANError(
            f"study {definition.name}: the disk of {results} has {_shown(left)} free and {wanted}; "
            f"free some space, {ways}"
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


def _shown(count: float) -> str:
    return f"{count / _GB:.3g} GB" if count >= 0.1 * _GB else f"{count / 1e6:.3g} MB"
