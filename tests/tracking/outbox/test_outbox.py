from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from cyclegan.errors import CycleGANError
from cyclegan.model import IMAGES
from tracking import Run, Store
from tracking.cycle_volumes import CycleVolume
from tracking.downsampling import Sample
from tracking.outbox.delivery import deliver_waiting
from tracking.outbox.outbox import Outbox
from tracking.outbox.records import (
    Attachment,
    End,
    Inputs,
    Metrics,
    Params,
    Picture,
    Record,
    Samples,
    Tags,
    Text,
)
from tracking.repair import close_dead_runs
from tracking.run import DatasetInput


def images() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    shape = (2, 1, 8, 8, 8)
    return {name: random.normal(size=shape).astype(np.float32) for name in IMAGES}


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    attached = tmp_path / "volume.h5"
    attached.write_bytes(b"voxels")
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    return [
        Params({"lr_g": 1e-3, "lambdas": {"C_A": [10.0]}}),
        Tags({"outcome": "running"}),
        Samples(
            (Sample(3, {"loss": 0.5, "bad": float("nan")}, 1000), Sample(4, {"loss": 0.25}, 2000))
        ),
        Metrics({"score/value": -1.5}, 4, 3000),
        Inputs(
            (
                DatasetInput(
                    name="A: fast", digest="sha256:ab", source="/x.json", context="domain A"
                ),
            )
        ),
        Picture(picture, "cycle", 4),
        CycleVolume(
            images(), {"iteration": 4, "step": 4, "score": -1.0, "run": "r"}, (2.0, 1.0, 1.0)
        ),
        Text("a: 1\n", "config.yaml"),
        Attachment(attached, "volumes"),
        Attachment(attached, "volumes", "other.h5"),
        End("KILLED", "pruned", 5000),
    ]


def check(run: Run, store: Store) -> None:
    info = store.find_run(run.id)
    assert info.params["lambdas.C_A"] == "10.0"
    assert (info.tags["outcome"], info.tags["reason"]) == ("running", "pruned")
    assert (info.status, info.end_ms) == ("KILLED", 5000)
    assert run.history("loss") == {3: 0.5, 4: 0.25}
    assert run.history("score/value") == {4: -1.5}
    assert run.last_iteration() == 4
    assert run.image_steps("cycle") == {4}
    assert run.artifact_path("config.yaml").read_text() == "a: 1\n"
    for name in ("volume.h5", "other.h5"):
        assert run.artifact_path(f"volumes/{name}").read_bytes() == b"voxels"
    with h5py.File(run.artifact_path("volumes/cycle_00000004.h5")) as file:
        assert np.array_equal(file["fake_B"], images()["fake_B"])
        assert file["fake_B"].attrs["voxel_size_um"].tolist() == [2.0, 1.0, 1.0]
    assert "<html" in run.artifact_path("viewer/cycle_00000004.html").read_text()
    (given,) = run._read().inputs.dataset_inputs
    assert (given.dataset.name, given.tags[0].value) == ("A: fast", "domain A")


def test_every_kind_survives_the_disk(
    run: Run, store: Store, records: list[Record], tmp_path: Path
) -> None:
    outbox = Outbox.of(run)
    for record in records:
        outbox.append(record)
    (tmp_path / "volume.h5").unlink()  # a copy waits
    outbox.close()
    (delivery,) = deliver_waiting(store)
    assert (delivery.delivered, delivery.left) == (len(records), 0)
    check(run, store)
    assert not outbox.folder.exists()


def test_writing_twice_leaves_one(run: Run, store: Store, records: list[Record]) -> None:
    """After an answer that was lost on the way everything is written again."""
    for record in [*records, *records]:
        if not isinstance(record, Picture):
            record.write(run)
    records[5].write(run)
    check(run, store)
    points = run._client.get_metric_history(run.id, "loss")
    assert len(points) == 2


def test_nobody_delivers_what_a_living_process_holds(run: Run, store: Store) -> None:
    outbox = Outbox.of(run)
    outbox.append(Tags({"a": "1"}))
    assert deliver_waiting(store) == []  # another handle in this process is as foreign as any
    outbox.close()
    assert deliver_waiting(store)[0].delivered == 1


def test_an_outbox_of_another_store_is_left_alone(run: Run, store: Store) -> None:
    about = {"run_id": run.id, "name": "x", "store": "http://127.0.0.1:1"}
    outbox = Outbox(Outbox.of(run).folder, **about)
    outbox.append(Tags({"a": "1"}))
    outbox.close()
    assert deliver_waiting(store) == []
    assert len(Outbox.open(outbox.folder)) == 1


def test_a_damaged_entry_is_set_aside_and_holds_up_nothing(
    run: Run, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox.of(run)
    for number in range(3):
        outbox.append(Tags({f"t{number}": "x"}))
    outbox.close()
    first = sorted(outbox.folder.glob("*-Tags.json"))[0]
    first.write_text(first.read_text()[:5])
    (delivery,) = deliver_waiting(store)
    assert (delivery.left, delivery.error) == (0, "")
    assert "damaged" in caplog.text
    tags = store.find_run(run.id).tags
    assert "t0" not in tags
    assert {"t1", "t2"} <= set(tags)
    assert first.with_suffix(".damaged").exists()  # for anyone who wants to see its content


def test_half_written_entries_are_none(run: Run, records: list[Record]) -> None:
    """A process killed between bulk and record leaves the bulk, which nobody reads."""
    outbox = Outbox.of(run)
    outbox.append(records[5])
    outbox.close()
    next(outbox.folder.glob("*.json")).rename(outbox.folder / ".half.part")
    (outbox.folder / "about.json").write_text('{"run_id": "r", "name": "n", "store": "s"}')
    again = Outbox.open(outbox.folder)
    assert len(again) == 0
    again.acquire()
    again.close()
    assert not outbox.folder.exists()


def test_a_run_that_was_removed_keeps_its_journal(run: Run, store: Store) -> None:
    outbox = Outbox.of(run)
    outbox.append(Tags({"a": "1"}))
    outbox.close()
    run._client.delete_run(run.id)
    (delivery,) = deliver_waiting(store)
    assert (delivery.delivered, delivery.left) == (0, 1)
    assert "was deleted" in str(delivery)


def test_a_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CycleGANError, match="full"):
        Outbox.of(run).append(Tags({"a": "1"}))


def test_runs_of_dead_processes_are_closed_and_living_ones_are_not(store: Store, run: Run) -> None:
    code = (
        "import sys\nfrom tracking import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "print(store.create_run('study', 'dead', kind='train', params={}, tags={}).id)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code, store.uri],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    dead = done.stdout.strip()
    assert store.find_run(dead).status == "RUNNING"
    assert [info.id for info in close_dead_runs(store)] == [dead]
    assert (store.find_run(dead).status, store.find_run(dead).tags["reason"]) == (
        "KILLED",
        "its process died",
    )
    assert store.find_run(run.id).status == "RUNNING"
