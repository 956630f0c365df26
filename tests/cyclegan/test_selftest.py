"""A wrong bf16 kernel is seen before anything relies on it, and a right one passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cyclegan import convolution
from cyclegan.data import VolumeEntry
from cyclegan.enhance import EnhanceSettings, enhance_file
from cyclegan.enhance.network import Generator, trusted_precision
from cyclegan.errors import CycleGANError
from cyclegan.networks import GENERATORS, UNet3d, build_generator, initialise
from cyclegan.selftest import reason_for_distrust, standard_window, under_autocast

CPU = torch.device("cpu")
right = nn.Conv3d._conv_forward
Fault = Callable[[Tensor], Tensor]


def network(name: str = "UNetSim3d", filters: int = 4) -> UNet3d:
    torch.manual_seed(0)
    net = build_generator(name, filters=filters, activation="leaky_relu")
    initialise(net, std=0.3)
    return net.eval()


def shifted(image: Tensor) -> Tensor:
    return image.roll(1, -1)


def last_plane_missing(image: Tensor) -> Tensor:
    image[..., -1] = 0
    return image


def one_channel_wrong(image: Tensor) -> Tensor:
    image[:, -1] = image[:, 0]
    return image


def uninitialised(image: Tensor) -> Tensor:
    image[0, 0, 0, 0, 0] = math.nan
    return image


FAULTS = (shifted, last_plane_missing, one_channel_wrong, uninitialised)


def make_wrong(monkeypatch: pytest.MonkeyPatch, fault: Fault, above: int = 0) -> None:
    """Make bf16 convolutions 3x3x3 wrong, whichever way they come; `above`: in larger images."""

    def wrong(self: nn.Conv3d, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        image = right(self, x, weight, bias)
        is_bf16 = image.dtype == torch.bfloat16
        applies = is_bf16 and self.kernel_size[0] == 3 and x.shape[-1] > above
        return fault(image.clone()) if applies else image

    monkeypatch.setattr(nn.Conv3d, "_conv_forward", wrong)


def reason(net: UNet3d, fast: Callable[[Tensor], Tensor]) -> str | None:
    return reason_for_distrust(net, fast, standard_window(1, max(16, net.geometry.alignment)))


@pytest.mark.parametrize("std", [0.02, 0.3])
@pytest.mark.parametrize("name", GENERATORS)
def test_right_kernels_pass(name: str, std: float) -> None:
    net = network(name)
    initialise(net, std=std)
    assert reason(net, Generator(net, precision="bf16").translate) is None
    assert reason(net, under_autocast(net)) is None
    assert reason(net, net) is None
    window = standard_window(1, max(16, net.geometry.alignment))
    assert reason_for_distrust(net, net, window, is_fp32=True) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_kernels_do_not(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wrong(monkeypatch, fault)
    net = network()
    for fast in (under_autocast(net), Generator(net, precision="bf16").translate):
        assert "differs from fp32" in (reason(net, fast) or "")


def test_bf16_is_no_fp32() -> None:
    """The bound of an fp32 path is so narrow that TF32, with 10 bits, would not pass either."""
    net, window = network(), standard_window(1, 16)

    def with_ten_bits(x: Tensor) -> Tensor:
        return net((x.view(torch.int32) & ~0x1FFF).view(torch.float32))

    assert reason_for_distrust(net, under_autocast(net), window, is_fp32=True)
    assert reason_for_distrust(net, with_ten_bits, window, is_fp32=True)


def test_it_is_repeatable_and_touches_nothing() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    answers = {reason(net, lambda x: 1.5 * net(x)) for _ in range(2)}
    assert len(answers) == 1 and answers != {None}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch._C._get_mkldnn_enabled()


# -- enhancement ----------------------------------------------------------------------------------


def test_enhancement_falls_back_to_fp32_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert trusted_precision("bf16", [network()], CPU) == "bf16"
    assert not caplog.messages
    make_wrong(monkeypatch, shifted)
    assert trusted_precision("bf16", [network(), network("UNetSim3dSRx2")], CPU) == "fp32"
    (said,) = caplog.messages
    assert said.startswith("bf16 is wrong on this device, using fp32: it differs")


@pytest.fixture
def onednn() -> Iterator[None]:
    yield
    torch._C._set_mkldnn_enabled(True)


@pytest.mark.skipif(not convolution.USE_ONEDNN, reason="this processor computes without oneDNN")
@pytest.mark.usefixtures("onednn")
def test_a_wrong_onednn_is_turned_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    convolve = convolution._convolve
    net = network(filters=8)
    window = standard_window(1, 24)
    expected = Generator(net).translate(window)
    monkeypatch.setattr(convolution, "_convolve", lambda *given: 1.001 * convolve(*given))
    assert trusted_precision("fp32", [net], CPU) == "fp32"
    assert "oneDNN is wrong on this CPU" in caplog.text
    largest = float(expected.abs().max())
    found = Generator(net).translate(window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * largest)


def volume(folder: Path, side: int = 48) -> VolumeEntry:
    image = np.random.default_rng(0).normal(size=(side, side, side)).astype(np.float32)
    with h5py.File(folder / "in.h5", "w") as handle:
        handle["data"] = image
    return VolumeEntry(path=folder / "in.h5", dset="data")


def test_what_is_wrong_in_large_windows_only_is_refused_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with cuDNN 9.10: a small window shows nothing."""
    make_wrong(monkeypatch, last_plane_missing, above=40)
    net = network()
    assert trusted_precision("bf16", [net], CPU) == "bf16"
    generator = Generator(net, precision="bf16")
    entry, out = volume(tmp_path), tmp_path / "out.h5"
    with pytest.raises(CycleGANError, match=r"bf16 is wrong .* windows of \[48, 48, 48\]"):
        enhance_file(generator, entry, out, EnhanceSettings(tile=(48, 48, 48)))
    assert not out.exists()
    enhance_file(
        generator, entry, out, EnhanceSettings(tile=(8, 8, 8))
    )  # in small windows it is right


def test_only_the_tiles_are_compiled_and_a_wrong_compiler_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, shapes = network(), []
    compiled = Generator(net)  # without a compiler, which takes half a minute

    def right_code(patch: Tensor) -> Tensor:
        shapes.append(tuple(patch.shape))
        return net(patch)

    compiled._compiled = right_code
    entry, out = volume(tmp_path), tmp_path / "out.h5"
    done = enhance_file(compiled, entry, out)  # measures memory on a small window
    assert len(shapes) == done.tiles and len(set(shapes)) == 1
    assert not caplog.messages
    with h5py.File(out) as handle:
        expected = handle["data"][...]
    compiled._compiled = lambda patch: 1.01 * net(patch)
    compiled._compared.clear()
    enhance_file(compiled, entry, out, EnhanceSettings(overwrite=True))
    (said,) = caplog.messages
    assert said.startswith("torch.compile computes something else")
    with h5py.File(out) as handle:
        np.testing.assert_array_equal(handle["data"][...], expected)
