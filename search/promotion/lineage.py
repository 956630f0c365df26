"""Lineage of a promotion: the registered generator, the champion, and links between the runs."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.errors import DataError
from cyclegan.locks import waiting_for
from cyclegan.portable import export_generator
from search.launch import GENERATOR_NAME, SAVE_FOLDER, LaunchResult
from search.models import origin_of
from search.study import StudyHandle, Trial
from tracking.scratch import temporary_folder
from tracking.views import promoted_view

if TYPE_CHECKING:
    from tracking import Challenge, ModelVersion, Run, Store


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegistrationResult:
    """A registered generator."""

    version: ModelVersion
    new: bool
    """True if it was registered now, False if it was registered before."""
    challenge: Challenge

    @property
    def text(self) -> str:
        """The outcome in one line."""
        score = f"score {self.version.score:.2f}"
        holder = self.challenge.before
        if holder is not None and holder.version == self.version.version:
            return f"{self.version.label}, {score}, is champion already"
        if self.challenge.won:
            beaten = "" if holder is None else f", replacing {_scored(holder)}"
            return f"{self.version.label}, {score}, is champion now{beaten}"
        assert holder is not None
        return f"{self.version.label}, {score}; champion stays {_scored(holder)}"


def register(
    handle: StudyHandle, trial: int, finished: LaunchResult, store: Store
) -> RegistrationResult | None:
    """Register the best generator once, and make it champion if its score is the best.

    An exported copy for use without this project is attached; if the export fails, a warning says
    so. Return None if no validation was usable: such a generator is not registered.
    """
    if finished.best_score is None:
        return None
    run = store.run(finished.run_id)
    name = handle.definition.name
    tags = {
        "study": name,
        "trial": trial,
        "steps": finished.result.step,
        "best_step": finished.best_step,
    }
    generator = finished.folder / SAVE_FOLDER / GENERATOR_NAME
    # Processes that promote at the same time compare with each other's outcome.
    with waiting_for(handle.folder / ".registering"):
        version, new = store.registry.register(
            name, run, generator, score=finished.best_score, tags=tags
        )
        challenge = store.registry.challenge(version)
    run.set_tags({"model_version": version.label})
    if version.portable is None:
        _attach_portable(store, run, version, generator)
    return RegistrationResult(version=version, new=new, challenge=challenge)


def _attach_portable(store: Store, run: Run, version: ModelVersion, generator: Path) -> None:
    origin = origin_of(run.id, version)
    try:
        with temporary_folder() as folder:
            path = folder / f"{generator.stem}.pt2"
            exported = export_generator(generator, path, origin=origin)
            store.registry.attach(version, run, exported.path, exported.about)
    except Exception as error:  # noqa: BLE001  (whatever it is, the promotion itself went well)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("%s is registered without an exported copy: %s", version.label, reason)


def _scored(version: ModelVersion) -> str:
    return f"{version.label}, " + (
        "chosen by hand" if version.score is None else f"score {version.score:.2f}"
    )


# -- Links in MLflow between a study, its trials and their promoted trainings ------------------


def run_of(store: Store, run_id: str | None) -> Run | None:
    """Return the run; None if it is in another store, or does not exist."""
    with contextlib.suppress(DataError):
        return store.run(run_id) if run_id else None
    return None


def study_run(handle: StudyHandle, store: Store) -> Run | None:
    """Return the study's own run."""
    return run_of(store, handle.study.user_attrs.get("mlflow_run_id"))


def link_promoted(handle: StudyHandle, source: Trial, finished: LaunchResult, store: Store) -> None:
    """Set the tags `promoted_to`, `best_score` and `best_step`, and link the three runs.

    The links are in the descriptions of the study, the trial and the promoted training.
    """
    run = store.run(finished.run_id)
    store.ship_view(run.experiment_id, promoted_view(step=finished.result.iteration))
    if finished.best_score is not None:
        run.set_tags({"best_score": finished.best_score, "best_step": finished.best_step})
    trial, study = run_of(store, source.run_id), study_run(handle, store)
    origin = [f"trial {trial.link()}"] if trial else [f"trial {source.number}"]
    origin += [f"study {study.link()}"] if study else [f"study {handle.definition.name}"]
    run.annotate("Promoted from", " of ".join(origin))
    if trial:
        trial.set_tags({"promoted_to": finished.run_id})
        trial.annotate("Promoted to", run.link())
    if study:
        found = store.search(
            handle.definition.name,
            f"tags.kind = 'promoted' and tags.study = '{handle.definition.name}'",
        )
        names = [store.run(info.id).link() for info in reversed(found)]
        study.annotate("Promoted:", ", ".join(names))
