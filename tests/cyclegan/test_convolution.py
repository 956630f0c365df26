"""The fast convolution gives PyTorch's results and gradients, and steps aside where it must."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cyclegan import convolution
from cyclegan.convolution import Conv3d

SHAPES = [
    (1, 1, 8, (6, 5, 4)),
    (1, 8, 8, (6, 6, 6)),
    (1, 24, 4, (8, 4, 6)),
    (1, 3, 5, (7, 4, 5)),
    (1, 16, 16, (1, 1, 2)),
    (2, 4, 6, (5, 4, 3)),
]


@pytest.fixture(autouse=True)
def _small_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "LEAST", 0)


def _pair(inputs: int, outputs: int) -> tuple[Conv3d, nn.Conv3d]:
    ours, theirs = Conv3d(inputs, outputs), nn.Conv3d(inputs, outputs, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def _gradients(layer: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    result = layer(x)
    return [result, *torch.autograd.grad(result, (x, *layer.parameters()), gradient)]


@pytest.mark.parametrize(("batch", "inputs", "outputs", "size"), SHAPES)
def test_results_and_gradients_are_those_of_pytorch(
    batch: int, inputs: int, outputs: int, size: tuple[int, ...]
) -> None:
    ours, theirs = _pair(inputs, outputs)
    x = torch.randn(batch, inputs, *size, requires_grad=True)
    gradient = torch.randn(batch, outputs, *size)
    for found, expected in zip(
        _gradients(ours, x, gradient), _gradients(theirs, x, gradient), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "inputs", "outputs", "size"), SHAPES)
def test_a_penalty_on_the_gradient_has_the_gradients_of_pytorch(
    batch: int, inputs: int, outputs: int, size: tuple[int, ...]
) -> None:
    penalties = []
    x = torch.randn(batch, inputs, *size, requires_grad=True)
    for layer in _pair(inputs, outputs):
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().mean(), (x, layer.weight)))
    for found, expected in zip(*penalties, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for_is_computed() -> None:
    layer = Conv3d(4, 4)
    x = torch.randn(1, 4, 4, 4, 4)
    layer(x).sum().backward()  # the image needs no gradient
    layer.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    assert torch.isfinite(gradient).all()


def test_the_same_image_gives_the_same_bits_again() -> None:
    layer = Conv3d(8, 8)
    x = torch.randn(1, 8, 8, 8, 8, requires_grad=True)
    first, again = (_gradients(layer, x, torch.ones(1, 8, 8, 8, 8)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_other_precisions_are_left_to_pytorch() -> None:
    ours, theirs = _pair(4, 4)
    x = torch.randn(1, 4, 4, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))
        assert ours(x).dtype == torch.bfloat16
    assert torch.equal(ours.double()(x.double()), theirs.double()(x.double()))


def test_an_exported_layer_runs_without_onednn() -> None:
    x = torch.randn(1, 4, 4, 4, 4)
    exported = torch.export.export(Conv3d(4, 4), (x,))
    assert not [node for node in exported.graph.nodes if "mkldnn" in str(node.target)]


def test_small_images_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "LEAST", 4 * 4**3)
    called: list[int] = []
    monkeypatch.setattr(convolution, "_convolve", lambda x, *_: called.append(x.numel()) or x)
    layer = Conv3d(4, 4)
    layer(torch.randn(2, 4, 4, 4, 4))
    layer(torch.randn(2, 4, 4, 4, 3))
    assert called == [2 * 4 * 4**3]


def test_other_processors_use_pytorchs_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "USE_ONEDNN", False)
    ours, theirs = _pair(4, 4)
    x = torch.randn(1, 4, 4, 4, 4)
    assert torch.equal(ours(x), theirs(x))
