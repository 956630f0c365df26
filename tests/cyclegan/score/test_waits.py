"""A report waits for its device once; shown on a CPU that takes the code of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cyclegan.metrics import spectrum
from cyclegan.metrics.spectrum import radial_power, radial_rows, shell_sums
from cyclegan.score import Score, ScoreReport, deferred, objective
from cyclegan.score.deferred import Deferred, combined, packed, unpacked

READS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "bincount", "_unique2", "equal"}
"""Operations whose result a GPU's host needs before it can go on."""
MAKES = {"arange", "ones", "zeros", "full", "randn", "rand", "randint", "randperm", "tensor"}
"""Functions that make a tensor; without a device it is made on the host, and copied later."""
METHODS = ("cpu", "numpy", "tolist", "__array__")


class Waits(TorchDispatchMode):
    """Notes what would wait for a GPU, until the transfer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.transfers = 0

    def note(self, name: str) -> None:
        if not self.transfers:
            self.seen.append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.note(name)
        if name.startswith("index") and any(
            t.dtype == torch.bool for t in args[1] if isinstance(t, Tensor)
        ):
            self.note("index by a mask")
        return func(*args, **(kwargs or {}))


class Makes(TorchFunctionMode):
    """Notes tensors that are made on the host."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in MAKES and "device" not in kwargs:
            self.waits.note(func.__name__)
        return func(*args, **kwargs)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    waits = Waits()
    monkeypatch.setattr(spectrum, "_is_on_host", lambda values: False)
    monkeypatch.setattr(objective, "_answers_at_once", lambda tensor: False)

    def transfer(tensors: Any) -> list[Tensor]:
        together = packed(tensors)
        waits.transfers += 1
        return unpacked(together.clone(), tensors)

    monkeypatch.setattr(deferred, "to_host", transfer)
    for method in METHODS:
        original = getattr(Tensor, method)

        def noted(self: Tensor, *a: Any, of: Any = original, name: str = method, **k: Any) -> Any:
            waits.note(name)
            return of(self, *a, **k)

        monkeypatch.setattr(Tensor, method, noted)
    yield waits


def patches(factor: int = 1, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    size = [n * factor for n in (12, 12, 16)]
    b = functional.avg_pool3d(torch.randn((5, channels, *size), generator=generator), 3, 1, 1)
    b /= b.std()
    a = functional.avg_pool3d(b.roll(1, 0), factor)
    a = a + 0.3 * torch.randn(a.shape, generator=generator)
    return a / a.std(), b


def judged(score: Score, factor: int) -> ScoreReport:
    def up(x: Tensor) -> Tensor:
        smooth = functional.avg_pool3d(x, 3, 1, 1) * 1.3
        return functional.interpolate(smooth, scale_factor=factor) if factor > 1 else smooth

    return score(up, lambda x: functional.avg_pool3d(x, factor))


@pytest.mark.parametrize(
    ("factor", "channels", "halves"), [(1, 1, False), (1, 2, True), (2, 1, True)]
)
def test_a_report_waits_for_the_device_once(
    request: pytest.FixtureRequest, factor: int, channels: int, halves: bool
) -> None:
    a, b = patches(factor, channels)
    noise = torch.Generator().manual_seed(4)
    pair = [a + 0.2 * torch.randn(a.shape, generator=noise) for _ in range(2)]
    score = Score(a, b, super_resolution=factor, halves=(pair[0], pair[1]) if halves else None)
    on_host = judged(score, factor)
    waits = request.getfixturevalue("as_on_a_gpu")
    judged(score, factor)  # the first report of a process fills caches on the device
    waits.transfers, waits.seen = 0, []
    with waits, Makes(waits):
        report = judged(score, factor)
    assert waits.transfers == 1
    assert waits.seen == []
    assert report.gate is None
    assert report.parts == pytest.approx(on_host.parts, rel=1e-6, abs=1e-9)
    assert list(report.parts) == list(on_host.parts)
    assert (("cross_half_gain_db" in report.parts), len(report.parts)) == (halves, 14 + halves)


def test_the_watch_sees_what_would_wait(as_on_a_gpu: Waits) -> None:
    values = torch.ones(3)
    calls: list[Callable[[], Any]] = [
        *(lambda: float(values.sum()), lambda: bool(values[0] > 0), values.cpu),
        *(lambda: values[values > 0], values.numpy, lambda: torch.arange(3) + values),
    ]
    for call in calls:
        before = len(as_on_a_gpu.seen)
        with as_on_a_gpu, Makes(as_on_a_gpu):
            call()
        assert len(as_on_a_gpu.seen) > before


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), 1e6, 0.0])
def test_a_gate_fails_in_the_same_words_and_leaves_the_same_parts(
    request: pytest.FixtureRequest, fault: float
) -> None:
    a, b = patches()
    score = Score(a, b)
    generators = (lambda x: x * fault), (lambda x: x)
    on_host = score(*generators)
    request.getfixturevalue("as_on_a_gpu")
    report = score(*generators)
    assert on_host.gate is not None
    assert (report.gate, report.value) == (on_host.gate, on_host.value)
    assert report.parts == pytest.approx(on_host.parts, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 12, 10), (16, 8, 11)])
def test_bins_on_a_device_are_those_on_the_host(
    request: pytest.FixtureRequest, shape: tuple[int, int, int]
) -> None:
    one, two = torch.randn((2, 3, 1, *shape), generator=torch.Generator().manual_seed(1))
    power, sums = radial_power(one)[1], shell_sums(one, two)
    request.getfixturevalue("as_on_a_gpu")
    torch.testing.assert_close(radial_rows(one), power, rtol=1e-12, atol=1e-14)
    again = shell_sums(one, two)
    for name in ("cross", "first", "second"):
        there, here = getattr(sums, name), getattr(again, name)
        assert here == pytest.approx(there, rel=1e-10, abs=1e-12)


def test_tensors_of_all_types_survive_the_transfer() -> None:
    given = [
        *(torch.tensor(3), torch.tensor(1.5), torch.ones(2, 3, dtype=torch.float64).T),
        *(torch.tensor([True, False, True]), torch.arange(5, dtype=torch.int32)),
        *(torch.zeros(0), torch.tensor(2.5, dtype=torch.bfloat16)),
    ]
    together = packed(given)
    assert together.dtype == torch.uint8
    found = unpacked(together, given)
    for one, other in zip(given, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_what_a_failed_gate_leaves_undefined_is_not_computed() -> None:
    def impossible(tensor: Tensor) -> float:
        raise ZeroDivisionError

    parts = [Deferred([torch.tensor(2.0)], float), Deferred([torch.tensor(0.0)], impossible)]
    assert combined(parts, lambda first, second: first()).result() == 2.0
    with pytest.raises(ZeroDivisionError):
        combined(parts, lambda first, second: second()).result()
