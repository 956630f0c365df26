"""What a study tries first: values it is given, the defaults, the best of earlier studies."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from cyclegan.config import parse_config
from cyclegan.errors import ConfigError, DataError, UsageError
from search.study.definition import StudyDefinition
from search.study.space import Choices, Dimension, FloatRange, Scalar
from search.study.study import OpenStudy, open_study

logger = logging.getLogger(__name__)

_SAME = 1e-6
"""Relative difference up to which two values are not worth two trials."""
_WHOLE = 1e-8
"""How far from a whole number of steps counts as whole; Optuna's own tolerance."""


def first_values(definition: StudyDefinition) -> list[dict[str, Any]]:
    """The sets of values to try before the sampler chooses, by searched key, each set once.

    In this order: those of `enqueue`; the base configuration's own (`enqueue_defaults`), if all
    lie in the space; the best trial of every study in `warm_start`, unless a value it was searched
    for lies outside. A key that is missing in a set is left to the sampler. A grid tries every
    combination anyway: for that sampler there are none.

    Errors: `ConfigError` if a study in `warm_start` was not started here.
    """
    if str(definition.sampler.name) == "grid":
        if definition.enqueue or definition.warm_start:
            logger.warning(
                "study %s: the grid has every combination; enqueue and warm_start are left out",
                definition.name,
            )
        return []
    wanted = [dict(values) for values in definition.enqueue]
    if definition.enqueue_defaults:
        wanted += _defaults(definition)
    for name in definition.warm_start:
        wanted += _best_of(name, definition)
    return list(_each_once(wanted))


def fitted(dimension: Dimension, value: Any) -> Scalar | None:
    """`value` as the dimension has it; None if it lies outside.

    A list of one item stands for the item, as lambdas do.
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
    return isinstance(value, bool)  # for Python True is 1


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
    """By searched key; None if a function makes the space, which only it knows."""
    space: Any = definition.space
    return space if isinstance(space, Mapping) else None


def _defaults(definition: StudyDefinition) -> list[dict[str, Any]]:
    dimensions = _dimensions(definition)
    if dimensions is None:
        return []
    try:
        config = parse_config(definition.base, source=f"study {definition.name}").to_dict()
    except ConfigError:  # it works with searched values only, so it has no values of its own
        return []
    values = {key: fitted(dim, _at(config, key)) for key, dim in dimensions.items()}
    outside = [key for key, value in values.items() if value is None]
    if outside:
        logger.info(
            "study %s: the defaults are not tried first, their %s = %s lies outside of the space",
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
        best = earlier.best()
    except DataError as error:
        logger.warning("study %s: nothing to start from: %s", definition.name, error)
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
            logger.warning("%s, its %s = %s lies outside of the space", where, key, value)
            return []
    if not values:
        logger.warning("%s, none of its values is of a key that is searched", where)
    return [values] if values else []


def _resolved(earlier: OpenStudy, number: int) -> dict[str, Any]:
    """The whole configuration of a trial, which has values that were not searched then."""
    try:
        return earlier.config_of(number).to_dict()
    except (DataError, ConfigError):  # stored by another version: what was searched has to do
        return {}


def _at(values: Any, key: str) -> Any:
    """What nested `values` have at a dotted key; None if nothing."""
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
