"""The preview of a study to come: its space, its rungs, and a forecast of its cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cyclegan.config import Config
from search.study.definition import StudyDefinition
from search.study.forecast import Cost, Effort, Probe, Rung, cost, effort
from search.study.initial_trials import recorded_ends
from search.study.objective import is_minimised
from search.study.samplers import Sampler
from search.study.space import Choices, Dimension, FloatRange, FunctionSpace, IntRange, cells
from viz.units import duration

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
        + f", {_aims(definition)}, reported every {definition.report_every} steps; "
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


def _aims(definition: StudyDefinition) -> str:
    return ", ".join(
        f"{name} {'minimised' if is_minimised(name) else 'maximised'}"
        for name in definition.objective
    )


def _sampler(definition: StudyDefinition) -> str:
    sampler = definition.sampler
    text = f"sampler {sampler.name}, seed {sampler.seed}"
    if sampler.name in ("tpe", "gp"):
        text += f", the first {sampler.startup_trials} trials at random"
    known = recorded_ends(definition) or definition.warm_start
    if sampler.name == "noisy_gp" and known:
        text += ", begins where trainings on other data were good"
    elif sampler.name == "noisy_gp":
        text += f", the first {sampler.startup_trials} trials from a Sobol sequence"
    count = sampler.cells(definition.space)
    if count is not None:
        text += f": {definition.trials} of {count} combinations"
    return text + _taken(sampler.reason)


def _taken(reason: str) -> str:
    return f"; taken by auto: {reason}" if reason else ""


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
    return f"{pruner.name}: {about[pruner.name]}{_taken(pruner.reason)}"


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
