"""Studies as text: the preview of one to come, tables of its trials, files for other programs."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cyclegan.config import Config
from cyclegan.errors import UsageError
from cyclegan.files import refuse_overwrite, shell_word, write_text
from search.study.definition import StudyDefinition
from search.study.forecast import Cost, Effort, Probe, Rung, cost, effort
from search.study.samplers import Sampler
from search.study.space import Choices, Dimension, FloatRange, FunctionSpace, IntRange, cells
from search.study.study import StudyHandle
from search.study.trials import FINISHED, Trial, best_first, best_of, declared_keys, searched_keys
from viz.text import can_draw_blocks, line_width, short_names, short_text, sparklines, table
from viz.units import duration, short_time

_REASON_LENGTH = 300


def study_data(handle: StudyHandle) -> dict[str, Any]:
    """Return a study and its trials as plain values."""
    records = handle.trials_and_chances()
    best = best_of(records)
    return {
        "study": handle.definition.name,
        "trials_wanted": handle.definition.trials,
        "trials_finished": sum(r.state in FINISHED for r in records),
        "states": _counts(records),
        "iterations": sum(r.iteration for r in records),
        "seconds": _seconds(records),
        "keys": searched_keys(records, declared_keys(handle.definition.space)),
        "best": best.to_dict() if best else None,
        **_gain_data(handle),
        "trials": [r.to_dict() for r in records],
    }


def _gain_data(handle: StudyHandle) -> dict[str, float | None]:
    gain, noise = handle.expected_gain() or (None, None)
    return {"expected_gain": gain, "noise": noise}


def one_line(handle: StudyHandle) -> str:
    """Return name, progress, best score and cost of a study as one line."""
    records = handle.trials()
    best = best_of(records)
    finished = sum(r.state in FINISHED for r in records)
    head = f"{handle.definition.name}: {finished} of {handle.definition.trials} trials"
    found = "no result yet" if finished < handle.definition.trials else "none of them complete"
    if best:
        found = f"best score {_number(best.score)} (trial {best.number})"
    states = ", ".join(f"{count} {state}" for state, count in _counts(records).items())
    spent = f"{sum(r.iteration for r in records)} iterations, {short_time(_seconds(records))}"
    return "; ".join([f"{head}, {found}", *([states, spent] if records else [])])


def study_table(
    handle: StudyHandle, *, width: int | None = None, blocks: bool | None = None
) -> str:
    """Return a table of all trials, best first, followed by the reasons of pruning and failure.

    Args:
        width: most characters of a line; values that don't fit beside the rest go into tables of
            their own. Default: the terminal's width, without a terminal no limit.
        blocks: draw curves with block characters instead of plain ones. Default: if standard
            output can encode them.
    """
    width = line_width(sys.stdout) if width is None else width
    blocks = can_draw_blocks(sys.stdout) if blocks is None else blocks
    records = best_first(handle.trials_and_chances())
    keys = searched_keys(records, declared_keys(handle.definition.space))
    fixed = _progress_columns(records, blocks)
    values = _value_columns(records, keys)
    return "\n".join(
        [
            one_line(handle),
            "",
            *_side_by_side(fixed, values, width),
            *_reasons(records, width),
            *_gain(handle, width),
        ]
    )


def best_text(handle: StudyHandle) -> str:
    """Return the best trial and its values as text. Errors: `DataError` if there is none."""
    best = handle.best()
    values = "\n".join(f"  {key} = {short_text(value, 60)}" for key, value in best.values.items())
    return f"trial {best.number}, score {_number(best.score)}\n{values}"


def best_data(handle: StudyHandle) -> dict[str, Any]:
    """Return the best trial as plain values. Errors: `DataError` if there is none."""
    number = handle.best().number
    return next(r for r in handle.trials() if r.number == number).to_dict()


Column = list[str]
"""A header, then a cell for each trial."""


def _gain(handle: StudyHandle, width: int | None) -> list[str]:
    """Return whether more trials are worth their steps, as far as that is known."""
    known = handle.expected_gain()
    if known is None:
        return []
    gain, noise = known
    text = (
        f"another trial is expected to gain {gain:.2f}; trainings of the same values differ by "
        f"about {noise:.2f}"
    )
    return ["", text if width is None else textwrap.fill(text, width)]


def _progress_columns(records: Sequence[Trial], blocks: bool) -> list[Column]:
    return [
        ["trial", *(str(r.number) for r in records)],
        ["state", *(r.state for r in records)],
        ["score", *(_number(r.score) for r in records)],
        ["step", *(str(r.step) for r in records)],
        ["iterations", *(str(r.iteration) for r in records)],
        ["time", *(short_time(r.seconds) for r in records)],
        ["curve", *sparklines([r.curve for r in records], blocks=blocks)],
    ]


def _value_columns(records: Sequence[Trial], keys: Sequence[str]) -> list[Column]:
    names = short_names(keys)
    return [[names[k], *(short_text(r.values.get(k, "")) for r in records)] for k in keys]


def _side_by_side(fixed: list[Column], values: list[Column], width: int | None) -> list[str]:
    """Return one table if it fits into `width`, else put the values into tables of their own."""
    if width is None or _width([*fixed, *values]) <= width:
        return [_table([*fixed, *values])]
    lines = [_table(fixed)]
    head = [fixed[0], fixed[2]]  # trial and score
    block: list[Column] = []
    for column in values:
        if block and _width([*head, *block, column]) > width:
            lines += ["", _table([*head, *block])]
            block = []
        block.append(column)
    return [*lines, *(["", _table([*head, *block])] if block else [])]


def _table(columns: list[Column]) -> str:
    header, *rows = ([column[i] for column in columns] for i in range(len(columns[0])))
    return table(header, rows)


def _width(columns: Sequence[Column]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _reasons(records: Sequence[Trial], width: int | None) -> list[str]:
    lines = [
        f"  trial {r.number} {r.state}: {' '.join(r.reason.split())[:_REASON_LENGTH]}"
        for r in records
        if r.reason
    ]
    if width is not None:
        lines = [textwrap.fill(line, width, subsequent_indent=" " * 6) for line in lines]
    return ["", *lines] if lines else []


def _counts(records: Sequence[Trial]) -> dict[str, int]:
    states = dict.fromkeys(r.state for r in best_first(records))
    return {state: sum(r.state == state for r in records) for state in states}


def _seconds(records: Sequence[Trial]) -> float:
    return sum(r.seconds or 0.0 for r in records)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# -- A study's trials and its best configuration as files for other programs -------------------

COLUMNS = (
    *("number", "state", "score", "step", "iteration", "seconds"),
    *("run_id", "reason", "deaths", "seeds"),
)
"""Columns of the CSV file before those of the searched keys."""


def export_study(handle: StudyHandle, output: Path, *, overwrite: bool = False) -> int:
    """Write all trials to `output`, as CSV or JSON by its suffix; return the number of trials.

    CSV has one row per trial and one column per searched key, under its full name; `seeds` is a
    JSON list. JSON has the curves, verdicts and origins too.

    Errors: `UsageError` for another suffix; `DataError` if the file exists and `overwrite` is off.
    """
    kind = output.suffix.lower()
    if kind not in (".csv", ".json"):
        raise UsageError(f"--output {output}: the name must end in .csv or .json")
    refuse_overwrite(output, overwrite)
    data = study_data(handle)
    if kind == ".json":
        write_text(output, json.dumps(data, indent=1, default=str) + "\n")
    else:
        write_text(output, _csv(data["trials"], data["keys"]))
    return len(data["trials"])


def write_best_config(handle: StudyHandle, path: Path, *, overwrite: bool = False) -> None:
    """Write the best trial's resolved configuration as YAML that `cyclegan train` takes.

    Errors: `UsageError` if `path` is no YAML file; `DataError` if it exists and `overwrite` is off,
    or if no trial is complete.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"--config {path}: the name must end in .yaml")
    best = handle.best()
    refuse_overwrite(path, overwrite)
    head = (
        f"# The best trial of the study {handle.definition.name}: trial {best.number}, "
        f"score {best.score:.2f}, MLflow run {best.run_id or 'none'}\n"
        f"#\n#   cyclegan train {shell_word(path)}\n"
    )
    write_text(path, head + handle.config_of(best.number).to_yaml())


def _csv(trials: list[dict[str, Any]], keys: list[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *keys])
    for trial in trials:
        cells = trial | {
            "reason": " ".join(trial["reason"].split()),
            "seeds": json.dumps(trial["seeds"]) if trial["seeds"] else "",
        }
        values = [trial["values"].get(key, "") for key in keys]
        writer.writerow([*(cells[name] for name in COLUMNS), *values])
    return buffer.getvalue()


_GB = 1e9
_BUSY = 0.75
"""Share of the cores, within [0, 1], below which other programs slowed down a probe."""


def first_config(definition: StudyDefinition) -> Config:
    """Return the configuration of a trial that could be the first."""
    tried = dict(definition.enqueue[0]) if definition.enqueue else {}
    values = definition.first_values()
    if not isinstance(definition.space, FunctionSpace):
        values |= tried | {key: tried[s] for key, s in definition.ties.items() if s in tried}
    return definition.config_of(0, values)


def preview_data(definition: StudyDefinition, probe: Probe | None) -> dict[str, Any]:
    """Return space, rungs and forecast as plain values."""
    planned = effort(definition)
    spent = cost(definition, first_config(definition), planned, probe) if probe else None
    dumped = definition.model_dump(mode="json")
    kept = ("space", "ties", "enqueue", "sampler", "pruner", "trials", "steps", "report_every")
    return {
        "study": definition.name,
        **{key: dumped[key] for key in (*kept, "seeds", "objective", "judge_by", "stop")},
        "forecast": asdict(planned),
        "probe": asdict(probe) if probe else None,
        "cost": asdict(spent) if spent else None,
    }


def preview_text(definition: StudyDefinition, probe: Probe | None) -> str:
    """Return space, rungs and forecast as text."""
    planned = effort(definition)
    lines = [
        f"study {definition.name}: {definition.trials} trials of {definition.steps} steps"
        + (
            f", {definition.seeds} seeds for trials that are not pruned"
            if definition.seeds > 1
            else ""
        )
        + f", {definition.objective} maximised, reported every {definition.report_every} steps; "
        f"a trial's {definition.judge_by} report counts",
        "",
        f"space       {_sampler(definition)}",
        *(f"  {line}" for line in _space(definition)),
        "",
        f"pruner      {_pruner(definition)}",
        *(f"  {_rung(rung, definition)}" for rung in planned.rungs),
        f"  a gate (not finite, collapsed, inverted) prunes from step "
        f"{definition.pruner.prune_after} on",
        *_stops(definition),
        "",
        f"iterations  {_iterations(definition, planned)}",
    ]
    if probe:
        lines += _costs(probe, cost(definition, first_config(definition), planned, probe))
    return "\n".join(lines)


def _sampler(definition: StudyDefinition) -> str:
    sampler = definition.sampler
    text = f"sampler {sampler.name}, seed {sampler.seed}"
    if sampler.name in ("tpe", "gp"):
        text += f", the first {sampler.startup_trials} trials at random"
    if sampler.name == "noisy_gp":
        text += f", the first {sampler.startup_trials} trials from a Sobol sequence"
    count = sampler.cells(definition.space)
    return text if count is None else f"{text}: {definition.trials} of {count} combinations"


def _space(definition: StudyDefinition) -> list[str]:
    space = definition.space
    if isinstance(space, FunctionSpace):
        names = ", ".join(space.parameters)
        rows = [(f"{space.file}:{space.function}", f"asks for {names}")]
    else:
        rows = [(key, _range(definition.sampler, key, space[key])) for key in space]
    rows += [(key, f"= {source}") for key, source in definition.ties.items()]
    width = max(len(key) for key, _ in rows)
    lines = [f"{key:<{width}}  {text}" for key, text in rows]
    for values in definition.enqueue:
        lines.append("tried first: " + ", ".join(f"{key} = {v}" for key, v in values.items()))
    return lines


def _range(sampler: Sampler, key: str, dimension: Dimension) -> str:
    if sampler.name == "grid":
        return "one of " + ", ".join(str(value) for value in cells({key: dimension})[key])
    if isinstance(dimension, Choices):
        return "one of " + ", ".join(str(choice) for choice in dimension.choices)
    text = f"{dimension.type} {dimension.low:g} to {dimension.high:g}"
    if dimension.log:
        return f"{text}, log"
    assert isinstance(dimension, FloatRange | IntRange)
    return text if dimension.step in (None, 1) else f"{text} in steps of {dimension.step:g}"


def _pruner(definition: StudyDefinition) -> str:
    pruner = definition.pruner
    about = {
        "successive_halving": f"one in {pruner.reduction_factor} goes on at each rung",
        "hyperband": f"one in {pruner.reduction_factor} goes on at each rung of its bracket",
        "median": f"below the median of complete trials, once there are {pruner.startup_trials}, "
        f"judged from step {pruner.prune_after} on",
        "percentile": f"not among the best {pruner.keep_percent:g} % of complete trials, once "
        f"there are {pruner.startup_trials}, judged from step {pruner.prune_after} on",
        "patience": f"{pruner.patience} reports in a row below its own best, judged from step "
        f"{pruner.prune_after} on",
        "threshold": f"below {pruner.lower}, judged from step {pruner.prune_after} on",
        "thaw": f"trials are paused from step {pruner.prune_after} on while others are worth the "
        f"steps more, and never go on with a chance below {100 * pruner.least_chance:g} %",
        "none": "every trial gets all its steps",
    }
    return f"{pruner.name}: {about[pruner.name]}"


def _rung(rung: Rung, definition: StudyDefinition) -> str:
    bracket = f"bracket {rung.bracket}, " if definition.pruner.name == "hyperband" else ""
    return (
        f"{bracket}rung {rung.rung} at step {rung.iteration}: {rung.arrive:.1f} trials arrive, "
        f"{rung.go_on:.1f} go on"
    )


def _stops(definition: StudyDefinition) -> list[str]:
    stop = definition.stop
    rules = [
        f"{stop.hours:g} hours" if stop.hours else "",
        f"{stop.iterations} iterations" if stop.iterations else "",
        f"{stop.no_improvement} trials without a new best" if stop.no_improvement else "",
        f"an expected gain below {stop.expected_gain:g}" if stop.expected_gain else "",
    ]
    text = " or ".join(rule for rule in rules if rule)
    return ["", f"stops       after {text}"] if text else []


def _iterations(definition: StudyDefinition, planned: Effort) -> str:
    text = f"{planned.at_most} if nothing is pruned"
    if planned.expected is None:
        return f"{text}; what {definition.pruner.name} saves depends on the curves"
    if planned.expected == planned.at_most:
        return text
    share = 100 * planned.expected / planned.at_most
    return (
        f"{text}, {planned.expected} expected ({share:.0f} %), {planned.complete:.1f} trials "
        "complete"
    )


def _costs(probe: Probe, spent: Cost) -> list[str]:
    return [
        f"time        {duration(3600 * spent.hours)} expected, "
        f"{duration(3600 * spent.hours_at_most)} at most, one trial at a time on this machine",
        f"            ({probe.step:.3g} s a step, {probe.validation:.2g} s a validation, measured "
        f"over {probe.steps} steps on {probe.device} in {probe.precision}; without MLflow)",
        *_busy(probe),
        f"disk        {spent.disk_bytes / _GB:.2g} GB (a checkpoint is "
        f"{probe.checkpoint_bytes / 1e6:.3g} MB)",
    ]


def _busy(probe: Probe) -> list[str]:
    if probe.device != "cpu" or probe.core_share >= _BUSY:
        return []
    return [
        "            other programs use this machine, too: the probe got "
        f"{100 * probe.core_share:.0f} % of its cores and would be faster alone"
    ]
