"""Arithmetic of a GPU that repeats; its flags are seen here without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.deterministic

from cyclegan import Trainer, parse_config
from cyclegan.callbacks import Callback
from cyclegan.determinism import exact_arithmetic, training_arithmetic

BACKENDS: Any = torch.backends
OPERATORS = {
    "cuda.matmul": BACKENDS.cuda.matmul,
    "mkldnn.matmul": BACKENDS.mkldnn.matmul,
    "cudnn.conv": BACKENDS.cudnn.conv,
    "cudnn.rnn": BACKENDS.cudnn.rnn,
}


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


def precisions() -> dict[str, str]:
    return {name: operator.fp32_precision for name, operator in OPERATORS.items()}


@pytest.fixture
def own_settings() -> Iterator[None]:
    """Let a test change what the process computes in."""
    whole, each = BACKENDS.fp32_precision, precisions()
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    BACKENDS.fp32_precision = whole
    for name, operator in OPERATORS.items():
        operator.fp32_precision = each[name]


@pytest.mark.parametrize(
    "choose",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
        lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
        lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    ],
    ids=["default", "old-matmul", "old-cudnn", "matmul", "conv", "everything"],
)
def test_tf32_is_off_however_the_caller_allowed_it(
    gpu: None, own_settings: None, choose: Callable[[], None]
) -> None:
    choose()
    before = precisions()
    for _ in range(2):
        with exact_arithmetic():
            assert set(precisions().values()) == {"ieee"}
            assert not flags()["tf32"]  # PyTorch and its compiler can still read the old flags
            assert torch.get_float32_matmul_precision() == "highest"
        assert precisions() == before


def operations() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize("given", [(False, False), (True, False), (True, True)])
def test_on_a_gpu_all_operations_repeat_and_only_a_strict_caller_gets_errors(
    gpu: None, given: tuple[bool, bool]
) -> None:
    torch.use_deterministic_algorithms(given[0], warn_only=given[1])
    try:
        before = operations()
        with training_arithmetic(torch.device("cuda"), deterministic=True):
            assert operations() == (True, given != (True, False), False)
            assert flags()["deterministic"]
        assert operations() == before
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("device", "deterministic"), [("cpu", True), ("cuda", False)])
def test_elsewhere_operations_are_the_callers(gpu: None, device: str, deterministic: bool) -> None:
    before = operations()
    with training_arithmetic(torch.device(device), deterministic=deterministic):
        assert operations() == before
        assert flags()["deterministic"] == deterministic


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
