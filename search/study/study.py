"""A study on disk: its definition, its trials, its folders."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.samplers import BaseSampler

from cyclegan.config import Config, load_yaml, parse_config
from cyclegan.errors import DataError, UsageError, nearest
from search.study.definition import StudyDefinition, load_definition, parse_definition
from search.study.objective import is_minimised
from search.study.outlook import expected_gain, expected_scores, outlook, verdicts
from search.study.storage import StudyStorage, storage_for
from search.study.trials import Trial, best_of, trials_of, worth_promoting
from tracking import project_root

if TYPE_CHECKING:
    from tracking import Store

DEFINITION = "study.yaml"
"""File in a study's folder with its definition; a study that has it was begun here."""
TRACKING = "tracking"
"""Attribute of a study: address of the store with its runs; empty for the project's own."""


@dataclass(frozen=True)
class StudyHandle:
    """A study that was loaded from its storage, with its definition."""

    definition: StudyDefinition
    study: optuna.Study
    folder: Path
    storage: StudyStorage

    @property
    def results(self) -> Path:
        """Folder of the study's trainings."""
        return project_root() / "results" / self.definition.name

    def trials(self) -> list[Trial]:
        """Return all trials of the study, by number."""
        return trials_of(
            self.study.get_trials(deepcopy=False),
            self.definition.score_of_reports,
            self.folder,
            self.definition.objective,
        )

    def trials_and_chances(self) -> list[Trial]:
        """Return the trials with what is expected of them at this moment.

        That is the chance of paused ones, and the expected score of complete ones.
        """
        now, expected = verdicts(self.definition, self.study), self.expected_scores()
        return [
            replace(trial, reason=found.in_words(), verdict=found.as_dict())
            if (found := now.get(trial.number)) is not None and trial.state == "paused"
            else replace(trial, expected=expected.get(trial.number))
            for trial in self.trials()
        ]

    def expected_scores(self) -> dict[int, float]:
        """Return the scores that complete trials are expected to have in the mean of many seeds.

        By number; empty if not enough is known.
        """
        return expected_scores(self.definition, self.study)

    def expected_gain(self) -> tuple[float, float] | None:
        """Return what another trial is expected to gain, and the noise between trainings.

        Both in score; None if not enough is known.
        """
        return expected_gain(self.definition, self.study)

    def with_trials(self, count: int) -> StudyHandle:
        """Return the same study with another target number of trials."""
        return replace(self, definition=self.definition.with_trials(count))

    def recommended(self) -> list[Trial]:
        """Return the complete trials in the order in which they are worth promoting."""
        expected = self.expected_scores()
        return worth_promoting(
            replace(trial, expected=expected.get(trial.number)) for trial in self.trials()
        )

    def to_promote(self) -> Trial:
        """Return the trial that is promoted if nobody names one. Errors: those of `best`."""
        self.best()
        return self.recommended()[0]

    def best(self) -> Trial:
        """Return the complete trial with the highest score.

        Errors: `DataError` if there is none yet.
        """
        trials, name = self.trials(), self.definition.name
        best = best_of(trials)
        if best is None and len(trials) >= self.definition.trials:
            raise DataError(
                f"study {name}: all {len(trials)} trials were pruned or failed (cyclegan study "
                f"show {name}); run more of them with --trials, or promote one with --trial"
            )
        if best is None:
            raise DataError(
                f"study {name} has no complete trial yet; continue with: cyclegan study run {name}"
            )
        return best

    def config_of(self, number: int) -> Config:
        """Return the resolved configuration with which a trial was trained."""
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise UsageError(
                f"--trial {number}: study {self.definition.name} has trials 0 to {len(trials) - 1}"
            )
        stored = trials[number].user_attrs.get("config")
        if stored is None:
            raise DataError(f"trial {number} of study {self.definition.name} was never started")
        return parse_config(json.loads(stored), source=f"trial {number}")

    def trial_folder(self, number: int) -> Path:
        """Return the folder in which trial `number` trains."""
        return self.results / f"trial-{number:03d}"


def check_store(study: optuna.Study, store: Store) -> None:
    """Refuse the project's own store, which nobody named, if the study's runs are in another.

    Errors: `UsageError` with the options for both.
    """
    before = study.user_attrs.get(TRACKING)
    if before and not store.chosen and before != store.uri:
        raise UsageError(
            f"study {study.study_name}: its runs are in another store; add --tracking-uri "
            f"{shlex.quote(before)} to go on there, or --tracking-uri {shlex.quote(store.uri)} to "
            "go on here"
        )


def studies_folder() -> Path:
    """Return the folder of the local state of studies."""
    return project_root() / "studies" / "local"


def known_studies() -> list[str]:
    """Return the names of the studies that were started here."""
    return sorted(p.parent.name for p in studies_folder().glob(f"*/{DEFINITION}"))


def open_study(name_or_file: str, storage: str | None = None) -> StudyHandle:
    """Open a study that was started here, by its name or its YAML file.

    `storage` is needed only for an address with a password, which is not recorded.

    Errors: `UsageError` if it was not started here.
    """
    path = Path(name_or_file)
    name = load_definition(path).name if path.suffix in (".yaml", ".yml") else name_or_file
    if name not in known_studies():
        hint = (
            nearest(name, known_studies()) if known_studies() else "none has been started here yet"
        )
        raise UsageError(f"study '{name}' was not started here; {hint}")
    folder = studies_folder() / name
    place = storage_for(folder, storage)
    try:
        with place.explaining():
            study = optuna.load_study(study_name=name, storage=place.open())
    except KeyError:
        raise DataError(
            f"study '{name}' is not in {place.shown}; remove {folder} to start over"
        ) from None
    source = folder / DEFINITION
    stored = study.user_attrs.get("definition")
    definition = parse_definition(json.loads(stored) if stored else load_yaml(source), source)
    study.pruner = definition.pruner.build(definition.steps, definition.judge_by)
    study.sampler = _sampler(definition)
    return StudyHandle(definition, study, folder, place)


def definition_of(name_or_file: str) -> StudyDefinition:
    """Return the definition in a YAML file, or that of a study that was started here."""
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or os.path.isfile(path):  # noqa: PTH113  (any length)
        return load_definition(path)
    return open_study(name_or_file).definition


def optuna_study(definition: StudyDefinition, storage: StudyStorage) -> optuna.Study:
    """Return the study in its storage, and create it if it does not exist."""
    opened, name = storage.open(), definition.name
    sampler = _sampler(definition)
    pruner = definition.pruner.build(definition.steps, definition.judge_by)
    # Creating writes to the journal even if the study exists.
    with contextlib.suppress(KeyError):
        return optuna.load_study(study_name=name, storage=opened, sampler=sampler, pruner=pruner)
    if storage.proxy is not None and (storage.folder / DEFINITION).is_file():
        raise UsageError(f"--storage {storage.shown}: the database behind it has no study {name}")
    study = optuna.create_study(
        study_name=name,
        storage=opened,
        directions=[
            "minimize" if is_minimised(name) else "maximize" for name in definition.objective
        ],
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )
    if len(definition.objective) > 1:  # else a dashboard calls them "Objective 0" and so on
        with warnings.catch_warnings():  # its interface is experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(definition.objective))
    return study


def _sampler(definition: StudyDefinition) -> BaseSampler:
    return definition.sampler.for_study(definition.space, partial(outlook, definition))
