"""One run as it is compared with others."""

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
"""What the score is made of, and what stands beside it, as metrics `score/...`."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run with the history of its score."""

    number: int
    """1, 2, ... as they were named."""
    info: RunInfo
    run: Run
    curve: Mapping[int, float] = field(default_factory=dict)
    """The score by iteration."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Parts of the score where it was judged, by their names in MLflow."""

    @property
    def name(self) -> str:
        """Its number and its name, which together are unique."""
        return f"{self.number} {self.info.name}"

    @property
    def is_enhancement(self) -> bool:
        """Whether it applied a generator, instead of training one."""
        return kind_of(self.info) == "enhance"

    @property
    def judged(self) -> int | None:
        """The iteration of the validation that counted; None without a score."""
        return judged_iteration(self.curve, self.info.metrics.get("score/value"))

    @property
    def score(self) -> float | None:
        """What a trial counts in its study, else the best score of a usable generator."""
        value = self.info.metrics.get("score/value")
        if value is not None or self.judged is None:
            return value
        return self.curve[self.judged]

    @property
    def outcome(self) -> str:
        """In a word how it ended, or `running`."""
        if self.info.status in ("RUNNING", "SCHEDULED"):
            return "running"
        return self.info.tags.get("outcome") or self.info.status.lower()

    @property
    def reason(self) -> str:
        """Why it ended so; empty if it did all its steps."""
        return " ".join(self.info.tags.get("reason", "").split())

    @property
    def steps(self) -> int | None:
        """The training step it reached."""
        return steps_of(self.info)

    @property
    def seconds(self) -> float:
        """From its start to its end, or to now."""
        end = round(1000 * time.time()) if self.info.end_ms is None else self.info.end_ms
        return max(0.0, (end - self.info.start_ms) / 1000)


def judged_iteration(curve: Mapping[int, float], value: float | None = None) -> int | None:
    """Where the score is `value`, the last such place; else where it is best and no gate failed.

    A value over several seeds is a mean and found nowhere in the curve.
    """
    same = [at for at, score in curve.items() if score == value]
    if same:
        return max(same)
    usable = {at: score for at, score in curve.items() if score > GATED} or curve
    return max(usable, key=lambda at: usable[at], default=None)


def find_runs(store: Store, names: Sequence[str]) -> list[ComparedRun]:
    """The runs that are meant, in the order given.

    Errors: `UsageError` for fewer than two or more than eight; as `Store.find_run` for a name.
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
