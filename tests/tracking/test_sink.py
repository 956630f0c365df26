from __future__ import annotations

from dataclasses import dataclass

import pytest

from cyclegan.errors import CycleGANError
from tracking import Run
from tracking.sink import Sink, Text


class Shelf:
    """What was written, and a store that can be broken and takes its time to fail."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.broken: set[type] = set()
        self.now = 0.0
        self.tries = 0

    def take(self, entry: object, text: str) -> None:
        self.tries += 1
        if type(entry) in self.broken:
            self.now += 2.0
            raise CycleGANError("the store is away")
        self.written.append(text)


@dataclass(frozen=True)
class Metric:
    shelf: Shelf
    text: str

    def write(self, run: Run) -> None:
        self.shelf.take(self, self.text)


@dataclass(frozen=True)
class Image(Metric):
    pass


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def sink(shelf: Shelf, run: Run) -> Sink:
    return Sink(run, clock=lambda: shelf.now)


def test_nothing_is_lost_nor_overtaken(shelf: Shelf, sink: Sink) -> None:
    shelf.broken = {Metric}
    for entry in (Metric(shelf, "m1"), Image(shelf, "i1"), Metric(shelf, "m2"), Image(shelf, "i2")):
        sink.put(entry)
    assert not sink.flush()
    assert shelf.written == ["i1", "i2"]  # the other kind gets through
    sink.put(Metric(shelf, "m3"))
    shelf.broken, shelf.now = set(), 1e6
    assert sink.flush()
    assert shelf.written == ["i1", "i2", "m1", "m2", "m3"]
    assert len(sink) == 0


def test_a_store_that_hangs_is_left_alone_for_a_while(shelf: Shelf, sink: Sink) -> None:
    shelf.broken = {Metric}
    sink.put(Metric(shelf, "m"))
    sink.flush()
    assert (shelf.tries, shelf.now) == (1, 2.0)
    shelf.now = 21.0
    sink.flush()
    assert shelf.tries == 1
    shelf.now = 22.5
    sink.flush()
    assert shelf.tries == 2


def test_one_flush_warns_once(shelf: Shelf, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    shelf.broken = {Metric, Image}
    for entry in (Metric(shelf, "m"), Image(shelf, "i")):
        sink.put(entry)
    sink.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "the store is away; kept, and tried again later"
    ]


def test_closing_tries_again_at_once(
    shelf: Shelf, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.sink._FINAL_PAUSE", 0.0)
    shelf.broken = {Metric}
    sink.put(Metric(shelf, "m"))
    assert not sink.close()
    assert shelf.tries == 3
    shelf.broken = set()
    assert sink.close()
    assert shelf.written == ["m"]


def test_a_text_that_waits_gives_way_to_a_newer_one(run: Run) -> None:
    sink = Sink(run)
    sink.put(Text("old", "a.txt"), Text("other", "b.txt"), Text("new", "a.txt"))
    assert len(sink) == 2
    assert sink.flush()
    assert run.artifact_path("a.txt").read_text() == "new"
    assert run.artifact_path("b.txt").read_text() == "other"
