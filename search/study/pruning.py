"""Reporting a trial's score to Optuna, and ending it when it is hopeless."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna

from cyclegan.callbacks import Callback
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport

_VERDICT = "verdicts"


class PruningCallback(Callback):
    """Reports every validation on the iteration axis; asks the trainer to stop a hopeless trial.

    From `prune_after` on a gate (not finite, collapsed, inverted) ends a trial by itself: no rival
    is needed to see that it is unusable. Before, a young generator may look like that and recover.
    """

    def __init__(self, trial: optuna.trial.Trial, *, prune_after: int) -> None:
        self.trial = trial
        self.prune_after = prune_after

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        """Report, then ask the pruner, but at the last step: then nothing is saved by pruning."""
        frozen = self.trial.study._storage.get_trial(self.trial._trial_id)
        if report.iteration not in frozen.intermediate_values:  # a resumed trial repeats some
            self.trial.report(report.score, report.iteration)
        if report.gate and report.iteration >= self.prune_after:
            trainer.request_stop(f"gate at step {report.step}: {report.gate}", outcome="pruned")
        elif trainer.step < trainer.config.steps:
            reason = self._verdict(report, frozen.user_attrs.get(_VERDICT, {}))
            if reason:
                trainer.request_stop(reason, outcome="pruned")

    def _verdict(self, report: ValidationReport, before: dict[str, str]) -> str:
        """Why the trial is hopeless, or nothing.

        A verdict is kept: Optuna's pruners remember that they judged a rung, so a trial that is
        killed right after it would not be judged there again and would go on.
        """
        key = str(report.iteration)
        if key not in before:
            reason = self._why(report) if bool(self.trial.should_prune()) else ""
            before = {**before, key: reason}
            self.trial.set_user_attr(_VERDICT, before)
        return before[key]

    def _why(self, report: ValidationReport) -> str:
        trials = self.trial.study.get_trials(deepcopy=False)
        rivals = [
            t.intermediate_values[report.iteration]
            for t in trials
            if t.number != self.trial.number and report.iteration in t.intermediate_values
        ]
        return explain(report.score, rivals, report.step)


def explain(value: float, rivals: Sequence[float], step: int) -> str:
    """Why a trial with `value` was pruned at `step`, given the rivals' values there."""
    if not rivals:
        return f"score {value:.2f} at step {step}"
    rank = 1 + sum(rival > value for rival in rivals)
    best, median = max(rivals), float(np.median(rivals))
    return (
        f"score {value:.2f} at step {step}: rank {rank} of {len(rivals) + 1} there "
        f"(best {best:.2f}, median {median:.2f}, {best - value:.2f} below the best)"
    )
