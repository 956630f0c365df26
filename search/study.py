"""Running a study: ask for values, train, report, prune, and go on after any interruption.

A study's local state lives in `studies/local/<name>/`: Optuna's journal, a copy of the definition
and a lock. Its trials train in `results/<name>/trial-<number>/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cyclegan.config import Config, load_yaml, parse_config
from cyclegan.errors import ConfigError, CycleGANError, DataError, UsageError, nearest
from cyclegan.files import write_text
from cyclegan.precision import choose_device, choose_precision
from search.console import Console
from search.definition import StudyDefinition, load_definition, parse_definition
from search.launch import Finished, Job, reopened, run_training
from search.locks import exclusive
from search.pruning import PruningCallback
from search.space import suggest
from tracking import project_root

if TYPE_CHECKING:
    from tracking import Run, Store

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_FAILURES_IN_A_ROW = 3
"""After so many the study stops: something is wrong with it, not with its trials."""


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One trial, for tables."""

    number: int
    state: str
    score: float | None
    """The last one reported."""
    step: int
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

    @property
    def results(self) -> Path:
        """Folder of its trainings."""
        return project_root() / "results" / self.definition.name

    def trials(self) -> list[TrialSummary]:
        """All its trials, by number."""
        return [_summary(t) for t in self.study.get_trials(deepcopy=False)]

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


def studies_folder() -> Path:
    """Where local study state lives."""
    return project_root() / "studies" / "local"


def known_studies() -> list[str]:
    """Names of the studies that were started here."""
    return sorted(p.parent.name for p in studies_folder().glob("*/journal.log"))


def open_study(name_or_file: str) -> OpenStudy:
    """A study that was started here, by its name or its YAML file. Errors: `UsageError`."""
    path = Path(name_or_file)
    name = load_definition(path).name if path.suffix in (".yaml", ".yml") else name_or_file
    if name not in known_studies():
        hint = nearest(name, known_studies()) if known_studies() else "none was started here yet"
        raise UsageError(f"study '{name}' was not started here; {hint}")
    folder = studies_folder() / name
    stored = folder / "study.yaml"
    definition = parse_definition(load_yaml(stored), stored)
    return OpenStudy(definition, _optuna_study(definition, folder), folder)


def definition_of(name_or_file: str) -> StudyDefinition:
    """The definition in a YAML file, or of a study that was started here."""
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return load_definition(path)
    return open_study(name_or_file).definition


def run_study(definition: StudyDefinition, *, store: Store, console: Console) -> OpenStudy:
    """Run or continue a study until it has all its trials, or is interrupted.

    Errors: `BusyError` if another process runs it; `ConfigError` if it was started with another
    definition; what a trial refuses (missing data, a full disk) stops the study where it is.
    """
    folder = studies_folder() / definition.name
    with exclusive(folder / ".lock", f"study {definition.name}"):
        opened = OpenStudy(
            _checked_against_stored(definition, folder), _optuna_study(definition, folder), folder
        )
        return _StudyRun(opened, store, console).go()


class _StudyRun:
    """One process's work on a study."""

    def __init__(self, opened: OpenStudy, store: Store, console: Console) -> None:
        self.opened, self.store, self.console = opened, store, console
        self.definition, self.study = opened.definition, opened.study
        self.interrupted = False

    def go(self) -> OpenStudy:
        first = self.definition.config_of(0, _first_values(self.definition))
        self.precision = self._precision(first)
        parent = self._parent_run()
        try:
            self._enqueue()
            failures = 0
            while not self.interrupted and (trial := self._next_trial()):
                failures = 0 if self._run_trial(trial, parent) else failures + 1
                self._update_parent(parent)
                if failures >= _FAILURES_IN_A_ROW:
                    raise CycleGANError(
                        f"study {self.definition.name}: {failures} trials in a row failed; see "
                        f"cyclegan study show {self.definition.name}"
                    )
        except BaseException as error:
            parent.finish("FAILED" if isinstance(error, Exception) else "KILLED", str(error))
            raise
        if self.interrupted:
            parent.finish("KILLED", "interrupted")
        else:
            parent.finish("FINISHED", "")
        return self.opened

    def _precision(self, first: Config) -> str:
        # Decided once: trials of one study must not differ in it.
        stored = self.study.user_attrs.get("precision")
        if stored is None:
            stored = choose_precision(first, choose_device(first.device)).precision
            self.study.set_user_attr("precision", stored)
        return str(stored)

    def _parent_run(self) -> Run:
        stored = reopened(self.store, self.study.user_attrs.get("mlflow_run_id"), self.console)
        if stored:
            return stored
        name = self.definition.name
        experiment = self.store.experiment(name, note=f"Trials of the study `{name}`.")
        run = self.store.create_run(
            name,
            name,
            kind="study",
            params={"trials": self.definition.trials, "steps": self.definition.steps},
            tags={"study": name},
        )
        run.log_text(_as_yaml(self.definition), "study.yaml")
        self.store.trials_view(experiment, list(self.definition.space))
        self.study.set_user_attr("mlflow_run_id", run.id)
        return run

    def _enqueue(self) -> None:
        for values in self.definition.enqueue:
            self.study.enqueue_trial(values, skip_if_exists=True)

    def _next_trial(self) -> optuna.trial.Trial | None:
        """A trial that was interrupted, else a new one, else None when all are done."""
        trials = self.study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state == TrialState.RUNNING:
                self.console.say(f"trial {frozen.number}: interrupted before, continuing")
                return optuna.trial.Trial(self.study, frozen._trial_id)
        finished = sum(t.state.is_finished() for t in trials)
        if finished >= self.definition.trials:
            return None
        self.study.sampler = self.definition.sampler.build(finished)
        return self.study.ask()

    def _run_trial(self, trial: optuna.trial.Trial, parent: Run) -> bool:
        values = suggest(trial, self.definition.space, self.definition.ties)
        config = self.definition.config_of(trial.number, values | {"precision": self.precision})
        trial.set_user_attr("config", json.dumps(config.to_dict()))
        self.console.say(
            f"trial {trial.number} of {self.definition.trials}: "
            + ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        )
        job = Job(
            config=config,
            folder=self.opened.trial_folder(trial.number),
            experiment=self.definition.name,
            kind="trial",
            tags={"study": self.definition.name, "trial": str(trial.number)},
            parent=parent.id,
        )
        pruning = PruningCallback(trial, prune_after=self.definition.pruner.prune_after)
        try:
            done = run_training(job, store=self.store, console=self.console, callbacks=[pruning])
        except CycleGANError:
            raise  # the surroundings are wrong, not the trial: mend them and run again
        except Exception as error:  # noqa: BLE001  (a failed trial must not end the study)
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}"[:1000])
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.console.say(f"trial {trial.number}: failed: {error}")
            return False
        self._tell(trial, done)
        return True

    def _tell(self, trial: optuna.trial.Trial, done: Finished) -> None:
        result = done.result
        trial.set_user_attr("mlflow_run_id", done.run_id)
        trial.set_user_attr("step", result.step)
        if result.outcome == "interrupted":
            self.interrupted = True
            self.console.say(f"trial {trial.number}: interrupted at step {result.step}")
            return
        trial.set_user_attr("reason", result.reason)
        pruned = result.outcome == "pruned" or result.score is None
        if pruned:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, result.score)
        self.store.run(done.run_id).set_tags({"state": "pruned" if pruned else "complete"})
        score = "no score" if result.score is None else f"score {result.score:.2f}"
        self.console.say(
            f"trial {trial.number}: " + (f"pruned: {result.reason}" if pruned else score)
        )

    def _update_parent(self, parent: Run) -> None:
        trials = self.opened.trials()
        scores = [t.score for t in trials if t.state == "complete" and t.score is not None]
        finished = sum(t.state in ("complete", "pruned", "failed") for t in trials)
        counts = {s: sum(t.state == s for t in trials) for s in ("complete", "pruned", "failed")}
        metrics = {f"trials/{state}": float(count) for state, count in counts.items()}
        if scores:
            metrics["score/best"] = max(scores)
        parent.log_metrics(metrics, step=finished)
        rows = [vars(t) | {"values": dict(t.values)} for t in trials]
        parent.log_text(json.dumps(rows, indent=1), "trials.json")


def _optuna_study(definition: StudyDefinition, folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.create_study(
        study_name=definition.name,
        storage=storage,
        direction="maximize",
        pruner=definition.pruner.build(),
        load_if_exists=True,
    )


def _checked_against_stored(definition: StudyDefinition, folder: Path) -> StudyDefinition:
    """Refuse to mix two definitions in one study; only budgets may change between runs."""
    stored = folder / "study.yaml"
    if stored.is_file():
        before = parse_definition(load_yaml(stored), stored).model_dump(mode="json")
        for key, value in definition.model_dump(mode="json").items():
            if key not in ("trials", "promote") and before[key] != value:
                raise ConfigError(
                    f"study {definition.name} was started with another '{key}'; give the changed "
                    f"study another name, or remove {folder} and {project_root() / 'results'}"
                    f"/{definition.name}"
                )
    write_text(stored, _as_yaml(definition))
    return definition


def _as_yaml(definition: StudyDefinition) -> str:
    return yaml.safe_dump(definition.model_dump(mode="json"), sort_keys=False)


def _first_values(definition: StudyDefinition) -> dict[str, Any]:
    first: dict[str, Any] = {key: dim.examples()[0] for key, dim in definition.space.items()}
    return first | {key: first[source] for key, source in definition.ties.items()}


def _summary(trial: FrozenTrial) -> TrialSummary:
    score = trial.value
    if score is None and trial.intermediate_values:
        score = trial.intermediate_values[max(trial.intermediate_values)]
    return TrialSummary(
        number=trial.number,
        state=STATES[trial.state],
        score=score,
        step=int(trial.user_attrs.get("step", max(trial.intermediate_values, default=0))),
        values=trial.params,
        reason=trial.user_attrs.get("reason", ""),
        run_id=trial.user_attrs.get("mlflow_run_id", ""),
        seconds=trial.duration.total_seconds() if trial.duration else None,
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
