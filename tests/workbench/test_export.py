"""The command `export`: one complete file of a model, however the model is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan import parse_config
from cyclegan.generator import load_generator, save_generators
from cyclegan.model import CycleGAN
from cyclegan.portable import recipe
from tracking import Store
from workbench import cli
from workbench.session import run


@pytest.fixture
def generator(project: Path, tiny: dict[str, Any]) -> Path:
    """A file with an untrained generator in the project's folder."""
    path = project / "generator.pt"
    model = CycleGAN(parse_config(tiny | {"init_std": 0.2}), torch.device("cpu"))
    save_generators(model, path, step=7, score=0.5)
    return path


@pytest.fixture
def export(
    generator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run `cyclegan export` in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", "export", *arguments, "--quiet"])
        code = run(cli.app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_champion_and_a_file_become_a_file_for_elsewhere(
    export: Any, generator: Path, project: Path
) -> None:
    store = Store.open()
    made = store.create_run("demo", "p", kind="promoted", params={}, tags={})
    tags = {"study": "demo", "trial": 3}
    version, _ = store.registry.register("demo", made, generator, score=0.5, tags=tags)
    store.registry.challenge(version)
    code, out, err = export("generator.pt", "--output", "a.pt2", "--direction", "B")
    assert (code, err) == (0, "")
    for words in ("a.pt2", "domain B, (B, 1, Z, Y, X) float32", "multiples of 4", "halo"):
        assert words in out
    read, about = recipe.load(Path("a.pt2"))
    assert (about["origin"], about["direction"]) == ({}, "B")
    image = torch.randn(1, 1, 8, 12, 4)
    torch.testing.assert_close(read(image), load_generator(generator, "B").network(image))

    before = Path("a.pt2").read_bytes()
    code, _, err = export("champion", "--output", "a.pt2")
    assert (code, "--overwrite" in err) == (1, True)
    assert Path("a.pt2").read_bytes() == before
    code, out, err = export("champion", "--output", "a.pt2", "--overwrite", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["output"] == "a.pt2"
    wanted = {"study": "demo", "trial": "3", "run": made.id, "version": "demo@1"}
    assert data["about"]["origin"] == wanted
    read, about = recipe.load(Path("a.pt2"))
    assert about == data["about"]
    torch.testing.assert_close(read(image), load_generator(generator).network(image))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generator.pt", "--output", "a.onnx"], 2, "must end in .pt2"),
        (["generator.pt", "--output", "a.pt2", "--direction", "C"], 2, "--direction C"),
        (["demo@champion", "--output", "a.pt2"], 1, "no model 'demo' is registered"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    export: Any, arguments: list[str], code: int, words: str
) -> None:
    before = {path.name for path in Path().iterdir()}
    got, out, err = export(*arguments)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert words in err
    assert {path.name for path in Path().iterdir()} == before
