"""Sizes are bounded before anything is allocated, and the user's code can't hang a command."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan import Trainer, parse_config
from cyclegan.errors import ConfigError
from cyclegan.footprint import check_memory
from cyclegan.precision import choose_device
from search.study import run_study, space
from search.study.definition import StudyDefinition, load_definition, parse_definition
from search.study.runner import _largest
from viz.console import Console

Define = Callable[..., StudyDefinition]
WIDE = {"type": "int", "low": 1, "high": 10**6}


def test_a_huge_grid_is_refused_before_it_is_listed(define: Define) -> None:
    space = {"validate_every": WIDE, "checkpoint_every": WIDE}
    with pytest.raises(ConfigError, match="1,000,000,000,000 combinations") as caught:
        define(space=space, sampler={"name": "grid"}, trials=2)
    for text in ("validate_every 1,000,000", "fewer points or larger steps", "take the sampler"):
        assert text in str(caught.value)


def test_a_grid_of_points_is_counted_by_its_points(define: Define) -> None:
    space = {"validate_every": WIDE | {"points": 3}, "checkpoint_every": WIDE | {"points": 4}}
    assert define(space=space, sampler={"name": "grid"}).trials == 12


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"type": "float", "low": 0.0, "high": 0.5, "step": 1e-320}, "not a whole number of steps"),
        ({"type": "float", "low": 0.1, "high": float("inf")}, "finite"),
        ({"type": "float", "low": 0.0, "high": 0.5, "step": 2.0**-30}, "536,870,913 combinations"),
    ],
)
def test_ranges_without_end_are_refused(
    define: Define, dimension: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        define(space={"lr_g": dimension}, sampler={"name": "grid"})


def test_more_trials_than_a_study_can_hold_are_refused(define: Define) -> None:
    with pytest.raises(ConfigError, match="trials = 1000000000000: a study may have at most"):
        define(trials=10**12)
    with pytest.raises(ConfigError, match="at most 100,000"):
        define().with_trials(10**9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filters": 50_000}, "filters = 50000, filters_D = 4: at least"),
        ({"batch_size": 10**9}, "batch_size = 1000000000, imsize_A = [8, 8, 8]: at least"),
        ({"validation_patches": 10**9}, "validation_patches = 1000000000"),
    ],
)
def test_a_training_beyond_the_memory_is_refused_before_it_is_built(
    tiny: dict[str, Any], project: Path, changes: dict[str, Any], words: str
) -> None:
    config = parse_config(tiny | changes)
    began = time.monotonic()
    for check in (Trainer, lambda config: check_memory(config, torch.device("cpu"))):
        with pytest.raises(ConfigError) as caught:
            check(config)
        assert words in str(caught.value)
        assert "lower one of them" in str(caught.value)
    assert time.monotonic() - began < 10


def test_absurd_widths_are_refused_in_the_file(tiny: dict[str, Any]) -> None:
    for key in ("filters", "filters_D", "channels_A"):
        with pytest.raises(ConfigError, match=f"{key} = 100000000"):
            parse_config(tiny | {key: 100_000_000})


def test_a_study_checks_the_largest_values_of_its_space(define: Define) -> None:
    definition = define(space={"filters": {"type": "int", "low": 2, "high": 50_000}})
    with pytest.raises(ConfigError, match="filters = 50000"):
        run_study(definition, store=lambda: pytest.fail("opened"), console=Console(quiet=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def lambdas(trial):\n    while True: pass", "did not end within 0.2 seconds"),
        ("while True: pass", "did not end within 0.2 seconds"),
        ("def lambdas(trial): exit(3)", r"space\.py:lambdas ended the program \(sys\.exit\(3\)\)"),
        ("import sys; sys.exit(0)", r"space\.py ended the program"),
    ],
)
def test_a_function_that_never_returns_is_refused(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    message: str,
) -> None:
    monkeypatch.setattr(space, "MOST_SECONDS", 0.2)
    (tmp_path / "space.py").write_text(text)
    content = {"name": "s", "config": tiny, "space": "space.py:lambdas"}
    with pytest.raises(ConfigError, match=message):
        parse_definition(content, tmp_path / "s.yaml")


SHIPPED = [
    path
    for path in sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))
    if "\nspace:" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_studies_fit(path: Path) -> None:
    for config in _largest(load_definition(path)):
        check_memory(config, choose_device(config.device))
