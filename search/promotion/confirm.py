"""Confirm the best trials: train them again with other seeds, to see which is best on average."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cyclegan.config import Config, override, parse_config
from cyclegan.errors import DataError, DivergedError, UsageError
from cyclegan.numbers import finite_or_none
from cyclegan.score import GATED
from search.launch import Job, recorded_run, run_training
from search.promotion import lineage
from search.promotion.promote import check_same_data, say_left_elsewhere
from search.study import StudyHandle, Trial
from search.study.objective import OBJECTIVE_NAME, ObjectiveRecord, recorded_reports
from search.study.trials import complete
from tracking.views import promoted_view
from viz.console import Console
from viz.text import table

if TYPE_CHECKING:
    from tracking import Store


@dataclass(frozen=True, kw_only=True)
class SeedScore:
    """The score of one training of a trial's configuration."""

    seed: int
    score: float
    run_id: str


@dataclass(frozen=True, kw_only=True)
class ConfirmedTrial:
    """One trial with the scores of its trainings."""

    trial: int
    scores: tuple[SeedScore, ...]

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return float(np.mean([s.score for s in self.scores]))

    @property
    def spread(self) -> float:
        """Standard deviation between seeds; NaN for a single one."""
        values = [s.score for s in self.scores]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The result of a confirmation, with the highest mean first."""

    trials: tuple[ConfirmedTrial, ...]
    wanted: int
    """Number of trainings asked for, over all trials."""

    @property
    def complete(self) -> bool:
        """True if every training has ended; otherwise the same command continues."""
        return sum(len(t.scores) for t in self.trials) == self.wanted

    @property
    def lead(self) -> float:
        """Lead of the winner's mean over the second's; NaN without a second."""
        return self.trials[0].mean - self.trials[1].mean if len(self.trials) > 1 else math.nan

    @property
    def lead_error(self) -> float:
        """Standard error of the lead: sqrt(s1^2/n1 + s2^2/n2); NaN with single trainings."""
        if len(self.trials) < 2:
            return math.nan
        parts = [t.spread**2 / len(t.scores) for t in self.trials[:2]]
        return math.sqrt(sum(parts))

    def data(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "complete": self.complete,
            "trials": [
                {
                    "trial": t.trial,
                    "scores": [vars(s) for s in t.scores],
                    "mean": t.mean,
                    "spread": finite_or_none(t.spread),
                }
                for t in self.trials
            ],
            "lead": finite_or_none(self.lead),
            "lead_error": finite_or_none(self.lead_error),
        }

    def text(self) -> str:
        """Return the result as a table with the verdict."""
        seeds = sorted({s.seed for t in self.trials for s in t.scores})
        rows = []
        for t in self.trials:
            known = {s.seed: f"{s.score:.2f}" for s in t.scores}
            spread = "" if math.isnan(t.spread) else f"{t.spread:.2f}"
            cells = [known.get(seed, "") for seed in seeds]
            rows.append([str(t.trial), *cells, f"{t.mean:.2f}", spread])
        header = ["trial", *(f"seed {seed}" for seed in seeds), "mean", "spread"]
        return "\n".join([table(header, rows), *([self.verdict()] if self.complete else [])])

    def verdict(self) -> str:
        """Return the winner, and whether its lead is larger than the noise."""
        first = self.trials[0]
        if math.isnan(self.lead):
            return f"trial {first.trial}: mean {first.mean:.2f}"
        begin = f"trial {first.trial} leads trial {self.trials[1].trial} by {self.lead:.2f}"
        if math.isnan(self.lead_error):
            return f"{begin}; one training each says nothing about the noise between seeds"
        if self.lead > self.lead_error:
            return f"{begin}, more than the difference's standard error of {self.lead_error:.2f}"
        return (
            f"{begin}, less than the difference's standard error of {self.lead_error:.2f}: they "
            "may well be equal; more seeds would tell more"
        )


def parse_confirm(text: str) -> tuple[int, int]:
    """Parse `3x2`: the best 3 trials with 2 seeds each. Errors: `UsageError`."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
    if not found:
        raise UsageError(f"--confirm {text}: give TRIALSxSEEDS, e.g. --confirm 3x2")
    return int(found[1]), int(found[2])


def confirm(
    handle: StudyHandle, *, top: int, seeds: int, store: Store, console: Console
) -> Confirmation:
    """Train the best `top` trials until each has been trained with `seeds` seeds.

    A trial's own training is its first. The others take the following seeds, start afresh and have
    the study's steps. Complete trainings are not repeated, so after an interruption (the result is
    then not complete) the same call continues.

    Errors: `DataError` if fewer trials are complete.
    """
    chosen = best_trials(handle, top)
    say_left_elsewhere(handle, chosen[0], store, console)
    results = {t.number: _own_scores(handle, t, seeds) for t in chosen}
    for trial in chosen:
        first = handle.config_of(trial.number).seed
        for seed in range(first, first + seeds):
            if all(s.seed != seed for s in results[trial.number]):
                score = _train(handle, trial, seed, store, console)
                if score is None:
                    return _result(results, top * seeds)
                results[trial.number].append(score)
    confirmation = _result(results, top * seeds)
    _annotate(handle, confirmation, store)
    return confirmation


def best_trials(handle: StudyHandle, count: int) -> Sequence[Trial]:
    """Return the `count` complete trials with the highest scores.

    Errors: `DataError` if there are fewer.
    """
    done = complete(handle.trials())
    if len(done) < count:
        more = max(handle.definition.trials, len(handle.trials()) + count - len(done))
        raise DataError(
            f"study {handle.definition.name} has {len(done)} complete trials, but you asked for "
            f"{count}; ask for fewer, or run more: cyclegan study run {handle.definition.name} "
            f"--trials {more}"
        )
    return done[:count]


def _own_scores(handle: StudyHandle, trial: Trial, seeds: int) -> list[SeedScore]:
    """Return the study's own trainings of this trial, as far as their seeds count."""
    first = handle.config_of(trial.number).seed
    attributes = handle.study.get_trials(deepcopy=False)[trial.number].user_attrs
    own = [
        SeedScore(seed=item["seed"], score=item["score"], run_id=item["run_id"])
        for item in attributes.get("seeds", ())
        if item["score"] is not None
    ]
    if not own and trial.score is not None:
        own = [SeedScore(seed=first, score=trial.score, run_id=trial.run_id)]
    return [s for s in own if first <= s.seed < first + seeds]


def _train(
    handle: StudyHandle, trial: Trial, seed: int, store: Store, console: Console
) -> SeedScore | None:
    """Train the trial with that seed; None if it is interrupted, score `GATED` if it diverges."""
    name = f"confirm-{trial.number:03d}-seed-{seed}"
    config = _with_seed(handle, trial.number, seed, f"{handle.definition.name}-{name}")
    check_same_data(handle, config)
    job = Job(
        config=config,
        folder=handle.results / name,
        experiment=handle.definition.name,
        kind="confirm",
        tags={"study": handle.definition.name, "trial": str(trial.number), "seed": str(seed)},
        parent=handle.study.user_attrs.get("mlflow_run_id"),
    )
    console.say(f"confirm: trial {trial.number} with seed {seed}")
    definition, path = handle.definition, job.folder / OBJECTIVE_NAME
    record = ObjectiveRecord(path, definition.objective)
    try:
        finished = run_training(job, store=store, console=console, callbacks=[record])
    except DivergedError as error:
        # A confirmation is there to find values that break with another seed.
        console.say(f"confirm: {error}")
        return SeedScore(seed=seed, score=GATED, run_id=recorded_run(job.folder))
    if finished.result.outcome == "interrupted":
        return None
    score = definition.score_of_reports(recorded_reports(path))
    return SeedScore(seed=seed, score=GATED if score is None else score, run_id=finished.run_id)


def _with_seed(handle: StudyHandle, trial: int, seed: int, run_name: str) -> Config:
    changes = {"seed": seed, "run_name": run_name}
    values = override(handle.config_of(trial).to_dict(), changes)
    return parse_config(values, source=f"trial {trial} with seed {seed}")


def _result(results: dict[int, list[SeedScore]], wanted: int) -> Confirmation:
    trials = [
        ConfirmedTrial(trial=number, scores=tuple(sorted(scores, key=lambda s: s.seed)))
        for number, scores in results.items()
        if scores
    ]
    return Confirmation(trials=tuple(sorted(trials, key=lambda t: -t.mean)), wanted=wanted)


def _annotate(handle: StudyHandle, confirmation: Confirmation, store: Store) -> None:
    """Write the table's content, with links, to the description of the study's run."""
    study = lineage.study_run(handle, store)
    if study is None:
        return
    store.ship_view(study.experiment_id, promoted_view())
    lines = []
    for t in confirmation.trials:
        runs = [(s, lineage.run_of(store, s.run_id)) for s in t.scores]
        linked = [f"{s.score:.2f} {run.link() if run else ''}".strip() for s, run in runs]
        lines.append(f"trial {t.trial} mean {t.mean:.2f} ({', '.join(linked)})")
    study.annotate("Confirmed:", "; ".join(lines) + ". " + confirmation.verdict() + ".")
