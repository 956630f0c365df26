"""Running a study: ask for values, train, report, prune, and go on after any interruption.

A study's local state lives in `studies/local/<name>/`: Optuna's journal, a copy of the definition
and a lock. Its trials train in `results/<name>/trial-<number>/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.trial import TrialState

from cyclegan.config import Config, load_yaml
from cyclegan.errors import ConfigError, CycleGANError
from cyclegan.files import write_text
from cyclegan.precision import choose_device, choose_precision
from search.console import Console
from search.launch import Finished, Job, reopened, run_training
from search.locks import exclusive
from search.study.definition import StudyDefinition, parse_definition
from search.study.opened import OpenStudy, optuna_study, studies_folder
from search.study.pruning import PruningCallback, last_reported
from search.study.space import suggest
from tracking import project_root

if TYPE_CHECKING:
    from tracking import Run, Store

_FAILURES_IN_A_ROW = 3
"""After so many the study stops: something is wrong with it, not with its trials."""


def run_study(definition: StudyDefinition, *, store: Store, console: Console) -> OpenStudy:
    """Run or continue a study until it has all its trials, or is interrupted.

    Errors: `BusyError` if another process runs it; `ConfigError` if it was started with another
    definition; what a trial refuses (missing data, a full disk) stops the study where it is.
    """
    folder = studies_folder() / definition.name
    with exclusive(folder / ".lock", f"study {definition.name}"):
        opened = OpenStudy(
            _checked_against_stored(definition, folder), optuna_study(definition, folder), folder
        )
        return _StudyRun(opened, store, console).go()


class _StudyRun:
    """One process's work on a study."""

    def __init__(self, opened: OpenStudy, store: Store, console: Console) -> None:
        self.opened, self.store, self.console = opened, store, console
        self.definition, self.study = opened.definition, opened.study
        self.interrupted = False

    def go(self) -> OpenStudy:
        first = self.definition.config_of(0, self.definition.first_values())
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
        pruning = PruningCallback(
            trial, self.definition.pruner, objective=self.definition.objective
        )
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
        value = last_reported(trial)
        pruned = result.outcome == "pruned" or value is None
        if pruned:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, value)
        self.store.run(done.run_id).set_tags({"state": "pruned" if pruned else "complete"})
        score = "no score" if value is None else f"score {value:.2f}"
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


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
