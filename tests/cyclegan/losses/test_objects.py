"""Torch's loss objects, as the seed document passes them, become names of functions."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from cyclegan.errors import ConfigError
from cyclegan.losses import function_name_of, resolve

KNOWN = [
    (nn.BCELoss(), "G_A", "bce"),
    (nn.BCELoss(), "D_B", "bce"),
    (nn.BCEWithLogitsLoss(), "D_A", "bce"),
    (nn.MSELoss(), "D_A", "lsgan"),
    (nn.MSELoss(), "C_A", "mse"),
    (nn.L1Loss(), "C_B", "l1"),
    (nn.SmoothL1Loss(), "I_A", "smooth_l1"),
    (nn.KLDivLoss(), "G_B", "kl"),
    (nn.KLDivLoss(), "I_B", "kl"),
    (nn.L1Loss, "C_A", "l1"),
    ("BCELoss", "G_A", "bce"),
    ("nn.KLDivLoss()", "G_A", "kl"),
    ("torch.nn.MSELoss", "I_A", "mse"),
    ("hinge", "D_A", "hinge"),
    ("ssim", "C_A", "ssim"),
    ("my_losses:Sobel", "C_A", "my_losses:Sobel"),
    (nn.HuberLoss(), "C_A", "torch.nn.modules.loss:HuberLoss"),
]


@pytest.mark.parametrize(("loss", "group", "name"), KNOWN)
def test_known_losses(loss: object, group: str, name: str) -> None:
    assert function_name_of(loss, group) == name


def test_the_list_of_the_seed_document() -> None:
    losses = [nn.BCELoss(), nn.KLDivLoss()]
    assert [function_name_of(loss, "G_A") for loss in losses] == ["bce", "kl"]


@pytest.fixture
def classes() -> Any:
    """A module with a user's classes."""
    module = ModuleType("losses_of_a_user")
    source = """
from torch import nn
class Plain(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
    def forward(self, x, y):
        return self.scale * (x - y).abs().mean()
class Needs(nn.Module):
    def __init__(self, scale):
        super().__init__()
def local():
    class Local(nn.Module):
        pass
    return Local()
"""
    exec(source, module.__dict__)
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_another_module_s_instance_is_found_again_by_its_name(classes: Any) -> None:
    name = function_name_of(classes.Plain(), "C_A")
    assert name == "losses_of_a_user:Plain"
    loss: Any = resolve("C_A", name)
    assert float(loss(torch.zeros(3), torch.ones(3))) == 1


def test_what_only_its_maker_knows_is_refused(classes: Any) -> None:
    with pytest.raises(ConfigError, match=r"lossFuncs_C_A: Plain was made with scale = 2\.0"):
        function_name_of(classes.Plain(2.0), "C_A")
    with pytest.raises(ConfigError, match=r"Needs needs arguments \(scale\)"):
        function_name_of(classes.Needs(1), "C_A")
    with pytest.raises(ConfigError, match=r"Local.* can't be imported by that name"):
        function_name_of(classes.local(), "C_A")
    classes.Plain.__module__ = "__main__"
    with pytest.raises(ConfigError, match="defined in the script that is running"):
        function_name_of(classes.Plain(), "C_A")


@pytest.mark.parametrize(
    ("loss", "group", "message"),
    [
        (nn.KLDivLoss(), "D_A", "no lower bound; take bce"),
        (nn.BCELoss(), "C_A", "nn.BCELoss is not a loss of two images; known there: l1"),
        (nn.L1Loss(), "G_A", "nn.L1Loss is not a loss of a patch map; known there: bce"),
        (nn.SmoothL1Loss(beta=0.1), "C_A", "SmoothL1Loss was made with beta = 0.1"),
        (nn.MSELoss(reduction="sum"), "C_A", "MSELoss was made with reduction = 'sum'"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)), "G_A", "made with pos_weight"),
        (nn.KLDivLoss(log_target=True), "G_A", "made with log_target = True"),
        (3, "G_A", "3 is not a loss; give a torch.nn.Module"),
        (torch.sigmoid, "G_A", "is not a loss"),
        (int, "G_A", "is not a loss"),
        ("bcee", "G_A", "did you mean 'bce'"),
    ],
)
def test_what_makes_no_sense_is_named(loss: object, group: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        function_name_of(loss, group)
