"""A study on disk: its definition, its trials, its folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.config import Config, load_yaml, parse_config
from cyclegan.errors import DataError, UsageError, nearest
from search.study.definition import StudyDefinition, load_definition, parse_definition
from search.study.lease import is_held
from search.study.storage import StudyStorage, storage_for
from tracking import project_root

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One trial, for tables."""

    number: int
    state: str
    """`complete pruned failed running waiting`, or `interrupted`: begun, and nobody is at it."""
    score: float | None
    """Of a complete trial its value; of any other what its reports are worth so far."""
    step: int
    iterations: int
    """Optimisation steps spent on it."""
    values: Mapping[str, Any]
    reason: str
    run_id: str
    seconds: float | None


@dataclass(frozen=True)
class OpenStudy:
    """A study on disk, with its definition."""

    definition: StudyDefinition
    study: optuna.Study
    folder: Path
    storage: StudyStorage

    @property
    def results(self) -> Path:
        """Folder of its trainings."""
        return project_root() / "results" / self.definition.name

    def trials(self) -> list[TrialSummary]:
        """All its trials, by number."""
        return [self._summary(t) for t in self.study.get_trials(deepcopy=False)]

    def with_trials(self, count: int) -> OpenStudy:
        """The same study with another number of trials wanted."""
        return replace(self, definition=self.definition.with_trials(count))

    def best(self) -> TrialSummary:
        """The complete trial with the highest score.

        Errors: `DataError` if there is none yet.
        """
        trials, name = self.trials(), self.definition.name
        done = [t for t in trials if t.state == "complete" and t.score is not None]
        if not done and len(trials) >= self.definition.trials:
            raise DataError(
                f"study {name}: all {len(trials)} trials were pruned or failed (cyclegan study "
                f"show {name}); run more of them with --trials, or promote one with --trial"
            )
        if not done:
            raise DataError(
                f"study {name} has no complete trial yet; go on with: cyclegan study run {name}"
            )
        return max(done, key=lambda t: t.score if t.score is not None else float("-inf"))

    def config_of(self, number: int) -> Config:
        """The resolved configuration a trial was trained with."""
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
        """Where trial `number` trains."""
        return self.results / f"trial-{number:03d}"

    def _summary(self, trial: FrozenTrial) -> TrialSummary:
        score = trial.value
        if score is None:
            score = self.definition.worth(trial.intermediate_values)
        return TrialSummary(
            number=trial.number,
            state=_state(trial, self.folder),
            score=score,
            step=int(trial.user_attrs.get("step", max(trial.intermediate_values, default=0))),
            iterations=_iterations(trial),
            values=trial.params,
            reason=trial.user_attrs.get("reason", ""),
            run_id=trial.user_attrs.get("mlflow_run_id", ""),
            seconds=trial.duration.total_seconds() if trial.duration else None,
        )


def studies_folder() -> Path:
    """Where local study state lives."""
    return project_root() / "studies" / "local"


def known_studies() -> list[str]:
    """Names of the studies that were started here."""
    return sorted(p.parent.name for p in studies_folder().glob("*/study.yaml"))


def open_study(name_or_file: str, storage: str | None = None) -> OpenStudy:
    """A study that was started here, by its name or its YAML file.

    `storage` is needed only for an address with a password, which is not remembered.

    Errors: `UsageError` if it was not started here.
    """
    path = Path(name_or_file)
    name = load_definition(path).name if path.suffix in (".yaml", ".yml") else name_or_file
    if name not in known_studies():
        hint = nearest(name, known_studies()) if known_studies() else "none was started here yet"
        raise UsageError(f"study '{name}' was not started here; {hint}")
    folder = studies_folder() / name
    place = storage_for(folder, storage)
    try:
        study = optuna.load_study(study_name=name, storage=place.open())
    except KeyError:
        raise DataError(
            f"study '{name}' is not in {place.shown}; remove {folder} to start it anew"
        ) from None
    source = folder / "study.yaml"
    stored = study.user_attrs.get("definition")
    definition = parse_definition(json.loads(stored) if stored else load_yaml(source), source)
    study.pruner = definition.pruner.build(definition.steps, definition.judge_by)
    study.sampler = definition.sampler.for_study(definition.space)
    return OpenStudy(definition, study, folder, place)


def definition_of(name_or_file: str) -> StudyDefinition:
    """The definition in a YAML file, or of a study that was started here."""
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return load_definition(path)
    return open_study(name_or_file).definition


def optuna_study(definition: StudyDefinition, storage: StudyStorage) -> optuna.Study:
    """The study in its storage, made if it is not there."""
    return optuna.create_study(
        study_name=definition.name,
        storage=storage.open(),
        direction="maximize",
        sampler=definition.sampler.for_study(definition.space),
        pruner=definition.pruner.build(definition.steps, definition.judge_by),
        load_if_exists=True,
    )


def _state(trial: FrozenTrial, folder: Path) -> str:
    if trial.state == TrialState.RUNNING and not is_held(trial, folder):
        return "interrupted"
    return STATES[trial.state]


def _iterations(trial: FrozenTrial) -> int:
    """Of all its trainings; while one is running, up to its last report."""
    first = trial.user_attrs.get("iteration", max(trial.intermediate_values, default=0))
    return int(first)
