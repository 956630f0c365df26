"""Check whether trials were long enough: do their scores rank the results of full trainings?

The measure is Spearman's rank correlation, with the chance that unrelated rankings correlate as
much: exact over all permutations for few trials, over 9,999 random ones for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import DataError
from search.study import StudyHandle

if TYPE_CHECKING:
    from tracking import RunInfo, Store

AT_LEAST = 3
"""Smallest number of promoted trials for which a correlation is computed."""
FEW = 6
"""Number of trials below which even a perfect agreement is weak evidence."""
_PERMUTATIONS = 9_999


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A promoted trial: its own scores, and the score of its full training."""

    trial: int
    judged: float | None
    """The trial's score at its first report from `prune_after` on; None without such a report."""
    last: float
    """The trial's score at its end."""
    full: float
    """Best score of the promoted training's own steps, without those of the trial."""
    steps: int
    """Optimisation steps of the promoted training."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation, and the one-sided chance of a value this high."""

    rho: float
    p: float
    n: int

    @property
    def text(self) -> str:
        """The correlation as text, such as `rho = 0.80 (n = 4, p = 0.17)`."""
        return f"rho = {self.rho:.2f} (n = {self.n}, p = {self.p:.2g})"


@dataclass(frozen=True, kw_only=True)
class Screening:
    """The evidence of the promoted trials on a study's number of steps."""

    study: str
    pairs: tuple[Pair, ...]
    judged_at: int
    """Number of steps after which the study first judges."""
    last_at: int
    """Number of steps of a trial."""
    judged: Correlation | None
    last: Correlation | None
    """None with fewer than three trials, or equal scores."""

    def data(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "n": len(self.pairs),
            "pairs": [vars(pair) for pair in self.pairs],
            "judged_at": self.judged_at,
            "last_at": self.last_at,
            "judged": vars(self.judged) if self.judged else None,
            "last": vars(self.last) if self.last else None,
        }

    def text(self) -> str:
        """Return the result as a few lines of text."""
        n = len(self.pairs)
        if n < AT_LEAST:
            return (
                f"screening: a rank correlation with full trainings needs {AT_LEAST} promoted "
                f"trials, not {n}; promote more: cyclegan promote {self.study} --top {AT_LEAST}"
            )
        lines = ["screening: rank correlation of a trial's score with its full training's best"]
        for where, found in ((self.judged_at, self.judged), (self.last_at, self.last)):
            shown = found.text if found else "not defined"
            lines.append(f"  at step {where}: {shown}")
        notes = ["only promoted trials count, all of them good; ranking all trials would be easier"]
        if n < FEW:
            notes.insert(0, f"{n} trials are few: even a perfect ranking is weak evidence")
        if len({pair.steps for pair in self.pairs}) > 1:
            notes.append("the full trainings have different numbers of steps")
        return "\n".join([*lines, *(f"  {note}" for note in notes)])


def summary(handle: StudyHandle, store: Store) -> Screening:
    """Compare the promoted trainings of a study with its trials."""
    definition = handle.definition
    pairs = tuple(_pairs(handle, _promoted(handle, store), store))
    judged = [(pair.judged, pair.full) for pair in pairs if pair.judged is not None]
    return Screening(
        study=definition.name,
        pairs=pairs,
        judged_at=definition.pruner.prune_after,
        last_at=definition.steps,
        judged=correlate([a for a, _ in judged], [b for _, b in judged]),
        last=correlate([pair.last for pair in pairs], [pair.full for pair in pairs]),
    )


def correlate(screening: Sequence[float], full: Sequence[float]) -> Correlation | None:
    """Return Spearman's rho and its one-sided p; None for under three pairs or equal scores."""
    if len(screening) < AT_LEAST or len(set(screening)) < 2 or len(set(full)) < 2:
        return None
    from scipy.stats import permutation_test, rankdata

    ours, theirs = (rankdata(values) - (len(values) + 1) / 2 for values in (screening, full))
    norm = float(np.sqrt((ours**2).sum() * (theirs**2).sum()))

    def rho(ranks: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        products: NDArray[np.float64] = (ranks * theirs).sum(axis=axis)
        return products / norm

    test = permutation_test(
        (ours,),
        rho,
        permutation_type="pairings",
        alternative="greater",
        n_resamples=_PERMUTATIONS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return Correlation(rho=float(test.statistic), p=float(test.pvalue), n=len(screening))


def _promoted(handle: StudyHandle, store: Store) -> dict[int, RunInfo]:
    """Return the newest complete promoted run of every trial."""
    name = handle.definition.name
    try:
        found = store.search(name, f"tags.kind = 'promoted' and tags.study = '{name}'")
    except DataError:  # no such experiment in this store
        return {}
    complete = [run for run in found if run.tags.get("outcome") == "completed"]
    return {int(run.tags["trial"]): run for run in reversed(complete)}


def _pairs(handle: StudyHandle, runs: dict[int, RunInfo], store: Store) -> list[Pair]:
    trials = handle.study.get_trials(deepcopy=False)
    pairs = []
    for summary_ in handle.trials():
        run = runs.get(summary_.number)
        if run is None or summary_.score is None:
            continue
        reports = trials[summary_.number].intermediate_values
        first = min((s for s in reports if s >= handle.definition.pruner.prune_after), default=None)
        until = {s: v for s, v in reports.items() if first is not None and s <= first}
        # Not the score of the best generator: that may be the trial's own, and agree with itself.
        reached = store.run(run.id).history("score")
        if not reached:
            continue
        pairs.append(
            Pair(
                trial=summary_.number,
                judged=handle.definition.score_of_reports(until),
                last=summary_.score,
                full=max(reached.values()),
                steps=round(run.metrics.get("step", 0)),
            )
        )
    return pairs
