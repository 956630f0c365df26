"""The ring: the snapshot found for a fault, those dropped, and those that a checkpoint restores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cyclegan import parse_config
from cyclegan.errors import CheckpointError, DataError
from cyclegan.hparams import HParams
from cyclegan.snapshot import Snapshot
from search.rollback import ring as module
from search.rollback.ring import Ring, RingSnapshot

HPARAMS = HParams.from_config(parse_config({"data_A": "a", "data_B": "b"}))
SIZE = 4000


def snapshot(step: int, value: float | None = None) -> Snapshot:
    weights = torch.full((SIZE // 4,), float(step if value is None else value))
    return Snapshot(
        step=step, iteration=step, hparams=HPARAMS, training={"networks": {"w": weights}}
    )


def ring_of(*steps: int, keep: int = 5, **options: object) -> Ring:
    ring = Ring(keep=keep, **options)  # type: ignore[arg-type]
    ring.begin(snapshot(0))
    for step in steps:
        ring.add(RingSnapshot.of(snapshot(step)))
    return ring


def found(ring: Ring, now: int, *, distance: int = 200, age: int = 0, fault: str = "won") -> int:
    return ring.find(upto=now - distance, fault=fault, age=age, now=now).step


HUNDREDS = (100, 200, 300, 400, 500, 600, 700, 800)


@pytest.mark.parametrize(
    ("steps", "now", "distance", "age", "expected"),
    [
        (HUNDREDS, 900, 200, 0, 700),
        (HUNDREDS, 950, 200, 0, 700),  # at least 200 steps older
        (HUNDREDS, 900, 300, 0, 600),
        (HUNDREDS, 900, 5000, 0, 400),  # the oldest one
        (HUNDREDS, 900, 200, 250, 600),  # never one taken inside the fault
        (HUNDREDS, 900, 200, 2000, 0),
        ((100, 200), 300, 200, 0, 100),
        ((100,), 200, 200, 0, 0),  # fewer at the beginning
        ((), 60, 200, 0, 0),
    ],
)
def test_the_newest_that_is_old_enough(
    steps: tuple[int, ...], now: int, distance: int, age: int, expected: int
) -> None:
    assert found(ring_of(*steps), now, distance=distance, age=age) == expected


def test_a_long_training_is_not_thrown_back_to_its_start() -> None:
    """The start is for young trainings, and for cases in which nothing else is healthy."""
    ring = ring_of(*HUNDREDS)
    assert found(ring, 900, distance=800) == 400
    ring.keep_best(RingSnapshot.of(snapshot(150)))
    assert found(ring, 900, distance=800) == 400
    # No recent snapshot is healthy: take the best one, and finally the start.
    assert found(ring, 900, age=700) == 150
    assert found(ring, 900, age=800) == 0


def test_a_snapshot_that_bears_the_sign_of_the_fault_is_not_used() -> None:
    ring = ring_of(100, 200)
    for step in (300, 400):
        ring.add(RingSnapshot.of(snapshot(step), {"inverted"}))
    assert found(ring, 600, fault="inverted") == 200
    assert found(ring, 600, fault="won") == 400


def test_a_snapshot_with_values_that_are_not_finite_is_not_used() -> None:
    ring = ring_of(100, 200, 300)
    ring.add(RingSnapshot.of(snapshot(400, float("nan"))))
    assert found(ring, 600) == 300


def test_snapshots_of_an_abandoned_path_are_forgotten() -> None:
    ring = ring_of(*HUNDREDS)
    ring.discard_after(600)
    assert [kept.step for kept in ring.recent] == [400, 500, 600]
    assert found(ring, 900) == 600


def test_a_budget_drops_the_oldest() -> None:
    ring = ring_of(*HUNDREDS, memory=4 * SIZE)
    assert ring.nbytes() <= 4 * SIZE
    assert [kept.step for kept in ring.recent] == [600, 700, 800]
    ring.keep_best(ring.recent[0])  # shares its memory
    assert ring.nbytes() <= 4 * SIZE


def test_a_budget_spills_to_disk_when_asked(tmp_path: Path) -> None:
    ring = ring_of(*HUNDREDS, memory=2 * SIZE, folder=tmp_path)
    assert ring.nbytes() <= 2 * SIZE
    assert [kept.step for kept in ring.recent] == [400, 500, 600, 700, 800]
    read = ring.find(upto=450, fault="won", age=0, now=800)
    assert read.step == 400
    assert torch.equal(read.training["networks"]["w"], torch.full((SIZE // 4,), 400.0))
    assert read.hparams == HPARAMS


@pytest.mark.parametrize("spill", [False, True])
def test_a_checkpoint_brings_the_ring_back(tmp_path: Path, spill: bool) -> None:
    options = {"memory": 3 * SIZE, "folder": tmp_path} if spill else {}
    ring = ring_of(*HUNDREDS, **options)
    ring.keep_best(ring.recent[1])
    path = tmp_path / "state.pt"
    torch.save(ring.state_dict(), path)
    again = Ring(keep=5, **options)  # type: ignore[arg-type]
    again.load_state_dict(torch.load(path, weights_only=True))
    assert again.start and again.best and ring.best
    assert again.best is again.recent[1]  # stored once
    assert again.complete == ring.complete
    for one, other in zip(again.recent, ring.recent, strict=True):
        assert (one.step, one.signs) == (other.step, other.signs)
        first, second = one.read(), other.read()
        assert first and second
        assert torch.equal(first.training["networks"]["w"], second.training["networks"]["w"])


def test_files_stay_as_long_as_a_checkpoint_needs_them_and_no_longer(tmp_path: Path) -> None:
    ring = ring_of(100, 200, keep=2, memory=SIZE, folder=tmp_path)
    state = ring.state_dict()
    for step in HUNDREDS[2:]:
        ring.add(RingSnapshot.of(snapshot(step)))
    # A kill at this point: the checkpoint finds all of its files.
    again = Ring(keep=2, memory=SIZE, folder=tmp_path)
    again.load_state_dict(state)
    assert [kept.step for kept in again.recent] == [100, 200]
    assert all(kept.read() for kept in again.recent)
    # Files that the killed process wrote later are removed.
    assert {path.name for path in tmp_path.iterdir()} == {
        kept.path.name for kept in (again.start, *again.recent) if kept and kept.path
    }


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    ring = ring_of(keep=2, memory=SIZE, folder=tmp_path)
    for step in range(100, 5000, 100):
        ring.add(RingSnapshot.of(snapshot(step)))
        if step % 200 == 0:
            ring.state_dict()
    assert len(list(tmp_path.iterdir())) <= 3 + 2 * 2 + 2


def test_a_file_that_is_gone_costs_its_snapshot_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = ring_of(*HUNDREDS, memory=2 * SIZE, folder=tmp_path)
    state = ring.state_dict()
    (tmp_path / "snapshot-00000500.pt").unlink()
    (tmp_path / "snapshot-00000600.pt").write_bytes(b"torn")
    again = Ring(keep=5, memory=2 * SIZE, folder=tmp_path)
    again.load_state_dict(state)
    assert [kept.step for kept in again.recent] == [400, 600, 700, 800]
    assert found(again, 800) == 400
    assert "snapshot-00000500.pt is lost" in caplog.text
    assert "snapshot-00000600.pt" in caplog.text


def test_without_any_readable_snapshot_the_error_names_the_file(tmp_path: Path) -> None:
    ring = ring_of(100, memory=SIZE, folder=tmp_path)
    (tmp_path / "snapshot-00000000.pt").unlink()
    with pytest.raises(CheckpointError, match="snapshot-00000000"):
        found(ring, 100)


def test_a_full_disk_leaves_snapshots_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise DataError("no space left on device")

    monkeypatch.setattr(module.checkpoints, "save", full)
    ring = ring_of(*HUNDREDS, memory=2 * SIZE, folder=tmp_path)
    assert found(ring, 900) == 700
    assert caplog.text.count("no space left") == 1
