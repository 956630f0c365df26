"""Differences between runs: parameters, data, devices and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tracking.params import same
from workbench.compare.runs import ComparedRun

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
