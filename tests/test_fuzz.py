"""Absurd values in what users write: accepted, or refused in one line; never anything else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cyclegan.config import Config, load_yaml, override, parse_config
from cyclegan.data import DatasetSpec
from cyclegan.errors import CycleGANError
from search.study.definition import parse_definition

STUDIES = Path(__file__).resolve().parent.parent / "studies"
ABSURD: list[Any] = [
    *(None, "", "x" * 300, "\0", "auto", "1e-3", True),
    *(-1, 0, 2.5, 1e300, math.nan, math.inf, 2**70),
    *([], [0, 0, 0], [None], [[[[1]]]], {}, {"a": 1}, {1: 2}, {"name": "grid"}),
]
"""Values of every kind, of which each key can take a few at most."""
LONGEST = 1000


def one_line(error: CycleGANError) -> str:
    text = str(error)
    assert "\n" not in text
    assert 0 < len(text) < LONGEST, text
    return text


def places(values: dict[str, Any], depth: int) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value in nested mappings, and of a key that nobody knows."""
    yield ("nonsense",)
    for name, value in values.items():
        yield (name,)
        if isinstance(value, dict) and depth:
            yield from ((name, *rest) for rest in places(value, depth - 1))


def changed(values: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    whole: dict[str, Any] = copy.deepcopy(values)
    node = whole
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    return whole


@pytest.mark.parametrize("key", [*Config.model_fields, "lambdas.G_A", "lr_schedule.gamma", "x.y"])
def test_a_configuration_takes_a_value_or_says_why_not(key: str) -> None:
    base = load_yaml(STUDIES / "recipe.yaml")
    for value in ABSURD:
        try:
            parse_config(override(base, {key: value}))
        except CycleGANError as error:
            one_line(error)


def test_a_study_takes_a_value_or_says_why_not() -> None:
    source = STUDIES / "prune_1000.yaml"
    base = load_yaml(source)
    refused = 0
    for place in places(base, 2):
        for value in ABSURD:
            try:
                parse_definition(changed(base, place, value), source)
            except CycleGANError as error:
                one_line(error)
                refused += 1
    assert refused > 200


def test_a_dataset_takes_a_value_or_says_why_not(tmp_path: Path) -> None:
    item = {"path": "a.h5", "dset": "data", "ROI0": [0, 5], "halves": ["b.h5", "c.h5"]}
    path = tmp_path / "fast.json"
    for key in (
        "train",
        "validate",
        "nonsense",
        *(f"item.{name}" for name in (*item, "no_data", "hash")),
    ):
        for value in ABSURD:
            spec: dict[str, Any] = {"train": [dict(item)], "validate": [{"path": "v.h5"}]}
            (spec["train"][0] if "." in key else spec)[key.removeprefix("item.")] = value
            path.write_text(json.dumps(spec))
            try:
                DatasetSpec.load(path)
            except CycleGANError as error:
                assert path.name in one_line(error)
