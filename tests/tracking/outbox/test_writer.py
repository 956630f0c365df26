from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from cyclegan.errors import CycleGANError
from tracking import Run
from tracking.downsampling import Sample
from tracking.outbox import records
from tracking.outbox.records import End, Samples, Text
from tracking.outbox.writer import BackgroundWriter


class Shelf:
    """Record what was written, in a store that can be broken."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.broken: set[type] = set()
        self.tries = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def take(self, record: object, text: str) -> None:
        self.tries += 1
        self.hangs.wait(20)
        if type(record) in self.broken:
            raise CycleGANError("the store is away")
        self.written.append(text)


@dataclass(frozen=True)
class Metric:
    text: str
    shelf: ClassVar[Shelf]

    def write(self, run: Run) -> None:
        self.shelf.take(self, self.text)

    def pack(self, bulk: Path) -> dict[str, Any]:
        bulk.write_text(self.text)
        return {}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], bulk: Path) -> Self:
        return cls(bulk.read_text())


class Image(Metric):
    pass


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    kinds = {**records.KINDS, "Metric": Metric, "Image": Image}
    monkeypatch.setattr("tracking.outbox.outbox.KINDS", kinds)
    monkeypatch.setattr("tracking.outbox.writer._FINAL_PAUSE", 0.0)
    monkeypatch.setattr("tracking.outbox.writer._PATIENCE", 1.0)
    Metric.shelf = Shelf()
    return Metric.shelf


@pytest.fixture
def make(run: Run, shelf: Shelf) -> Iterator[Callable[[], BackgroundWriter]]:
    made: list[BackgroundWriter] = []

    def writer() -> BackgroundWriter:
        made.append(BackgroundWriter(run, interval=1e6))
        return made[-1]

    yield writer
    shelf.hangs.set()
    for each in made:
        each.close()


@pytest.fixture
def writer(make: Callable[[], BackgroundWriter]) -> BackgroundWriter:
    return make()


def retry(writer: BackgroundWriter) -> bool:
    """As if the store had been left alone for long enough."""
    writer._not_before = 0.0
    return writer.drain()


def test_putting_never_waits_for_the_store(shelf: Shelf, writer: BackgroundWriter) -> None:
    shelf.hangs.clear()
    begin = time.monotonic()
    for number in range(100):
        writer.put(Metric(str(number)))
        writer.flush()
    assert time.monotonic() - begin < 1.0
    shelf.hangs.set()
    assert writer.drain()
    assert shelf.written == [str(number) for number in range(100)]


def test_nothing_is_lost_nor_overtaken(shelf: Shelf, writer: BackgroundWriter) -> None:
    shelf.broken = {Metric}
    writer.put(Metric("m1"), Image("i1"), Metric("m2"), Image("i2"))
    assert not writer.drain()
    assert shelf.written == ["i1", "i2"]  # the other kind gets through
    writer.put(Metric("m3"))
    assert not writer.drain()  # the store is left alone
    shelf.broken = set()
    assert retry(writer)
    assert shelf.written == ["i1", "i2", "m1", "m2", "m3"]
    assert len(writer) == 0


def test_a_store_that_is_away_is_left_alone_for_a_while(
    shelf: Shelf, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    writer = BackgroundWriter(run, interval=1e6, clock=lambda: now)
    shelf.broken = {Metric, Image}
    writer.put(Metric("m"), Image("i"))
    writer.drain()
    assert shelf.tries == 2
    writer.drain()
    assert shelf.tries == 2
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the store is away; the records are kept and sent again later"]
    for failures, pause in enumerate((2, 4, 8, 16, 32, 60, 60), start=1):
        now += pause - 0.1
        writer.drain()
        assert shelf.tries == 2 * failures
        now += 0.2
        writer.drain()
        assert shelf.tries == 2 * failures + 2
    assert len(caplog.records) == 1  # reported once
    shelf.broken = set()
    assert writer.close()
    assert "accepts records again" in caplog.text


def test_a_training_that_begins_while_the_store_is_away_asks_again(
    writer: BackgroundWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the store has already must be known, or metrics would be there twice."""
    asked: list[int] = []

    def away_at_first() -> int:
        asked.append(1)
        if len(asked) < 3:
            raise CycleGANError("the store does not answer")
        return 7

    monkeypatch.setattr(writer.run, "last_iteration", away_at_first, raising=False)
    monkeypatch.setattr(
        "tracking.outbox.delivery.retrying.__kwdefaults__",
        {
            "clock": time.monotonic,
            "sleep": lambda seconds: None,
        },
    )
    assert writer.last_iteration() == 7
    assert caplog.text.count("trying again for 10 minutes") == 1


def test_a_slow_store_gets_fewer_batches_and_comes_back_slowly(shelf: Shelf, run: Run) -> None:
    """Hundreds of workers must not write to one store every few seconds."""
    now, takes = 0.0, 0.0

    def clock() -> float:
        nonlocal now
        now += takes  # a batch reads the clock before and after
        return now

    writer = BackgroundWriter(run, interval=3.0, clock=clock)
    intervals = []
    for takes in (0.01, 1.0, 1.0, 100.0, *[0.01] * 20):  # noqa: B007  (the clock reads it)
        writer.put(Metric("m"))
        assert writer.drain()
        intervals.append(writer._interval)
    writer.close()
    assert intervals[:4] == [3.0, pytest.approx(20.0), pytest.approx(20.0), 60.0]
    assert intervals[4] == pytest.approx(48.0) and intervals[-1] == 3.0
    assert intervals[3:] == sorted(intervals[3:], reverse=True)


def test_what_is_left_at_the_end_waits_on_the_disk(
    shelf: Shelf,
    writer: BackgroundWriter,
    make: Callable[[], BackgroundWriter],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf.broken = {Metric}
    writer.put(Metric("m1"), Image("i"), Metric("m2"))
    assert not writer.close()
    assert "2 records did not reach" in caplog.text
    assert str(writer.outbox.folder) in caplog.text
    shelf.broken = set()
    again = make()
    again.put(Metric("m3"))
    assert again.drain()
    assert shelf.written == ["i", "m1", "m2", "m3"]
    again.close()
    assert not writer.outbox.folder.exists()


def test_the_end_does_not_wait_for_ever_for_a_store_that_hangs(
    shelf: Shelf, writer: BackgroundWriter, make: Callable[[], BackgroundWriter]
) -> None:
    shelf.hangs.clear()
    writer.put(Metric("in flight"))
    writer.flush()
    while not shelf.tries:
        time.sleep(0.01)
    writer.put(Metric("behind it"))
    begin = time.monotonic()
    assert not writer.close()
    assert time.monotonic() - begin < 10
    shelf.hangs.set()
    again = make()
    again.put(Metric("new"))
    assert again.drain()
    # Entries in flight may arrive twice: writing them twice leaves one.
    assert list(dict.fromkeys(shelf.written)) == ["in flight", "behind it", "new"]


def test_a_full_disk_keeps_all_in_memory(
    shelf: Shelf, writer: BackgroundWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise CycleGANError(f"{path}: the disk is full")

    shelf.broken = {Metric}
    with monkeypatch.context() as patch:
        patch.setattr("tracking.outbox.outbox.write_text", full)
        for text in ("m1", "m2"):
            writer.put(Metric(text))
            assert not writer.drain()
        writer.put(Metric("m3"))
    shelf.broken = set()
    assert retry(writer)
    assert shelf.written == ["m1", "m2", "m3"]


def test_what_neither_store_nor_disk_take_is_told_as_lost(
    shelf: Shelf,
    writer: BackgroundWriter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, text: str) -> None:
        raise CycleGANError(f"{path}: the disk is full")

    shelf.broken = {Metric}
    monkeypatch.setattr("tracking.outbox.outbox.write_text", full)
    for text in ("m1", "m2", "m3"):
        writer.put(Metric(text))
        assert not writer.drain()
    assert caplog.text.count("kept in memory") == 1
    assert not writer.close()
    assert "3 records are lost" in caplog.text
    assert "they wait in" not in caplog.text


def test_a_fault_of_ours_does_not_end_the_thread(
    shelf: Shelf, writer: BackgroundWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Image, "write", lambda self, run: 1 / 0)
        writer.put(Image("i"), Metric("m1"))
        assert not writer.drain()
    writer.put(Metric("m2"))
    assert retry(writer)
    assert shelf.written == ["m1", "i", "m2"]


def test_an_old_end_does_not_end_a_run_that_goes_on(
    shelf: Shelf,
    writer: BackgroundWriter,
    make: Callable[[], BackgroundWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(self: End, run: Run) -> None:
        raise CycleGANError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(End, "write", away)
        writer.put(End("KILLED", "interrupted"))
        assert not writer.close()
    again = make()
    assert len(again) == 0


def test_metrics_of_a_batch_go_in_one_request(
    run: Run, writer: BackgroundWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []
    log_rows = run.log_rows

    def spy(rows: tuple[Sample, ...]) -> None:
        calls.append([sample.iteration for sample in rows])
        log_rows(rows)

    monkeypatch.setattr(run, "log_rows", spy)
    writer.put(*(Samples((Sample(i, {"loss": 1.0 / i}, 1000 * i),)) for i in (1, 2, 3)))
    assert [sample.iteration for sample in writer.unsent()] in ([1, 2, 3], [])
    assert writer.drain()
    assert [i for call in calls for i in call] == [1, 2, 3]
    assert len(calls) <= 2
    assert run.history("loss") == {1: 1.0, 2: 0.5, 3: 1 / 3}
    assert writer.unsent() == []


def test_a_text_that_waits_gives_way_to_a_newer_one(run: Run, writer: BackgroundWriter) -> None:
    writer.put(Text("old", "a.txt"), Text("other", "b.txt"), Text("new", "a.txt"))
    assert writer.drain()
    assert run.artifact_path("a.txt").read_text() == "new"
    assert run.artifact_path("b.txt").read_text() == "other"
