"""Wrong configurations are refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyclegan import Config, load_config, parse_config
from cyclegan.config import override, parse_overrides
from cyclegan.errors import ConfigError
from cyclegan.hparams import HParams
from cyclegan.losses import GROUPS

MINIMAL = {"data_A": "a.json", "data_B": "b.json"}


def test_defaults_are_the_originals() -> None:
    config = parse_config(MINIMAL)
    assert (config.batch_size, config.imsize_A, config.filters) == (4, (128, 128, 128), 32)
    assert (config.lr_g, config.lr_d, config.grad_clip) == (2e-4, 1e-4, 1.0)
    assert config.lambdas.G_A == (10.0,)
    assert config.lambdas.D_A == (1.0,)
    assert config.lambdas.C_A == (100.0,)
    assert config.terms("G_A")[0].name == "G_A_bce"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr_gg": 1}, ["lr_gg", "did you mean 'lr_g'"]),
        ({"lambdas": {"G_X": 1}}, ["lambdas.G_X", "not a known key"]),
        ({"net_A": "UNetSim3D"}, ["UNetSim3D", "did you mean 'UNetSim3d'"]),
        ({"lr_g": "fast"}, ["lr_g", "'fast'"]),
        ({"lr_g": float("nan")}, ["lr_g", "nan"]),
        ({"lambdas": {"C_A": -1}}, ["lambdas.C_A", "-1", "greater than or equal to 0"]),
        ({"lambdas": {"G_A": [1, 2]}}, ["lambdas.G_A", "2 values", "lossFuncs.G_A"]),
        ({"lossFuncs": {"C_A": "mes"}}, ["lossFuncs.C_A", "did you mean 'mse'"]),
        ({"lossFuncs": {"C_A": "bce"}}, ["lossFuncs.C_A", "bce", "known: dice"]),
        ({"lossNames": {"G_A": "x", "G_B": "x"}}, ["'x'", "unique"]),
        ({"super_resolution": 2}, ["super_resolution = 2", "net_A = UNetSim3d"]),
        ({"super_resolution": 3}, ["super_resolution", "3"]),
        ({"imsize_A": [30, 32, 32]}, ["[30, 32, 32]", "multiples of 4", "imsize_A"]),
        ({"imsize_A": [20, 32, 32]}, ["[20, 32, 32]", "at least 24"]),
        ({"imsize_A": [32, 32]}, ["imsize_A"]),
        ({"run_name": "../up"}, ["run_name", "../up"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"hp_optimizer": {"kep": 3}}, ["hp_optimizer.kep", "did you mean 'keep'"]),
    ],
)
def test_wrong_values_are_refused_by_name(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**MINIMAL, **changes}, source="here")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_keyword_arguments_are_checked_like_files() -> None:
    config = Config(data_A="a.json", data_B="b.json", lambdas={"C_A": 50})
    assert config == parse_config({**MINIMAL, "lambdas": {"C_A": 50}})
    with pytest.raises(ConfigError, match="did you mean 'lr_g'"):
        Config(data_A="a.json", data_B="b.json", lr_gg=1)


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="data_B is missing"):
        parse_config({"data_A": "a.json"})


def test_yaml_form_is_complete(tmp_path: Path) -> None:
    config = parse_config(
        {**MINIMAL, "lambdas": {"G_A": [1, 2]}, "lossFuncs": {"G_A": ["bce", "lsgan"]}}
    )
    path = tmp_path / "c.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_config(MINIMAL).lr_g = 1  # type: ignore[misc]


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data_A: a.json\ndata_B: b.json\nhp_optimizer: true\nlambdas: {G_A: 7}\n")
    texts = ["lambdas.C_A=50", "lr_g=1e-3", "hp_optimizer.keep=3", "lambdas.G_A.0=8"]
    config = load_config(path, texts)
    assert config.lambdas.C_A == (50.0,)
    assert config.lr_g == 1e-3
    assert config.hp_optimizer.enabled
    assert config.hp_optimizer.keep == 3
    assert config.lambdas.G_A == (8.0,)


@pytest.mark.parametrize("text", ["lr_g", "=3", "lr_g=[1"])
def test_malformed_overrides(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([text])


def test_override_changes_a_copy() -> None:
    values = {"lambdas": {"G_A": [1.0, 2.0]}}
    changed = override(values, {"lambdas.G_A.1": 5})
    assert changed == {"lambdas": {"G_A": [1.0, 5]}}
    assert values == {"lambdas": {"G_A": [1.0, 2.0]}}
    with pytest.raises(ConfigError, match="not an index"):
        override(values, {"lambdas.G_A.2": 5})


def test_malformed_yaml_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data_A: a\n  data_B: [\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 2, column"):
        load_config(path)


def test_hparams_names_and_bounds() -> None:
    config: Config = parse_config(
        {**MINIMAL, "lambdas": {"G_A": [1, 2]}, "lossFuncs": {"G_A": ["bce", "lsgan"]}}
    )
    hparams = HParams.from_config(config)
    changed = hparams.changed({"lambdas.G_A.1": 4, "lr_d": 1e-5})
    assert changed.lambdas["G_A"] == (1.0, 4.0)
    assert changed.lr_d == 1e-5
    assert hparams.lambdas["G_A"] == (1.0, 2.0)
    with pytest.raises(ConfigError, match=r"did you mean 'lambdas\.C_A'"):
        hparams.changed({"lambda.C_A": 1})
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigError, match="lr_g"):
            hparams.changed({"lr_g": bad})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lambdas": dict.fromkeys(GROUPS, 0)}, "lambdas: all are 0, so the training would learn"),
        ({"betas": [0.5, 1.0]}, "betas.1 = 1.0"),
        ({"betas": [-0.1, 0.9]}, "betas.0 = -0.1"),
        ({"seed": 2**64}, "seed = 18446744073709551616"),
        ({"hp_optimizer": {"seed": 2**64}}, "hp_optimizer.seed = 18446744073709551616"),
    ],
)
def test_values_with_which_nothing_can_be_trained_are_refused(
    tiny: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny | changes)
    assert words in str(caught.value)


def test_hyperparameters_may_not_all_become_0(config: Config) -> None:
    hparams = HParams.from_config(config)
    zero = {name: 0.0 for name in hparams.flat() if name.startswith("lambdas.")}
    with pytest.raises(ConfigError, match="all lambdas would be 0"):
        hparams.changed(zero)
