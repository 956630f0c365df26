"""The importance of each searched key, by PED-ANOVA.

Watanabe, Bansal, Hutter: PED-ANOVA (IJCAI 2023), as implemented in Optuna: it compares where the
best complete trials lie along one key with where all complete trials lie.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from cyclegan.errors import DataError
from search.study.study import StudyHandle
from search.study.trials import FINISHED, Trial
from viz import units
from viz.text import can_draw_blocks, short_names, table

FEWEST = 4
"""Smallest number of complete trials for which importance is computed."""
_ENOUGH_AT_TOP = 5
"""Number of trials that should be among the best ones, according to Optuna."""
_QUANTILE, _WIDEST_QUANTILE = 0.1, 0.5
_BAR = 30


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares by key, largest first; they sum to 1."""

    shares: dict[str, float]
    trials: int
    """Number of complete trials from which the shares were computed."""
    top: int
    """Number of those that count as the best."""

    @property
    def caution(self) -> str:
        """A warning if there are too few trials for reliable shares, otherwise empty."""
        wanted = max(10 * len(self.shares), 2 * _ENOUGH_AT_TOP)
        if self.trials >= wanted:
            return ""
        keys = units.count(len(self.shares), "key")
        return (
            f"{self.trials} complete trials say little about {keys}: take it as a hint "
            f"(about {wanted} or more would tell more)"
        )


def importance(handle: StudyHandle) -> Importance:
    """Return the importance of every searched key over the complete trials.

    The best trials are the top tenth, but at least five and at most half of them. With Optuna's
    default, the top tenth, a single stray trial would decide among a dozen.

    Errors: `DataError` if there are too few complete trials or their scores are all the same.
    """
    records = handle.trials()
    scores = [r.score for r in records if r.state == "complete" and r.score is not None]
    name = handle.definition.name
    if len(scores) < FEWEST:
        raise DataError(
            f"study {name} has {len(scores)} complete trials; importance needs {FEWEST} or more"
            + _way_out(records, handle.definition.trials, name)
        )
    if min(scores) == max(scores):
        raise DataError(
            f"study {name}: all {len(scores)} complete trials have the score {scores[0]:.2f}; "
            "they do not show which keys matter"
        )
    quantile = max(_QUANTILE, min(_WIDEST_QUANTILE, _ENOUGH_AT_TOP / len(scores)))
    with warnings.catch_warnings():  # `caution` warns of too few trials
        warnings.simplefilter("ignore")
        shares = get_param_importances(
            handle.study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile)
        )
    ranked = dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
    top = math.ceil(quantile * len(scores))
    if len(handle.definition.objective) == 1:  # trials as good as the last of them count, too
        cutoff = sorted(scores, reverse=True)[top - 1]
        top = sum(score >= cutoff for score in scores)
    return Importance(shares=ranked, trials=len(scores), top=top)


def importance_data(handle: StudyHandle, found: Importance) -> dict[str, object]:
    """Return the importance as plain values."""
    return {
        "study": handle.definition.name,
        "evaluator": "ped_anova",
        "complete_trials": found.trials,
        "best_trials": found.top,
        "importance": found.shares,
        "caution": found.caution,
    }


def importance_text(found: Importance) -> str:
    """Return the importance as text with a bar for each key."""
    block = "█" if can_draw_blocks(sys.stdout) else "#"
    names = short_names(list(found.shares))
    largest = max(found.shares.values())
    rows = []
    for key, share in found.shares.items():
        length = round(_BAR * share / largest) if largest else 0
        rows.append([names[key], f"{share:.2f}", (block * length).ljust(_BAR)])
    lines = [table(["key", "share", "".ljust(_BAR)], rows)]
    lines.append(f"\nfrom the {found.top} best of {found.trials} complete trials (PED-ANOVA)")
    return "\n".join([*lines, *([found.caution] if found.caution else [])])


def _way_out(records: list[Trial], wanted: int, name: str) -> str:
    finished = sum(r.state in FINISHED for r in records)
    if finished < wanted:
        return f"; continue with: cyclegan study run {name}"
    return f"; run more: cyclegan study run {name} --trials {wanted + 10}"
