"""What leads in MLflow from a study to its trials, from a trial to what it became, and back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cyclegan.errors import DataError
from search.launch import Finished
from search.study import OpenStudy, TrialSummary
from tracking.presets import promoted_view

if TYPE_CHECKING:
    from tracking import Run, Store


def run_of(store: Store, run_id: str | None) -> Run | None:
    """The run; None if it lies in another store, or nowhere."""
    with contextlib.suppress(DataError):
        return store.run(run_id) if run_id else None
    return None


def study_run(opened: OpenStudy, store: Store) -> Run | None:
    """The study's own run."""
    return run_of(store, opened.study.user_attrs.get("mlflow_run_id"))


def link_promoted(
    opened: OpenStudy, source: TrialSummary, finished: Finished, store: Store
) -> None:
    """Tags `promoted_to`, `best_score`, `best_step`, and links in the three runs' descriptions."""
    run = store.run(finished.run_id)
    store.ship_view(run.experiment_id, promoted_view(step=finished.result.iteration))
    if finished.best_score is not None:
        run.set_tags({"best_score": finished.best_score, "best_step": finished.best_step})
    trial, study = run_of(store, source.run_id), study_run(opened, store)
    origin = [f"trial {trial.link()}"] if trial else [f"trial {source.number}"]
    origin += [f"study {study.link()}"] if study else [f"study {opened.definition.name}"]
    run.annotate("Promoted from", " of ".join(origin))
    if trial:
        trial.set_tags({"promoted_to": finished.run_id})
        trial.annotate("Promoted to", run.link())
    if study:
        found = store.search(
            opened.definition.name,
            f"tags.kind = 'promoted' and tags.study = '{opened.definition.name}'",
        )
        names = [store.run(info.id).link() for info in reversed(found)]
        study.annotate("Promoted:", ", ".join(names))
