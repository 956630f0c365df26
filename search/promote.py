"""Turning a study's best trial into the real training."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclegan.checkpoints import newest_checkpoint
from cyclegan.config import override, parse_config
from cyclegan.errors import DataError
from search.console import Console
from search.launch import SAVE_FOLDER, Finished, Job, run_training
from search.study import OpenStudy

if TYPE_CHECKING:
    from tracking import Store


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """A promoted training and where it came from."""

    trial: int
    run_name: str
    finished: Finished


def promote(
    opened: OpenStudy,
    *,
    store: Store,
    console: Console,
    trial: int | None = None,
    steps: int | None = None,
    start: Literal["continue", "scratch"] | None = None,
    hp_optimizer: bool | None = None,
) -> Promoted:
    """Train the best trial (or number `trial`) in earnest; what is not given the study's file says.

    Called again it continues an interrupted promotion, or does nothing if it is complete.

    Errors: `DataError` if no trial is complete; `UsageError` for a trial that does not exist.
    """
    settings = opened.definition.promote
    chosen = opened.best().number if trial is None else trial
    changes: dict[str, Any] = dict(settings.set)
    changes["run_name"] = f"{opened.definition.name}-promoted-{chosen:03d}"
    changes["steps"] = steps or settings.steps
    if hp_optimizer is not None:
        changes["hp_optimizer.enabled"] = hp_optimizer
    config = parse_config(
        override(opened.config_of(chosen).to_dict(), changes),
        source=f"promotion of trial {chosen}",
    )
    checkpoint = None
    if (start or settings.start) == "continue":
        checkpoint = newest_checkpoint(opened.trial_folder(chosen) / SAVE_FOLDER)
        if checkpoint is None:
            raise DataError(
                f"{opened.trial_folder(chosen)} holds no checkpoint; promote with --from-scratch"
            )
    source = next(t for t in opened.trials() if t.number == chosen)
    job = Job(
        config=config,
        folder=opened.results / config.run_name,
        experiment=opened.definition.name,
        kind="promoted",
        tags={
            "study": opened.definition.name,
            "trial": str(chosen),
            "promoted_from": source.run_id,
        },
        parent=opened.study.user_attrs.get("mlflow_run_id"),
        start=checkpoint,
    )
    finished = run_training(job, store=store, console=console)
    with contextlib.suppress(DataError):  # the trial's run may lie in another store, or nowhere
        store.run(source.run_id).set_tags({"promoted_to": finished.run_id})
    return Promoted(trial=chosen, run_name=config.run_name, finished=finished)
