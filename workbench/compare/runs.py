"""The runs to compare, each with its scores and outcome, and how their settings and data differ."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cyclegan.errors import UsageError
from cyclegan.score import GATED
from tracking import RunInfo
from tracking.params import same
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


_CHANGED = "changed."
_ENVIRONMENT = ("device", "mlflow.source.git.commit", "git.modified", "gpu")
_VALIDATION = (
    *("imsize_A", "super_resolution", "validation_patches", "standardise"),
    *("channels_A", "channels_B"),
)
"""Parameters that change what a score is measured on."""
_DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class UnequalValues:
    """Values that differ, by name, one per run; None where a run has none."""

    values: Mapping[str, tuple[str | None, ...]]
    same: int
    """Number of names that have the same value in all runs."""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """Identity of the runs' data."""

    hashes: Mapping[str, tuple[str | None, ...]]
    """Hashes or paths by the data's name, one per run; None where a run has no record."""

    def equal(self, name: str) -> bool | None:
        """Return True if all runs have the same data called `name`; None if that is not known."""
        known = {value for value in self.hashes[name] if value is not None}
        if len(known) > 1:
            return False
        return True if known and None not in self.hashes[name] else None

    @property
    def comparable(self) -> bool:
        """False if some data is known to differ."""
        return all(self.equal(name) is not False for name in self.hashes)


def differing(tables: Sequence[Mapping[str, str]]) -> UnequalValues:
    """Find the names whose values differ between tables; `1` and `1.0` are the same."""
    names = dict.fromkeys(name for table in tables for name in table)
    found = {name: tuple(table.get(name) for table in tables) for name in names}
    unequal = {name: values for name, values in found.items() if not _all_same(values)}
    return UnequalValues(values=unequal, same=len(found) - len(unequal))


def parameters(runs: Sequence[ComparedRun]) -> UnequalValues:
    """Compare the runs' parameters. One that a resumed training changed has both values.

    MLflow has no parameter for what a training leaves at its default: the value is `default` here.
    """
    names = [name for run in runs if _trains(run) for name in _settings(run)]
    usual = dict.fromkeys(names, "default")
    return differing([(usual if _trains(run) else {}) | _settings(run) for run in runs])


def environment(runs: Sequence[ComparedRun]) -> UnequalValues:
    """Compare devices, versions and the code."""
    return differing(
        [
            {
                name.removeprefix("mlflow.source."): value
                for name, value in run.info.tags.items()
                if name in _ENVIRONMENT or name.startswith("version.")
            }
            for run in runs
        ]
    )


def data_check(runs: Sequence[ComparedRun]) -> DataCheck:
    """Return the hashes of trainings' data; for enhancements volume, reference and region."""
    if all(run.is_enhancement for run in runs):
        of = {name: [run.info.params.get(name) or None for run in runs] for name in _ENHANCED}
        found = {name: tuple(values) for name, values in of.items() if any(values)}
        return DataCheck(hashes=found)
    tags = [run.info.tags for run in runs]
    return DataCheck(
        hashes={domain: tuple(t.get(f"data_hash.{domain}") for t in tags) for domain in "AB"}
    )


_ENHANCED = ("volume", "reference", "roi")


def warnings(runs: Sequence[ComparedRun], data: DataCheck, settings: UnequalValues) -> list[str]:
    """Return the reasons why scores may not be comparable, one line each."""
    lines = []
    different = [name for name in data.hashes if data.equal(name) is False]
    if different:
        told = "; ".join(f"{name}: {_each(runs, data.hashes[name])}" for name in different)
        lines.append(f"judged on different data, so scores are not comparable ({told})")
    unknown = [
        run.number
        for i, run in enumerate(runs)
        if any(data.equal(name) is None and data.hashes[name][i] is None for name in data.hashes)
    ]
    if unknown:
        them = ", ".join(map(str, unknown))
        lines.append(f"run {them}: the data is not recorded and may differ")
    changed = [name for name in _VALIDATION if name in settings.values]
    if changed:
        lines.append(f"scores come from different validations: {', '.join(changed)} differ")
    if "units" in settings.values:
        lines.append("grey values have different units, so their differences mean little")
    return lines


def short_hash(value: str | None) -> str:
    """Return the beginning of a hash; a path as it is."""
    if value is None:
        return "–"
    return value if "/" in value or len(value) <= 2 * _DIGITS else value[:_DIGITS]


def _each(runs: Sequence[ComparedRun], values: Sequence[str | None]) -> str:
    return ", ".join(
        f"{run.number} {short_hash(value)}" for run, value in zip(runs, values, strict=True)
    )


def _trains(run: ComparedRun) -> bool:
    return "lr_g" in run.info.params


def _settings(run: ComparedRun) -> dict[str, str]:
    tags = run.info.tags
    changed = {n.removeprefix(_CHANGED): v for n, v in tags.items() if n.startswith(_CHANGED)}
    return {**run.info.params, **changed}


def _all_same(values: Sequence[str | None]) -> bool:
    first = values[0]
    return all(
        value == first or (value is not None and first is not None and same(value, first))
        for value in values
    )
