"""Report a trial's scores to Optuna, and end or pause the trial if it is hopeless."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.callbacks import Callback
from cyclegan.events import Outcome
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport
from search.study import pruners
from search.study.judging import JudgedBy
from search.study.objective import Further, values_of
from search.study.pruners import Pruner, Verdict, bracket_of

_JUDGED = "verdicts"
"""User attribute: the reason for pruning, by iteration; empty where the trial passed."""
VERDICT = "verdict"
"""User attribute: the judgement that ended the trial, as returned by `Verdict.as_dict`."""
VALUES = "values"
"""User attribute of a trial with several objectives: the values of its reports, by iteration."""
GATE = "gate"
"""Name of the constraint that an unusable generator breaks, for Optuna's samplers."""
Pauser = Callable[[FrozenTrial, int], Verdict | None]
"""Returns the reason to pause a trial at a training step, or None."""


class PruningCallback(Callback):
    """Reports every validation by iteration, and asks the trainer to stop a hopeless trial.

    From `prune_after` on a gate (not finite, collapsed, inverted) ends a trial by itself, because
    such a trial is unusable whatever its rivals reach. Before that, a young generator may fail a
    gate and recover.

    With the pruner `thaw`, `pauser` decides. A trial that it stops is not pruned but interrupted,
    and `paused` says so.
    """

    def __init__(
        self,
        trial: optuna.trial.Trial,
        pruner: Pruner,
        *,
        objectives: Sequence[Further] = ("score",),
        judge_by: JudgedBy = "best",
        gates: bool = True,
        pauser: Pauser | None = None,
    ) -> None:
        self.trial = trial
        self.pruner = pruner
        self.objectives = objectives
        self.judge_by = judge_by
        self.gates = gates
        self.pauser = pauser
        self.paused = False

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Report the score and ask the pruner; not at the last step, when pruning saves nothing."""
        values = values_of(report, self.objectives)
        if report.iteration not in self._frozen().intermediate_values:  # a resumed one repeats some
            report_values(self.trial, values, report.iteration)
        if self.gates and report.gate and report.iteration >= self.pruner.prune_after:
            found = pruners.gated(values[0], report.gate, step=report.step)
            self.trial.set_user_attr(VERDICT, found.as_dict())
            trainer.request_stop(found.in_words(), outcome="pruned")
        elif self.pruner.name != "none" and trainer.step < trainer.config.steps:
            reason = self._judged(report)
            self.paused = bool(reason) and self.pruner.name == "thaw"
            if reason:
                outcome: Outcome = "interrupted" if self.paused else "pruned"
                trainer.request_stop(reason, outcome=outcome)

    def _judged(self, report: ValidationReport) -> str:
        """Return the reason why the trial is hopeless, or an empty string.

        A judgement is stored. Optuna's pruners remember which rungs they have judged, so otherwise
        a trial killed right after a judgement would not be judged there again, and would continue.
        """
        frozen = self._frozen()
        known: dict[str, str] = frozen.user_attrs.get(_JUDGED, {})
        key = str(report.iteration)
        if key not in known:
            found = self._judge(frozen, report.step)
            if found:
                self.trial.set_user_attr(VERDICT, found.as_dict())
            known = {**known, key: found.in_words() if found else ""}
            self.trial.set_user_attr(_JUDGED, known)
        return known[key]

    def _judge(self, frozen: FrozenTrial, step: int) -> Verdict | None:
        """Return the verdict if the trial is to be pruned at its last report, else None."""
        if self.pruner.name in ("successive_halving", "hyperband"):
            return self._judge_at_rungs(frozen, step)
        if self.pruner.name == "thaw":
            early = max(frozen.intermediate_values) < self.pruner.prune_after
            return None if early or self.pauser is None else self.pauser(frozen, step)
        if not self._should_prune():
            return None
        values = [frozen.intermediate_values[at] for at in sorted(frozen.intermediate_values)]
        if self.pruner.name in ("median", "percentile"):
            rivals = self._complete_at(max(frozen.intermediate_values))
            if self.pruner.name == "median":
                return pruners.median(values, rivals, step=step)
            share = self.pruner.keep_percent
            return pruners.percentile(values, rivals, keep_percent=share, step=step)
        if self.pruner.name == "patience":
            return pruners.patience(
                values, patience=self.pruner.patience, min_delta=self.pruner.min_delta, step=step
            )
        assert self.pruner.lower is not None
        return pruners.threshold(values[-1], lower=self.pruner.lower, step=step)

    def _judge_at_rungs(self, frozen: FrozenTrial, step: int) -> Verdict | None:
        due = self._rungs_due(frozen)
        before = self._trials() if due else []
        done = len(pruners.rungs_done(frozen.system_attrs))
        if done - 1 in due:  # judged by a process that was killed before it stored the verdict
            found = self._at_rung(frozen, step, before)
            if _fails(found):
                return found
        if not self._should_prune():
            return None
        found = self._at_rung(self._frozen(), step, self._trials())
        # The pruner did not see a rival that came while it decided.
        return found if _fails(found) else self._at_rung(self._frozen(), step, before)

    def _should_prune(self) -> bool:
        return bool(self.trial.should_prune())  # may be a NumPy bool

    def _rungs_due(self, frozen: FrozenTrial) -> list[int]:
        """Return the numbers of the rungs that the last report is the first to reach."""
        *earlier, last = sorted(frozen.intermediate_values)
        start = earlier[-1] if earlier else 0
        rungs = self.pruner.rungs(last + 1, self._bracket(frozen))
        return [number for number, at in enumerate(rungs) if start < at <= last]

    def _at_rung(self, frozen: FrozenTrial, step: int, trials: Sequence[FrozenTrial]) -> Verdict:
        """Judge the trial at the last rung that Optuna recorded for it."""
        mine, bracket = pruners.rungs_done(frozen.system_attrs), self._bracket(frozen)
        rung = len(mine) - 1
        key = pruners.rung_key(rung)
        rivals = [
            float(other.system_attrs[key])
            for other in trials
            if other.number != frozen.number
            and key in other.system_attrs
            and self._bracket(other) == bracket
        ]
        return pruners.halving(
            mine[rung],
            rivals,
            reduction_factor=self.pruner.reduction_factor,
            step=step,
            rung=rung,
            bracket=bracket if self.pruner.name == "hyperband" else None,
            so_far=self.judge_by == "best",
        )

    def _trials(self) -> list[FrozenTrial]:
        return self.trial.study.get_trials(deepcopy=False)

    def _complete_at(self, iteration: int) -> list[float]:
        """Return the values of complete trials at this iteration."""
        trials = self.trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        curves = (trial.intermediate_values for trial in trials)
        return [float(curve[iteration]) for curve in curves if iteration in curve]

    def _bracket(self, trial: FrozenTrial) -> int:
        return bracket_of(self.trial.study.pruner, self.trial.study, trial)

    def _frozen(self) -> FrozenTrial:
        return self.trial.study._storage.get_trial(self.trial._trial_id)


def report_values(trial: optuna.trial.Trial, values: Sequence[float], iteration: int) -> None:
    """Store a report: the first value as Optuna's, all values beside it if there are several.

    `Trial.report` refuses studies with several objectives, because Optuna's pruners can't judge
    them. The curve of the first objective is of use without a pruner, too.
    """
    if len(trial.study.directions) == 1:
        trial.report(values[0], iteration)
        return
    known = trial.user_attrs.get(VALUES, {})
    trial.set_user_attr(VALUES, {**known, str(iteration): list(values)})
    # Last, because a report that is there is not made again.
    trial.study._storage.set_trial_intermediate_value(trial._trial_id, iteration, values[0])


def note_gate(trial: optuna.trial.Trial, *, usable: bool) -> None:
    """Tell Optuna's samplers whether the trial's generator passes the gates.

    A study of an earlier version, whose finished trials say nothing about it, stays without: the
    Gaussian process of Optuna wants all or none.
    """
    before = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    mine = trial.study._storage.get_trial(trial._trial_id)
    if GATE not in mine.constraints and all(GATE in other.constraints for other in before):
        trial.set_constraint(GATE, -1.0 if usable else 1.0)


def reports_of(trial: optuna.trial.Trial) -> dict[int, float]:
    """Return a trial's reports by iteration, fresh from the storage."""
    return trial.study._storage.get_trial(trial._trial_id).intermediate_values


def _fails(verdict: Verdict) -> bool:
    return verdict.margin is not None and verdict.margin < 0
