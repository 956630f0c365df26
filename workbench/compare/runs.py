"""The runs to compare, each with its scores and its outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cyclegan.errors import UsageError
from cyclegan.score import GATED
from tracking import RunInfo
from tracking.retention import kind_of
from workbench.runs.listing import steps_of

if TYPE_CHECKING:
    from tracking import Run, Store

FEWEST, MOST = 2, 8
PARTS = (
    *("pseudo_pair_gain_db", "spectrum_distance_db", "sliced_wasserstein", "shell_gain"),
    *("checkerboard", "contrast", "lowpass_correlation", "pseudo_pair_fitted_gain_db", "shell_gap"),
    *("cross_half_gain_db", "noise_in_cycle_db", "cycle_fragility_db"),
)
"""Parts of the score, and the metrics beside it; in MLflow they are called `score/...`."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run with the history of its score."""

    number: int
    """Place on the command line, from 1."""
    info: RunInfo
    run: Run
    curve: Mapping[int, float] = field(default_factory=dict)
    """Score by iteration."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Parts of the score at the validation that counts, by their names in MLflow."""

    @property
    def name(self) -> str:
        """Number and name, which together are unique."""
        return f"{self.number} {self.info.name}"

    @property
    def is_enhancement(self) -> bool:
        """True if the run applied a generator instead of training one."""
        return kind_of(self.info) == "enhance"

    @property
    def judged(self) -> int | None:
        """Iteration of the validation that counts; None without a score."""
        return judged_iteration(self.curve, self.info.metrics.get("score/value"))

    @property
    def score(self) -> float | None:
        """Score of a trial in its study, else the best score of a usable generator."""
        value = self.info.metrics.get("score/value")
        if value is not None or self.judged is None:
            return value
        return self.curve[self.judged]

    @property
    def outcome(self) -> str:
        """Outcome in one word, or `running`."""
        if self.info.status in ("RUNNING", "SCHEDULED"):
            return "running"
        return self.info.tags.get("outcome") or self.info.status.lower()

    @property
    def reason(self) -> str:
        """Reason for the outcome; empty if the run did all its steps."""
        return " ".join(self.info.tags.get("reason", "").split())

    @property
    def steps(self) -> int | None:
        """Training step that the run reached."""
        return steps_of(self.info)

    @property
    def seconds(self) -> float:
        """Seconds from the start to the end, or to now."""
        end = round(1000 * time.time()) if self.info.end_ms is None else self.info.end_ms
        return max(0.0, (end - self.info.start_ms) / 1000)


def judged_iteration(curve: Mapping[int, float], value: float | None = None) -> int | None:
    """Return the last iteration with the score `value`, else the one with the best usable score.

    A score is usable if no gate failed. A value over several seeds is a mean, which the curve does
    not contain.
    """
    same = [at for at, score in curve.items() if score == value]
    if same:
        return max(same)
    usable = {at: score for at, score in curve.items() if score > GATED} or curve
    return max(usable, key=lambda at: usable[at], default=None)


def find_runs(store: Store, names: Sequence[str]) -> list[ComparedRun]:
    """Return the runs with these names, in the order given.

    Errors: `UsageError` for fewer than two or more than eight; those of `Store.find_run`.
    """
    if not FEWEST <= len(names) <= MOST:
        raise UsageError(
            f"compare takes {FEWEST} to {MOST} runs, not {len(names)}; "
            "cyclegan runs list names them"
        )
    infos = [store.find_run(name) for name in names]
    return [_read(store, number, info) for number, info in enumerate(infos, start=1)]


def _read(store: Store, number: int, info: RunInfo) -> ComparedRun:
    run = store.run(info.id)
    curve = run.history("score") if "score" in info.metrics else {}
    compared = ComparedRun(number=number, info=info, run=run, curve=dict(sorted(curve.items())))
    at = compared.judged
    if at is None:
        return compared
    there = [f"score/{part}" for part in PARTS if f"score/{part}" in info.metrics]
    found = {name: run.history(name).get(at) for name in there}
    parts = {name: value for name, value in found.items() if value is not None}
    return ComparedRun(number=number, info=info, run=run, curve=compared.curve, parts=parts)
