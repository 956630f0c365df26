"""A user's own loss: found from the working directory, checked, frozen, never imported early."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from cyclegan import parse_config
from cyclegan.errors import ConfigError
from cyclegan.losses import Adversarial, Term, check_function, image_loss, resolve, resolve_terms
from cyclegan.losses.own import load
from cyclegan.model import CycleGAN

SOURCE = """
import torch
from torch import nn

class Halved(nn.Module):
    def forward(self, image, target):
        return 0.5 * (image - target).abs().mean()

class Features(nn.Module):
    threshold = 0.25
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(()))
    def forward(self, image, target):
        return (self.drop(self.layer(image)) - self.layer(target)).square().mean() * self.scale

class Map(nn.Module):
    def forward(self, image, target):
        return (image - target).abs()

class Number(nn.Module):
    def forward(self, image, target):
        return (image - target).mean().item()

class Detached(nn.Module):
    def forward(self, image, target):
        return (image.detach() - target).abs().mean()

class Arguments(nn.Module):
    def __init__(self, weight):
        super().__init__()

class Raises(nn.Module):
    def forward(self, image, target):
        raise RuntimeError("cannot judge\\nthis")

class Threshold(nn.Module):
    threshold = "high"
    def forward(self, image, target):
        return (image - target).mean()

class Plain:
    pass

def function(image, target):
    return image.mean()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a fresh module in the working directory, which is not on the path."""
    name = f"own_loss_{abs(hash(request.node.nodeid)):x}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    return name


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    image, target = (torch.randn(2, 1, 6, 7, 8, generator=random) for _ in range(2))
    return image.requires_grad_(), target


def test_a_module_in_the_working_directory_is_a_loss(module: str) -> None:
    path = list(sys.path)
    terms = resolve_terms("C_A", [Term("C_A_Halved", f"{module}:Halved")])
    image, target = pair()
    total, values = image_loss(terms, [4.0], image, target)
    assert torch.equal(values["C_A_Halved"], 0.5 * (image - target).abs().mean())
    total.backward()
    assert image.grad is not None
    assert image.grad.any()
    assert sys.path == path


def test_the_guide_s_example_is_a_loss(module: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "losses.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / f"{module}.py").write_text(example)
    (term,) = resolve_terms("C_A", [Term("x", f"{module}:Gradients")])
    image, target = pair()
    assert float(term.function(image, target).detach()) > 0
    assert float(term.function(image, image.detach() + 3).detach()) == pytest.approx(0, abs=1e-6)


def test_checking_a_configuration_imports_nothing(module: str, tiny: dict[str, object]) -> None:
    check_function("C_A", f"{module}:Halved")
    check_function("C_A", "no.such.module:Class")
    lossFuncs = {"C_A": f"{module}:Halved"}
    parse_config(tiny | {"lossFuncs": lossFuncs})
    assert module not in sys.modules


@pytest.mark.parametrize(
    "name",
    ["a:", ":B", "a:b:c", "a.b:c.d", "a-b:C", "a:import", "../a:B", "a :B", "a:B()", "a..b:C"],
)
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"lossFuncs\.C_A: .*form module:Class"):
        check_function("C_A", name)


BAD = [
    ("no_such_module:Loss", "there is no module 'no_such_module' in"),
    ("{m}.deeper:Loss", "there is no module|is not a package"),
    ("{m}:Missing", "no such class"),
    ("{m}:Plain", "not a class derived from nn.Module"),
    ("{m}:function", "not a class derived from nn.Module"),
    ("{m}:Arguments", "calling it without arguments raised TypeError"),
]


@pytest.mark.parametrize(("name", "message"), BAD)
def test_what_cannot_be_had_is_named(module: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("C_A", name.format(m=module))
    assert "lossFuncs.C_A" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_thing", "importing .* raised ModuleNotFoundError: .*no_such_thing"),
        ("class X(:", "importing .* raised SyntaxError"),
        ("1 / 0", "importing .* raised ZeroDivisionError"),
    ],
)
def test_a_module_that_does_not_import_is_named(
    module: str, tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / f"{module}.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        resolve("C_A", f"{module}:X")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Map", r"returned shape \(2, 1, 6, 7, 8\); a loss is one number"),
        ("Number", "returned a float; a loss is one number"),
        ("Detached", "no gradient"),
        ("Raises", r"with tensors \(2, 1, 6, 7, 8\) it raised RuntimeError: cannot judge"),
    ],
)
def test_wrong_results_are_refused_at_the_first_call(module: str, name: str, message: str) -> None:
    terms = resolve_terms("C_A", [Term("x", f"{module}:{name}")])
    with pytest.raises(ConfigError, match=message) as caught:
        image_loss(terms, [1.0], *pair())
    assert f"lossFuncs.C_A: {module}:{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parameters_are_frozen_the_same_every_time_and_move_to_the_device(module: str) -> None:
    state = torch.random.get_rng_state()
    first, second = (load("lossFuncs.C_A", f"{module}:Features") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.layer.weight, second.layer.weight)  # type: ignore[union-attr,arg-type]
    assert not any(p.requires_grad for p in first.parameters())
    assert not first.training
    # This shows without an accelerator that parameters and buffers leave the CPU.
    (term,) = resolve_terms("C_A", [Term("x", f"{module}:Features")], "meta")
    assert term.function(*pair()).device.type == "meta"


def test_an_own_loss_runs_in_single_precision_under_autocast(module: str) -> None:
    (term,) = resolve_terms("C_A", [Term("x", f"{module}:Features")])
    image, target = pair()
    with torch.autocast("cpu", torch.bfloat16):
        value = term.function(image.bfloat16(), target)
    assert value.dtype == torch.float32
    assert torch.equal(value, term.function(image.bfloat16().float(), target))


def test_an_adversarial_own_loss_gets_a_map_of_ones_or_zeros(module: str) -> None:
    loss = resolve("D_A", f"{module}:Halved")
    assert isinstance(loss, Adversarial)
    assert loss.threshold == 0
    judgement = torch.full((2, 1, 3, 3, 3), 0.75)
    assert float(loss.function(judgement, "real")) == 0.125
    assert float(loss.function(judgement, "generator")) == 0.125
    assert float(loss.function(judgement, "generated")) == 0.375


def test_the_threshold_of_an_own_loss_is_honoured(module: str) -> None:
    (term,) = resolve_terms("D_A", [Term("x", f"{module}:Features")])
    assert term.threshold == 0.25
    with pytest.raises(ConfigError, match="threshold = 'high'; must be a finite number"):
        resolve("D_A", f"{module}:Threshold")


def test_a_training_step_with_own_losses_and_several_channel_sets(
    module: str, tiny: dict[str, object]
) -> None:
    own = f"{module}:Halved"
    config = parse_config(
        tiny
        | {
            "channels_A": 2,
            "channels_B": 2,
            "lossFuncs": {
                "G_A": ["lsgan", "lsgan"],
                "D_A": ["lsgan", "hinge"],
                "C_A": ["ssim", "fsc", own],
                "C_B": [own, "dice", "kl"],
            },
            "lossNames": {
                "G_A": ["G_A_first", "G_A_second"],
                "C_A": ["C_A_ssim", "C_A_fsc", "C_A_Halved"],
                "C_B": ["C_B_Halved", "C_B_dice", "C_B_kl"],
            },
            "lossChannels": {"G_A": [[0], [1]], "D_A": [[0], [1]]},
            "lambdas": {"G_A": [1, 1], "D_A": [1, 1], "C_A": [1, 1, 1], "C_B": [1, 1, 1]},
        }
    )
    model = CycleGAN(config, torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    patches = [torch.randn(1, 2, 8, 8, 8, generator=random) for _ in range(2)]
    before = [p.detach().clone() for p in (*model.generators, *model.discriminators)]
    metrics, _ = model.training_step(patches[0], patches[1])
    losses = {k: float(v.detach()) for k, v in metrics.items() if k.startswith("loss/")}
    assert {"loss/C_A_fsc", "loss/C_B_Halved", "loss/G_A_second", "loss/D_A_hinge"} <= set(losses)
    assert all(torch.isfinite(torch.tensor(list(losses.values()))))
    after = (*model.generators, *model.discriminators)
    assert any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))
