"""Precision and device: chosen for the machine, refused where the result would be wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cyclegan import parse_config
from cyclegan.errors import ConfigError
from cyclegan.model import CycleGAN
from cyclegan.precision import (
    _reason_for_distrust,
    choose_device,
    choose_precision,
    use_device,
)

CPU = torch.device("cpu")


def test_auto_becomes_concrete_and_what_is_asked_for_stays(tiny: dict[str, Any]) -> None:
    sizes = {"imsize_A": [16, 16, 16]}
    chosen = choose_precision(parse_config(tiny | sizes | {"precision": "auto"}), CPU)
    assert chosen.precision in ("fp32", "bf16")
    for precision in ("fp32", "bf16"):
        config = parse_config(tiny | sizes | {"precision": precision})
        assert choose_precision(config, CPU) is config


def test_patches_too_small_for_bf16_convolutions_get_fp32(tiny: dict[str, Any]) -> None:
    small = {"imsize_A": [8, 8, 8]}
    assert choose_precision(parse_config(tiny | small | {"precision": "auto"}), CPU).precision == (
        "fp32"
    )
    with pytest.raises(ConfigError, match=r"bf16.*\[8, 8, 8\]"):
        choose_precision(parse_config(tiny | small | {"precision": "bf16"}), CPU)


def test_bf16_step_is_repeatable_and_close_to_fp32(tiny: dict[str, Any]) -> None:
    def gradient(precision: str) -> torch.Tensor:
        # Wrong kernels read memory that was used before and is not zero.
        del [torch.full((n,), float("nan")) for n in (10_000, 100_000, 1_000_000)][:]
        config = parse_config(
            tiny | {"precision": precision, "imsize_A": [16, 16, 16], "grad_clip": 0.0}
        )
        model = CycleGAN(config, CPU)
        random = torch.Generator().manual_seed(0)
        images = [torch.randn(1, 1, 16, 16, 16, generator=random) for _ in range(2)]
        model.training_step(*images)
        parts = [p.grad.float().flatten() for p in model.discriminators if p.grad is not None]
        return torch.cat(parts)

    full, half, again = gradient("fp32"), gradient("bf16"), gradient("bf16")
    assert torch.equal(half, again)
    assert float((full - half).norm() / full.norm()) < 0.05


@pytest.mark.parametrize(
    ("name", "words"), [("gpu", "not a device"), ("meta", "not supported"), ("cuda:99", "GPU")]
)
def test_impossible_devices(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_device(name)


def test_a_gpu_chosen_by_its_number_becomes_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Snapshots and libraries use the current GPU; asking alone must not start it."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("cuda:1") == use_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    use_device("cuda"), use_device("cpu")
    assert len(current) == 1
    with pytest.raises(ConfigError, match="there are 2 GPUs"):
        use_device("cuda:2")


def test_bf16_that_is_wrong_becomes_fp32_with_a_sentence(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PyTorch has had bf16 convolutions with wrong results and no error."""
    config = parse_config(tiny | {"imsize_A": [16, 16, 16], "precision": "bf16", "seed": 5})
    state = torch.random.get_rng_state()
    assert choose_precision(config, CPU) is config
    conv3d = torch.nn.functional.conv3d

    def wrong(given: torch.Tensor, weight: torch.Tensor, *rest: Any, **options: Any) -> Any:
        image = conv3d(given, weight, *rest, **options)
        return image + 1.0 if image.dtype == torch.bfloat16 else image

    monkeypatch.setattr(torch.nn.functional, "conv3d", wrong)
    monkeypatch.setattr("torch.nn.modules.conv.F.conv3d", wrong)
    _reason_for_distrust.cache_clear()
    chosen = choose_precision(config, CPU)
    assert chosen.precision == "fp32" and chosen.seed == 5
    assert "bf16 is wrong on cpu: it differs from fp32" in caplog.text
    assert torch.equal(torch.random.get_rng_state(), state)
    _reason_for_distrust.cache_clear()
