"""The configuration of a training: its keys, its readers, and messages about wrong values."""

from cyclegan.config.reading import (
    load_config,
    load_yaml,
    override,
    parse_config,
    parse_overrides,
    parse_section,
)
from cyclegan.config.schema import Config, generator_geometry
from cyclegan.config.sections import (
    Count,
    HPOptimizer,
    Lambdas,
    LambdaSchedule,
    LossChannels,
    LossFunctions,
    LossNames,
    LRSchedule,
    RunName,
    Section,
    Seed,
)

__all__ = [
    "Config",
    "Count",
    "HPOptimizer",
    "LRSchedule",
    "LambdaSchedule",
    "Lambdas",
    "LossChannels",
    "LossFunctions",
    "LossNames",
    "RunName",
    "Section",
    "Seed",
    "generator_geometry",
    "load_config",
    "load_yaml",
    "override",
    "parse_config",
    "parse_overrides",
    "parse_section",
]
