"""Confirm the best trials: train them again with other seeds, until one is surely the best."""

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
from search.promotion.race import Standing, standing
from search.study import StudyHandle, Trial
from search.study.objective import OBJECTIVE_NAME, ObjectiveRecord, recorded_reports
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
    own: int = 0
    """Number of the first scores by which the trial was chosen. They count only if there are no
    others."""

    @property
    def counting(self) -> list[float]:
        """The scores that count."""
        return [s.score for s in self.scores[self.own :] or self.scores]

    @property
    def mean(self) -> float:
        """Mean of the scores that count."""
        return float(np.mean(self.counting))

    @property
    def spread(self) -> float:
        """Standard deviation between the seeds that count; NaN for a single one."""
        return float(np.std(self.counting, ddof=1)) if len(self.counting) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The result of a confirmation: the leader first, then the others by their means."""

    trials: tuple[ConfirmedTrial, ...]
    seeds: tuple[int, ...]
    """All seeds, in the order of the rounds."""
    own: int
    """Number of the seeds that the study trained itself."""

    @property
    def standing(self) -> Standing:
        """The state of the race."""
        scores = {t.trial: {s.seed: s.score for s in t.scores} for t in self.trials}
        return standing(scores, self.seeds, self.own)

    @property
    def complete(self) -> bool:
        """True if the race is over; otherwise the same command continues."""
        return self.standing.due is None

    def data(self) -> dict[str, Any]:
        """Return the result as plain values."""
        state = self.standing
        return {
            "complete": self.complete,
            "trials": [
                {
                    "trial": t.trial,
                    "scores": [vars(s) for s in t.scores],
                    "mean": t.mean,
                    "spread": finite_or_none(t.spread),
                    "chance": state.chances.get(t.trial),
                    "racing": t.trial in state.racing,
                }
                for t in self.trials
            ],
            "sureness": state.sureness,
        }

    def text(self) -> str:
        """Return the result as a table with the verdict."""
        seeds, chances = sorted({s.seed for t in self.trials for s in t.scores}), self.chances
        rows = []
        for t in self.trials:
            known = {s.seed: f"{s.score:.2f}" for s in t.scores}
            spread = "" if math.isnan(t.spread) else f"{t.spread:.2f}"
            cells = [known.get(seed, "") for seed in seeds]
            rows.append([str(t.trial), *cells, f"{t.mean:.2f}", spread, chances.get(t.trial, "")])
        header = ["trial", *(f"seed {seed}" for seed in seeds), "mean", "spread", "chance"]
        return "\n".join([table(header, rows), *([self.verdict()] if self.complete else [])])

    @property
    def chances(self) -> dict[int, str]:
        """The chance of each trial but the leader to be better than it, as text."""
        return {n: f"{100 * chance:.0f} %" for n, chance in self.standing.chances.items()}

    def verdict(self) -> str:
        """Return the winner, and how sure that is."""
        state, first = self.standing, self.trials[0]
        if len(self.trials) == 1:
            return f"trial {first.trial}: mean {first.mean:.2f}"
        if state.sureness is None:
            return (
                f"trial {first.trial} has the highest score; one training each says nothing about "
                "the noise between seeds"
            )
        trained = sum(len(t.scores) for t in self.trials)
        most = len(self.trials) * len(self.seeds)
        spared = f", after {trained} of {most} trainings" if trained < most else ""
        percent = f"{100 * state.sureness:.0f} %" if state.sureness < 0.99 else "over 99 %"
        sure = f"trial {first.trial} is the best of these with {percent}{spared}"
        if len(state.racing) == 1:
            return sure
        left = ", ".join(str(number) for number in state.racing[1:])
        return f"{sure}; trial {left} may well be as good: more seeds would tell more"


def parse_confirm(text: str) -> tuple[int, int]:
    """Parse `3x2`: the best 3 trials with 2 seeds each. Errors: `UsageError`."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
    if not found:
        raise UsageError(f"--confirm {text}: give TRIALSxSEEDS, e.g. --confirm 3x2")
    return int(found[1]), int(found[2])


def confirm(
    handle: StudyHandle, *, top: int, seeds: int, store: Store, console: Console
) -> Confirmation:
    """Race the best `top` trials with at most `seeds` seeds each (see `search.promotion.race`).

    A trial's own training is its first. The others take the following seeds, start afresh and have
    the study's steps. Complete trainings are not repeated, so after an interruption (the result is
    then not complete) the same call continues.

    Errors: `DataError` if fewer trials are complete.
    """
    chosen = best_trials(handle, top)
    say_left_elsewhere(handle, chosen[0], store, console)
    first = handle.config_of(chosen[0].number).seed
    rounds = tuple(range(first, first + seeds))
    results = {t.number: _own_scores(handle, t, seeds) for t in chosen}
    own = min(len(scores) for scores in results.values())
    while (state := (found := _result(results, rounds, own)).standing).due is not None:
        for number in state.racing:
            if all(s.seed != state.due for s in results[number]):
                trial = next(t for t in chosen if t.number == number)
                score = _train(handle, trial, state.due, store, console)
                if score is None:
                    return _result(results, rounds, own)
                results[number].append(score)
        _say_dropped(console, state, _result(results, rounds, own).standing)
    _annotate(handle, found, store)
    return found


def _say_dropped(console: Console, before: Standing, after: Standing) -> None:
    """Say which trials have dropped out of the race."""
    for number in sorted(set(before.racing) - set(after.racing)):
        chance = 100 * after.chances[number]
        console.say(
            f"confirm: trial {number} drops out: {chance:.1f} % chance to be better than trial "
            f"{after.racing[0]}"
        )


def best_trials(handle: StudyHandle, count: int) -> Sequence[Trial]:
    """Return the `count` complete trials that are expected to be best.

    Errors: `DataError` if there are fewer.
    """
    done = handle.recommended()
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
    record = ObjectiveRecord(path, (definition.first_objective,))
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


def _result(results: dict[int, list[SeedScore]], seeds: tuple[int, ...], own: int) -> Confirmation:
    trials = {
        number: ConfirmedTrial(
            trial=number,
            scores=tuple(sorted(scores, key=lambda s: s.seed)),
            own=own if own < len(seeds) else 0,
        )
        for number, scores in results.items()
    }
    state = Confirmation(trials=tuple(trials.values()), seeds=seeds, own=own).standing
    rest = sorted(set(trials) - set(state.racing), key=lambda n: -trials[n].mean)
    ordered = tuple(trials[number] for number in (*state.racing, *rest))
    return Confirmation(trials=ordered, seeds=seeds, own=own)


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
