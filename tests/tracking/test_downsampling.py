from __future__ import annotations

import pytest

from cyclegan.config import parse_config
from cyclegan.history import Row
from tracking import params
from tracking.downsampling import (
    Sample,
    batches,
    interpolate,
    merge,
    metric_name,
    rates,
    row_values,
)


@pytest.mark.parametrize(
    ("counts", "accuracy", "false_positive_rate"),
    [
        ({"TP": 4, "FN": 0, "FP": 0, "TN": 4}, 1.0, 0.0),
        ({"TP": 0, "FN": 4, "FP": 4, "TN": 0}, 0.0, 1.0),
        ({"TP": 4, "FN": 0, "FP": 4, "TN": 0}, 0.5, 1.0),
        ({"TP": 3, "FN": 1, "FP": 1, "TN": 7}, 10 / 12, 1 / 8),
    ],
)
def test_rates_of_a_truth_table(
    counts: dict[str, float], accuracy: float, false_positive_rate: float
) -> None:
    found = rates(**counts)
    assert found == {"accuracy": accuracy, "false_positive_rate": false_positive_rate}


def test_a_row_shows_rates_in_place_of_counts() -> None:
    counts = {f"truth/D_B_{cell}": n for cell, n in {"TP": 1, "FN": 3, "FP": 2, "TN": 2}.items()}
    values = row_values(Row(7, 5, {"loss/C_A_l1": 0.5, "grad_norm_G": 2.0, **counts}))
    assert values == {
        "step": 5.0,
        "loss/C_A_l1": 0.5,
        "grad_norm_G": 2.0,
        "D_B/accuracy": 3 / 8,
        "D_B/false_positive_rate": 0.5,
    }


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("loss/G_A_bce", "loss/G_A_bce"),
        ("hparam/lambdas.C_A", "hparam/lambdas.C_A"),
        ("loss/100% (new)", "loss/100_ _new_"),
        ("loss/../x//y", "loss/x/y"),
        ("//", "_"),
    ],
)
def test_metric_names_are_made_valid(name: str, allowed: str) -> None:
    assert metric_name(name) == allowed


def test_merge_joins_an_iteration_and_sorts() -> None:
    samples = [
        Sample(2, {"a": 1.0}, 20),
        Sample(1, {"a": 0.0}, 10),
        Sample(2, {"a": 3.0, "b": 4.0}, 21),
    ]
    assert merge(samples) == [Sample(1, {"a": 0.0}, 10), Sample(2, {"a": 3.0, "b": 4.0}, 20)]


def test_batches_hold_the_limit_and_never_split_a_sample() -> None:
    samples = [Sample(i, {str(k): 0.0 for k in range(1 + i % 4)}, 0) for i in range(50)]
    groups = batches(samples, 10)
    assert [sample for group in groups for sample in group] == samples
    sizes = [sum(len(sample.values) for sample in group) for group in groups]
    assert max(sizes) <= 10
    # As few requests as possible: no two neighbours would fit into one.
    assert all(a + len(group[0].values) > 10 for a, group in zip(sizes, groups[1:], strict=False))


def test_times_are_spread_over_the_span() -> None:
    assert interpolate([11, 15, 20], (10, 100.0), (20, 110.0)) == [101_000, 105_000, 110_000]
    assert interpolate([5], (5, 100.0), (5, 101.0)) == [100_000]


def test_flatten_writes_dots_lists_and_single_items() -> None:
    nested = {"lr_g": 1e-4, "lambdas": {"C_A": [100.0], "G_A": [10.0, 5.0]}, "name": "x", "n": None}
    assert params.flatten(nested) == {
        "lr_g": "0.0001",
        "lambdas.C_A": "100.0",
        "lambdas.G_A": "[10.0, 5.0]",
        "name": "x",
        "n": "None",
    }


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("1", "1.0", True),
        ("1e-4", "0.0001", True),
        ("a", "a", True),
        ("a", "b", False),
        ("1", "2", False),
        ("1", "one", False),
    ],
)
def test_same_compares_numbers_as_numbers(first: str, second: str, equal: bool) -> None:
    assert params.same(first, second) is equal


def test_compared_puts_what_matters_first_and_leaves_out_what_is_usual() -> None:
    base = {"data_A": "a.json", "data_B": "b.json", "run_name": "x", "threads": 1}
    found = params.compared(parse_config(base | {"lambdas": {"C_A": 7}, "filters": 2}))
    assert list(found)[:5] == ["steps", "seed", "lr_g", "lr_d", "lambdas.G_A"]
    assert (found["lambdas.C_A"], found["filters"]) == ("7.0", "2")
    assert found["hp_optimizer.enabled"] == "False"
    assert len(found) < 40
    for name in ("run_name", "threads", "data_A", "grad_clip", "kickstart", "hp_optimizer.keep"):
        assert name not in found


def test_compared_has_whatever_was_changed() -> None:
    base = {"data_A": "a.json", "data_B": "b.json"}
    changes = {"grad_clip": 5, "lr_schedule": {"kind": "step", "gamma": 0.9}, "kickstart_steps": 9}
    usual = params.compared(parse_config(base))
    found = params.compared(parse_config(base | changes))
    assert {name: found[name] for name in found.keys() - usual.keys()} == {
        "grad_clip": "5.0",
        "lr_schedule.kind": "step",
        "lr_schedule.gamma": "0.9",
    }  # and nothing about the kickstart, which is off
    optimizer = {"enabled": True, "keep": 9}
    found = params.compared(parse_config(base | {"hp_optimizer": optimizer, "kickstart": True}))
    assert (found["hp_optimizer.enabled"], found["hp_optimizer.keep"]) == ("True", "9")
    assert found["kickstart"] == "True"
