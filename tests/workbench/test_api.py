"""`train()` with the old software's arguments, its presets, and its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import workbench
from cyclegan import Config, load_config
from cyclegan.config import HPOptimizer
from cyclegan.errors import ConfigError, DataError, UsageError
from workbench.api import config_of

ROOT = Path(__file__).parent.parent.parent
PRESETS = ("2x_1ms", "4x_3ms", "4x_0p5ms")
SMALL = {
    "filters": 2,
    "filters_D": 4,
    "layers_D": 1,
    "batch_size": 2,
    "imsize_A": [8, 8, 8],
    "device": "cpu",
    "precision": "fp32",
    "validation_patches": 4,
}


def printed_blocks() -> list[str]:
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("block", printed_blocks(), ids=["first", "second"])
def test_the_printed_blocks_train(
    block: str, project: Path, datasets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed, but for the paths, and for sizes that a test can afford."""
    train, finished = workbench.train, []

    def smaller(**arguments: Any) -> None:
        paths = {"data_A": str(datasets[0]), "data_B": str(datasets[1])}
        finished.append(train(**arguments | SMALL | paths | {"steps": 2, "quiet": True}))

    monkeypatch.setattr(workbench, "train", smaller, raising=False)
    exec(block, {})
    (done,) = finished
    assert (done.result.outcome, done.result.step) == ("completed", 2)
    assert (project / "results/2x_1ms/save/checkpoint.pt").is_file()
    assert (project / "results/2x_1ms/train/iteration-00000002.png").is_file()


def test_the_second_block_says_what_its_comments_say() -> None:
    source = printed_blocks()[1].partition("train(")[2].rpartition(")")[0]
    config = config_of(eval(f"dict({source})", {"nn": nn}))  # noqa: S307
    names = [(term.name, term.function) for term in config.terms("G_A")]
    assert names == [("G_A_BCE", "bce"), ("G_A_KLD", "kl")]
    assert config.lambdas.G_A == (10.0, 5.0)
    assert (config.lr_g, config.lr_d) == (2e-4, 1e-4)


def test_arguments_of_the_old_software_and_of_the_configuration() -> None:
    config = config_of(
        {
            "data_A": "a.json",
            "data_B": "b.json",
            "channels_A": 2,
            "channels_B": 2,
            "channels_C_A": [0, [0, 1]],
            "lossFuncs_C_A": [nn.L1Loss(), "ssim"],
            "lambdas_C_A": [50, 5],
            "HPoptimizer": True,
            "num_iters": 123,
            "validate_every": 7,
        }
    )
    assert [t.channels for t in config.terms("C_A")] == [(0,), (0, 1)]
    assert config.hp_optimizer == HPOptimizer(enabled=True)
    assert (config.steps, config.validate_every) == (123, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lamdas_G_A": [1]}, "did you mean 'lambdas_G_A'"),
        ({"lambdas_G_A": [1, 2]}, "give one lambda per loss function"),
        ({"lossFuncs_C_A": [nn.BCELoss()]}, "not a loss of two images"),
        ({"lossFuncs_D_A": ["kl"]}, "not a loss for a discriminator"),
        ({"channels_C_A": [[3]]}, "must name some of the 1 channels"),
        ({"net_A": "UNetSim3dSRx2"}, "super_resolution = 1 needs"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_of({"data_A": "a.json", "data_B": "b.json"} | arguments)


def test_an_existing_run_is_continued_only_if_asked(
    project: Path, datasets: tuple[Path, Path]
) -> None:
    arguments = SMALL | {"data_A": str(datasets[0]), "data_B": str(datasets[1]), "quiet": True}
    assert workbench.train(**arguments, steps=1).result.step == 1
    with pytest.raises(DataError, match="already holds a training"):
        workbench.train(**arguments, steps=2)
    assert workbench.train(**arguments, steps=2, resume=True).result.step == 2


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_originals_settings(name: str) -> None:
    config = load_config(ROOT / "studies" / f"{name}.yaml")
    assert config.run_name == name
    assert (config.batch_size, config.filters, config.lr_d) == (4, 32, 1e-4)
    assert (config.grad_clip, config.init_std, config.betas) == (1.0, 0.02, (0.5, 0.999))
    if name == "2x_1ms":
        assert (config.kickstart, config.lr_g) == (True, 2e-4)
        assert config.imsize_A == (64, 128, 128)
    else:
        assert (config.hp_optimizer.enabled, config.lr_g) == (True, 1e-3)
        assert config.imsize_A == (64, 64, 64)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_train(name: str, datasets: tuple[Path, Path]) -> None:
    sizes = [f"{key}={json.dumps(value)}" for key, value in SMALL.items()]
    paths = [f"data_A={datasets[0]}", f"data_B={datasets[1]}"]
    config: Config = load_config(ROOT / "studies" / f"{name}.yaml", [*sizes, *paths, "steps=1"])
    from cyclegan import Trainer

    trainer = Trainer(config)
    assert trainer.fit().outcome == "completed"
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_evaluate_enhances_every_validation_volume_in_its_region(
    project: Path, datasets: tuple[Path, Path]
) -> None:
    arguments = SMALL | {"data_A": str(datasets[0]), "data_B": str(datasets[1]), "quiet": True}
    workbench.train(**arguments, run_name="t", steps=1)
    entry = {"path": str(datasets[0].parent / "fast_validate.h5"), "dset": "data"}
    region = {"ROI0": [8, 24]}
    spec = {"train": [entry], "validate": [entry | region]}
    Path("e.json").write_text(json.dumps(spec))
    call = {"modelfile": "results/t/save/generator.pt", "ev_name": "first", "quiet": True}
    (output,) = workbench.evaluate(datafile="e.json", SR=1, trust=False, **call)
    assert output.relative_to(project) == Path("eval/first/fast_validate.h5")
    with h5py.File(output) as handle:
        assert handle["data"].shape == (16, 40, 40)
    with pytest.raises(UsageError, match=r"SR = 2: .* changes the resolution by 1"):
        workbench.evaluate(datafile="e.json", SR=2, **call)
    with pytest.raises(UsageError, match="a plain name"):
        workbench.evaluate(datafile="e.json", SR=1, **call | {"ev_name": "../first"})


def test_holes_are_refused_before_the_first_step_until_the_dataset_json_accepts_them(
    project: Path, datasets: tuple[Path, Path]
) -> None:
    arguments = SMALL | {"data_A": "holes.json", "data_B": str(datasets[1]), "quiet": True}
    with h5py.File("holes.h5", "w") as handle:
        made = handle.create_dataset("data", (40, 40, 40), "f4", chunks=(20, 40, 40))
        made[:20] = np.random.default_rng(0).normal(size=(20, 40, 40))
    entry: dict[str, Any] = {"path": "holes.h5"}
    Path("holes.json").write_text(json.dumps({"train": [entry], "validate": [entry]}))
    with pytest.raises(DataError, match=r"holes.h5:data: 1 of 2 chunks .*\"fill_missing\": true"):
        workbench.train(**arguments, run_name="t", steps=1)
    assert not list((project / "results").rglob("*.pt"))
    entry["fill_missing"] = True
    Path("holes.json").write_text(json.dumps({"train": [entry], "validate": [entry]}))
    workbench.train(**arguments, run_name="t", steps=1)
    (output,) = workbench.evaluate(
        datafile="holes.json",
        modelfile="results/t/save/generator.pt",
        ev_name="first",
        SR=1,
        trust=False,
        report=False,
        quiet=True,
    )
    assert output.is_file()


def test_no_module_hides_a_function_of_the_api() -> None:
    """`from workbench import train` gives the function, whatever was imported before."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(workbench.__path__)}
    assert not modules & set(workbench.__all__)
    assert all(callable(getattr(workbench, name)) for name in workbench.__all__)


def test_a_study_becomes_an_enhanced_volume_from_python(
    project: Path, small: dict[str, Any], datasets: tuple[Path, Path]
) -> None:
    """Search, promote, enhance: each returns what the next one needs, and prints nothing."""
    (project / "studies").mkdir(exist_ok=True)
    changes = {"trials": 1, "steps": 8, "pruner": {"name": "none", "prune_after": 4}}
    content = small | changes | {"promote": {"steps": 10, "start": "continue"}}
    (project / "studies" / "small.yaml").write_text(json.dumps(content))
    study = workbench.run_study("studies/small.yaml", quiet=True)
    assert [trial.state for trial in study.trials()] == ["complete"]
    promoted = workbench.promote("small", quiet=True)
    assert (promoted.trial, promoted.finished.result.step) == (study.best().number, 10)
    volume = datasets[0].with_name("fast_validate.h5")
    (result,) = workbench.enhance(
        volume,
        model=f"small:{promoted.trial}",
        output="enhanced.h5",
        trust=False,
        report=False,
        quiet=True,
    )
    with h5py.File(result.path) as file:
        assert file["data"].shape == (32, 40, 40)
    assert result.to_dict()["run_id"] == result.run_id
