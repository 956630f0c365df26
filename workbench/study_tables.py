"""Studies as text: tables of their trials, and files for other programs."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclegan.errors import UsageError
from cyclegan.files import refuse_overwrite, shell_word, write_text
from search.study.definition import StudyDefinition
from search.study.objective import TIME, is_minimised, short
from search.study.study import StudyHandle
from search.study.trials import (
    FINISHED,
    Trial,
    best_first,
    best_of,
    declared_keys,
    front_of,
    searched_keys,
    worth_promoting,
)
from viz.text import can_draw_blocks, line_width, short_names, short_text, sparklines, table
from viz.units import short_time

_REASON_LENGTH = 300
_BEST, _UNFINISHED = 200, 100
"""Most rows of a table: the best trials that have ended, and those that have not. Nobody reads
thousands, and all of them are in the files that `export_study` writes."""


def study_data(handle: StudyHandle, records: Sequence[Trial] | None = None) -> dict[str, Any]:
    """Return a study and its trials as plain values; `records`: the trials, if they are known."""
    records = handle.trials_and_chances() if records is None else records
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
        "promotes": first.number if (first := _first(records)) else None,
        **_objectives_data(handle.definition, records),
        **_gain_data(handle),
        "trials": [r.to_dict() for r in records],
    }


def _objectives_data(definition: StudyDefinition, records: Sequence[Trial]) -> dict[str, Any]:
    if len(definition.objective) == 1:
        return {}
    aims = {name: "minimize" if is_minimised(name) else "maximize" for name in definition.objective}
    return {"objectives": aims, "front": [r.number for r in front_of(records)]}


def _gain_data(handle: StudyHandle) -> dict[str, float | None]:
    gain, noise = handle.expected_gain() or (None, None)
    return {"expected_gain": gain, "noise": noise}


def one_line(handle: StudyHandle, records: Sequence[Trial] | None = None) -> str:
    """Return name, progress, best score and cost of a study as one line."""
    records = handle.trials() if records is None else records
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
    handle: StudyHandle,
    records: Sequence[Trial] | None = None,
    *,
    width: int | None = None,
    blocks: bool | None = None,
) -> str:
    """Return a table of the trials, best first, followed by the reasons of pruning and failure.

    Of thousands, the best and the unfinished ones are shown.

    Args:
        records: the trials, if they are known.
        width: most characters of a line; values that don't fit beside the rest go into tables of
            their own. Default: the terminal's width, without a terminal no limit.
        blocks: draw curves with block characters instead of plain ones. Default: if standard
            output can encode them.
    """
    width = line_width(sys.stdout) if width is None else width
    blocks = can_draw_blocks(sys.stdout) if blocks is None else blocks
    records = best_first(handle.trials_and_chances() if records is None else records)
    shown = _shown(records)
    keys = searched_keys(records, declared_keys(handle.definition.space))
    fixed = _progress_columns(shown, blocks)
    further = handle.definition.objective[1:]
    fixed[3:3] = _objective_columns(shown, further)
    values = [*_expected_column(shown), *_value_columns(shown, keys)]
    return "\n".join(
        [
            one_line(handle, records),
            "",
            *_side_by_side(fixed, values, width),
            *_not_shown(handle, len(records) - len(shown)),
            *_front(records, handle.definition, width),
            *_reasons(shown, width),
            *_to_promote(records, width),
            *_gain(handle, width),
        ]
    )


def _shown(records: Sequence[Trial]) -> list[Trial]:
    over = [r for r in records if r.state in FINISHED][:_BEST]
    return over + [r for r in records if r.state not in FINISHED][:_UNFINISHED]


def _not_shown(handle: StudyHandle, count: int) -> list[str]:
    if not count:
        return []
    name = shell_word(handle.definition.name)
    return [f"and {count:,} more: cyclegan study export {name} --output trials.csv"]


def best_text(handle: StudyHandle) -> str:
    """Return the best trial and its values as text. Errors: `DataError` if there is none."""
    best = handle.best()
    values = "\n".join(f"  {key} = {short_text(value, 60)}" for key, value in best.values.items())
    found = f"trial {best.number}, score {_number(best.score)}\n{values}"
    other = _to_promote(handle.trials_and_chances(), None)
    return "\n".join([found, *other[1:]])


def best_data(handle: StudyHandle) -> dict[str, Any]:
    """Return the best trial as plain values. Errors: `DataError` if there is none."""
    number = handle.best().number
    return next(r for r in handle.trials() if r.number == number).to_dict()


def _first(records: Sequence[Trial]) -> Trial | None:
    """Return the trial that `promote` takes."""
    return next(iter(worth_promoting(records)), None)


def _to_promote(records: Sequence[Trial], width: int | None) -> list[str]:
    """Return why another trial than that with the highest score would be promoted, if so."""
    best, first = best_of(records), _first(records)
    if best is None or first is None or first.number == best.number:
        return []
    text = (
        f"promote takes trial {first.number}, of which {first.worth:.2f} is expected in the mean"
        f" of many seeds; trial {best.number} has the highest score, but judged by its neighbours"
        f" {best.worth:.2f} is expected of it"
    )
    return ["", text if width is None else textwrap.fill(text, width)]


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


def _expected_column(records: Sequence[Trial]) -> list[Column]:
    cells = [_number(r.expected) for r in records]
    return [["expected", *cells]] if any(cells) else []


def _objective_columns(records: Sequence[Trial], further: Sequence[str]) -> list[Column]:
    return [
        [short(name), *(_value(r.objectives.get(name), name) for r in records)]
        for name in further
        if name != TIME  # there is a column for it anyway
    ]


def _value(value: float | None, name: str) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if name == TIME else f"{value:.3g}"


def _front(records: Sequence[Trial], definition: StudyDefinition, width: int | None) -> list[str]:
    """Return the Pareto front of a study with several objectives, a trial a line."""
    if len(definition.objective) == 1:
        return []
    aims = ", ".join(
        f"{short(name)} {'lower' if is_minimised(name) else 'higher'}"
        for name in definition.objective
    )
    front = front_of(records)
    if not front:
        return ["", f"Pareto front ({aims} is better): no complete trial yet"]
    head = f"Pareto front ({aims} is better): no other trial is better by all of them"
    rows = [
        f"  trial {r.number}: "
        + ", ".join(f"{short(n)} {_value(r.objectives[n], n)}" for n in definition.objective)
        for r in front
    ]
    return ["", head if width is None else textwrap.fill(head, width), *rows]


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
    further = list(dict.fromkeys(name for t in trials for name in t.get("objectives", {})))[1:]
    further = [name for name in further if name not in COLUMNS]
    writer.writerow([*COLUMNS, *further, *keys])
    for trial in trials:
        cells = trial | {
            "reason": " ".join(trial["reason"].split()),
            "seeds": json.dumps(trial["seeds"]) if trial["seeds"] else "",
        }
        values = [trial["values"].get(key, "") for key in keys]
        objectives = [trial.get("objectives", {}).get(name, "") for name in further]
        writer.writerow([*(cells[name] for name in COLUMNS), *objectives, *values])
    return buffer.getvalue()
