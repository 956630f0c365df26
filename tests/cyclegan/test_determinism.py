"""Arithmetic of a GPU that repeats; its flags are seen here without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cyclegan import Trainer, parse_config
from cyclegan.callbacks import Callback
from cyclegan.determinism import exact_arithmetic


def flags() -> dict[str, bool]:
    cudnn = torch.backends.cudnn
    return {
        "deterministic": cudnn.deterministic,
        "benchmark": cudnn.benchmark,
        "tf32": cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
    }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the flags be set as on a GPU; no operation of it is called."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield


@pytest.mark.parametrize("deterministic", [True, False])
def test_flags_are_set_inside_and_restored_outside_even_after_an_error(
    gpu: None, deterministic: bool
) -> None:
    before = flags()
    with pytest.raises(ZeroDivisionError), exact_arithmetic(deterministic=deterministic):
        assert flags() == {
            "deterministic": deterministic,
            "benchmark": not deterministic,
            "tf32": False,
        }
        with exact_arithmetic():  # a validation within a training
            assert flags()["deterministic"] and not flags()["benchmark"]
        assert flags()["deterministic"] == deterministic
        _ = 1 / 0
    assert flags() == before


class Seen(Callback):
    """Notes the flags in force at each step."""

    name = "seen"

    def __init__(self) -> None:
        self.flags: list[dict[str, bool]] = []

    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        self.flags.append(flags())


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_training_has_the_arithmetic_of_its_configuration(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    seen = Seen()
    config = parse_config(tiny | {"steps": 2, "deterministic": deterministic})
    trainer = Trainer(config, callbacks=[seen])
    before = flags()
    monkeypatch.setattr("cyclegan.determinism.torch.cuda.is_available", lambda: True)
    trainer.fit()
    assert [one["deterministic"] for one in seen.flags] == [deterministic] * 2
    assert not any(one["tf32"] for one in seen.flags)
    assert flags() == before


def test_a_configuration_without_the_key_is_deterministic(tiny: dict[str, Any]) -> None:
    assert parse_config(tiny).deterministic
