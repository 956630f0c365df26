"""The beginning of a study: given values, the defaults, and what earlier studies found out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from cyclegan.config import parse_config
from cyclegan.errors import ConfigError, DataError, UsageError
from search.study.definition import StudyDefinition
from search.study.outlook import cube_of, ends_in
from search.study.recorded import recorded_studies
from search.study.space import Choices, Dimension, FloatRange, Scalar
from search.study.study import StudyHandle, open_study

logger = logging.getLogger(__name__)

_SAME = 1e-6
"""Relative difference up to which two values count as the same."""
_WHOLE = 1e-8
"""Largest distance from a whole number of steps that counts as whole; Optuna's own tolerance."""


def first_values(definition: StudyDefinition) -> list[dict[str, Any]]:
    """Return the sets of values to try before the sampler chooses, by searched key, no set twice.

    They come in this order: those of `enqueue`; the base configuration's own (`enqueue_defaults`),
    if all of them lie in the space; the trial of every study in `warm_start` that would be
    promoted, unless one of the values searched there lies outside. The sampler chooses values for
    keys that a set lacks. A grid tries every combination anyway, so it has no initial trials.

    Errors: `ConfigError` if a study in `warm_start` was not started here.
    """
    if str(definition.sampler.name) == "grid":
        if definition.enqueue or definition.warm_start:
            logger.warning(
                "study %s: the grid has every combination; ignoring enqueue and warm_start",
                definition.name,
            )
        return []
    wanted = [dict(values) for values in definition.enqueue]
    if definition.enqueue_defaults:
        wanted += _defaults(definition)
    for name in definition.warm_start:
        wanted += _best_of(name, definition)
    return list(_each_once(wanted))


def earlier_ends(definition: StudyDefinition) -> list[dict[str, Any]]:
    """Return what the studies in `warm_start` found out about this study's space, as plain values.

    A key that a study did not search has there the value of its configuration. Studies with other
    objectives, and trials outside of this study's space, are left out.
    """
    cube, found = cube_of(definition), []
    if cube is None or definition.sampler.name != "noisy_gp":
        return []
    for name in definition.warm_start:
        earlier = open_study(name)
        if earlier.definition.first_objective != definition.first_objective:
            logger.warning("study %s: %s maximised another objective", definition.name, name)
            continue

        def features(frozen: FrozenTrial, handle: StudyHandle = earlier) -> Any:
            config = _resolved(handle, frozen.number)
            values = {key: frozen.params.get(key, _at(config, key)) for key in cube.space}
            inside = {key: fitted(cube.space[key], value) for key, value in values.items()}
            return cube.features_of(inside)

        ends = ends_in(earlier.definition, earlier.study, features)
        if ends is None:
            logger.warning("study %s: no trial of %s lies in its space", definition.name, name)
        else:
            found.append(ends.to_dict())
    return found


def recorded_ends(definition: StudyDefinition) -> list[dict[str, Any]]:
    """Return what recorded trainings say about this study's space, as `earlier_ends` does."""
    cube, sampler = cube_of(definition), definition.sampler
    if cube is None or sampler.name != "noisy_gp" or not sampler.recorded_trials:
        return []
    config = _base(definition)
    base = {key: fitted(dim, _at(config, key)) for key, dim in cube.space.items()}
    found = recorded_studies(cube, base, definition.first_objective)
    return [study.to_dict() for study in found]


def fitted(dimension: Dimension, value: Any) -> Scalar | None:
    """Return `value` as a value of the dimension; None if it lies outside.

    A list with one item stands for that item, as for lambdas.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(dimension, Choices):
        same = (c for c in dimension.choices if c == value and _is_flag(c) == _is_flag(value))
        return next(same, None)
    if isinstance(value, int | float) and not _is_flag(value):
        return _in_range(dimension, value)
    return None


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)  # in Python, True is also an int


def _in_range(dimension: Any, value: float) -> Scalar | None:
    # `not <=` refuses NaN, too.
    if not dimension.low <= value <= dimension.high:
        return None
    if dimension.step is not None:
        steps = (value - dimension.low) / dimension.step
        if abs(steps - round(steps)) > _WHOLE:
            return None
    return float(value) if isinstance(dimension, FloatRange) else int(value)


def _dimensions(definition: StudyDefinition) -> Mapping[str, Dimension] | None:
    """Return the dimensions by searched key; None if the space is a function."""
    space: Any = definition.space
    return space if isinstance(space, Mapping) else None


def _base(definition: StudyDefinition) -> dict[str, Any]:
    """Return the base configuration; empty if it is valid only with searched values."""
    try:
        return parse_config(definition.base, source=f"study {definition.name}").to_dict()
    except ConfigError:
        return {}


def _defaults(definition: StudyDefinition) -> list[dict[str, Any]]:
    dimensions = _dimensions(definition)
    if dimensions is None:
        return []
    config = _base(definition)
    if not config:
        return []
    values = {key: fitted(dim, _at(config, key)) for key, dim in dimensions.items()}
    outside = [key for key, value in values.items() if value is None]
    if outside:
        logger.info(
            "study %s: the defaults are not tried first: their %s = %s lies outside the space",
            definition.name,
            outside[0],
            _at(config, outside[0]),
        )
        return []
    return [values]


def _best_of(name: str, definition: StudyDefinition) -> list[dict[str, Any]]:
    if name == definition.name:
        raise ConfigError(f"study {name}: warm_start names this study itself; name an earlier one")
    try:
        earlier = open_study(name)
    except UsageError as error:
        raise ConfigError(f"study {definition.name}: warm_start: {error}") from error
    try:
        best = earlier.to_promote()
    except DataError as error:
        logger.warning("study %s: no warm start: %s", definition.name, error)
        return []
    where = f"study {definition.name}: trial {best.number} of study {name} is not tried first"
    dimensions = _dimensions(definition)
    if dimensions is None:
        return [dict(best.values)]
    config, values = _resolved(earlier, best.number), {}
    for key, dimension in dimensions.items():
        searched = key in best.values
        value = best.values[key] if searched else _at(config, key)
        inside = fitted(dimension, value)
        if inside is not None:
            values[key] = inside
        elif searched:
            logger.warning("%s: its %s = %s lies outside the space", where, key, value)
            return []
    if not values:
        logger.warning("%s: this study searches none of its keys", where)
    return [values] if values else []


def _resolved(earlier: StudyHandle, number: int) -> dict[str, Any]:
    """Return the whole configuration of a trial, which includes values that were not searched."""
    try:
        return earlier.config_of(number).to_dict()
    except (DataError, ConfigError):  # stored by another version: only the searched values count
        return {}


def _at(values: Any, key: str) -> Any:
    """Return the value at a dotted key of nested `values`; None if there is none."""
    for part in key.split("."):
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values


def _each_once(sets: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    for values in sets:
        if not any(_same(values, other) for other in seen):
            seen.append(values)
            yield values


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)


def _close(one: Any, other: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not _is_flag(v) for v in (one, other))
    return math.isclose(one, other, rel_tol=_SAME) if numbers else bool(one == other)
