"""The MLflow run of an enhancement, and its fate when something goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mlflow import MlflowClient

from cyclegan.enhance.partial import PartStore
from cyclegan.errors import CycleGANError
from tracking import Run, RunInfo, Store
from tracking import artifacts as artifacts_module
from tracking.outbox.delivery import deliver_waiting
from viz.units import size_text

SHAPE = (24, 16, 16)


def write(path: str, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> str:
    with h5py.File(path, "w") as handle:
        volume = np.random.default_rng(seed).normal(size=shape)
        handle["data"] = (300 + 20 * volume).astype(np.float32)
        handle["data"].attrs["voxel_size_um"] = 0.7
    return path


def sha256(path: str) -> str:
    return f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"


def runs() -> list[RunInfo]:
    try:
        return Store.open().search("enhance", "tags.kind = 'enhance'")
    except CycleGANError:  # no such experiment
        return []


def artifacts(run: RunInfo) -> dict[str, Path]:
    folder = Store.open().artifacts(run).folder
    assert folder is not None
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in files}


def test_the_run_says_what_was_made_of_what_and_how(enhance: Any, project: Path) -> None:
    source = write("a.h5")
    code, data, err = enhance(source, "--output", "out/e.h5", "--tile", "8,16,16")
    assert (code, err) == (0, "")
    (run,) = runs()
    assert (run.id, run.status, run.tags["reason"]) == (data["run_id"], "FINISHED", "")
    assert run.tags["input_hash"] == sha256("a.h5")
    assert run.tags["model_hash"] == sha256("generator.pt")
    assert run.tags["output_hash"] == sha256("out/e.h5") == data["volume"]["hash"]
    assert (run.tags["model_step"], run.tags["log_volume"]) == ("7", "linked")
    for tag in ("host", "device", "version.torch"):
        assert run.tags[tag]
    params = run.params
    assert params["volume"] == str(project / "a.h5")
    assert params["output"] == str(project / "out" / "e.h5")
    assert json.loads(params["tile"]) == [8, 16, 16]
    assert (params["direction"], params["precision"]) == ("A -> B", "fp32")
    assert all(n > 0 for n in json.loads(params["halo"]))
    # The summary of the trust maps agrees with the maps.
    with h5py.File("out/e.h5") as handle:
        doubt = handle["trust/doubt"][...]
        attributes = dict(handle["data"].attrs)
    assert run.metrics["trust/doubt_mean"] == pytest.approx(doubt.mean(), rel=1e-3)
    assert run.metrics["trust/doubt_highest"] == pytest.approx(doubt.max(), rel=1e-3)
    assert run.metrics["speed/voxels_per_s"] == pytest.approx(data["voxels_per_second"])
    assert run.metrics["memory/peak_gb"] > 0.05
    assert (attributes["source_hash"], attributes["model_hash"]) == (
        run.tags["input_hash"],
        run.tags["model_hash"],
    )
    # MLflow knows the input as a dataset.
    (dataset,) = MlflowClient(Store.open().uri).get_run(run.id).inputs.dataset_inputs
    assert json.loads(dataset.dataset.source)["uri"] == str(project / "a.h5")
    assert json.loads(dataset.dataset.profile)["shape"] == list(SHAPE)
    assert dataset.tags[0].value == "input"
    # People read its description, programs its JSON.
    for text in ("Model:", "Input:", "Volume:", str(project / "a.h5"), "viewer.html"):
        assert text in run.tags["mlflow.note.content"]
    files = artifacts(run)
    assert {"enhanced.json", "preview.png", "report.html", "viewer.html", "volume.txt"} <= set(
        files
    )
    told = json.loads(files["enhanced.json"].read_text())
    assert told["inputs"][0]["hash"] == run.tags["input_hash"]
    assert told["settings"]["tile"] == data["tile"]
    assert told["tiles"] == {"all": 3, "resumed": 0}
    assert {summary["name"] for summary in told["trust"]} == set(data["trust"])


def test_another_input_has_another_hash_and_digest(enhance: Any) -> None:
    found = []
    for seed in (1, 2):
        write("a.h5", seed)
        code, data, err = enhance("a.h5", "--output", "e.h5", "--no-report", "--overwrite")
        assert code == 0, err
        client = MlflowClient(Store.open().uri)
        run = client.get_run(data["run_id"])
        digest = run.inputs.dataset_inputs[0].dataset.digest
        tags = run.data.tags
        found.append((tags["input_hash"], digest, tags["model_hash"], run.info.run_id))
    first, second = found
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True, False]


def test_a_volume_is_linked_and_costs_the_store_nothing(enhance: Any, project: Path) -> None:
    write("a.h5", shape=(96, 96, 96))
    options = ("--no-report", "--no-trust", "--compression", "none")
    code, _, err = enhance("a.h5", "--output", "e.h5", *options)
    assert code == 0, err
    (run,) = runs()
    files = artifacts(run)
    assert not [name for name in files if name.endswith(".h5")]
    assert sum(path.stat().st_size for path in files.values()) < Path("e.h5").stat().st_size / 2
    text, size = files["volume.txt"].read_text(), Path("e.h5").stat().st_size
    for part in (str(project / "e.h5"), sha256("e.h5"), "silx view", run.id, size_text(size)):
        assert part in text
    assert not Path("e.html").exists()
    assert not Path("e.viewer.html").exists()


def test_a_volume_is_copied_if_asked_and_the_copy_is_the_volume(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts_module, "_BLOCK", 10_000)
    code, data, err = enhance(write("a.h5"), "--output", "e.h5", "--log-volume", "copy")
    assert (code, err) == (0, "")
    (run,) = runs()
    copy = artifacts(run)["volume/e.h5"]
    assert copy.stat().st_size > 20_000
    assert copy.read_bytes() == Path("e.h5").read_bytes()
    assert copy.stat().st_ino != Path("e.h5").stat().st_ino
    assert (run.tags["log_volume"], data["volume"]["artifact"]) == ("copied", "volume/e.h5")
    assert "A copy of the enhanced volume is volume/e.h5" in (
        artifacts(run)["volume.txt"].read_text()
    )


def test_without_room_for_a_copy_the_path_is_logged(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts_module, "SPARE", 1 << 62)
    code, data, err = enhance(write("a.h5"), "--output", "e.h5", "--log-volume", "copy")
    assert (code, data["volume"]["how"]) == (0, "linked")
    assert "are free" in err
    (run,) = runs()
    assert (run.status, run.tags["log_volume"]) == ("FINISHED", "linked")
    assert not [name for name in artifacts(run) if name.endswith(".h5")]


def away(*arguments: object, **options: object) -> Any:
    raise CycleGANError("the store is away")


def test_a_store_that_fails_at_the_end_gets_everything_later(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        for name in ("log_metrics", "log_text", "log_file", "log_image", "finish"):
            patched.setattr(Run, name, away)
        code, data, err = enhance(write("a.h5"), "--output", "e.h5")
    assert (code, "the store is away; it waits in" in err) == (0, True)
    assert Path(data["output"]).exists()
    (run,) = runs()
    assert (run.status, run.metrics) == ("RUNNING", {})
    expected = {name: Path(f"e{ending}").read_bytes() for name, ending in (
        ("report.html", ".html"), ("viewer.html", ".viewer.html"), ("preview.png", ".png"),
    )}  # fmt: skip
    for path in Path().glob("e.*"):  # the waiting entries do not depend on the files
        path.unlink()
    (delivery,) = deliver_waiting(Store.open())
    assert delivery.left == 0
    (run,) = runs()
    assert run.status == "FINISHED"
    assert "trust/doubt_p99" in run.metrics
    assert run.tags["mlflow.note.content"].count("Volume:") == 1
    files = artifacts(run)
    assert {name: files[name].read_bytes() for name in expected} == expected
    assert json.loads(files["enhanced.json"].read_text())["run_id"] == run.id


def test_a_store_that_is_away_at_first_gets_its_run_at_the_end(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    create = Store.create_run

    def late(self: Store, *arguments: Any, **options: Any) -> Run:
        calls.append(arguments)
        return away() if len(calls) == 1 else create(self, *arguments, **options)

    monkeypatch.setattr(Store, "create_run", late)
    code, data, err = enhance(write("a.h5"), "--output", "e.h5")
    assert (code, len(calls)) == (0, 2)
    assert "the enhancement continues" in err
    (run,) = runs()
    assert (run.id, run.status) == (data["run_id"], "FINISHED")
    monkeypatch.setattr(Store, "create_run", away)
    code, data, err = enhance("a.h5", "--output", "f.h5")
    assert (code, data["run_id"], "not in MLflow" in err) == (0, None, True)
    assert Path("f.h5").exists()


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> pytest.MonkeyPatch:
    """Make storing the second tile fail."""
    add = PartStore.add

    def some(self: PartStore, tile: int, cores: Any) -> None:
        if tile == 1:
            raise error
        add(self, tile, cores)

    monkeypatch.setattr(PartStore, "add", some)
    return monkeypatch


@pytest.mark.parametrize(
    ("error", "code", "status", "reason"),
    [
        (KeyboardInterrupt(), 130, "KILLED", "interrupted; the same command continues"),
        (RuntimeError("no more memory"), 1, "FAILED", "no more memory"),
    ],
)
def test_what_ended_early_says_why_and_goes_on_in_the_same_run(
    enhance: Any, error: BaseException, code: int, status: str, reason: str
) -> None:
    line = (write("a.h5"), "--output", "e.h5", "--tile", "8,16,16", "--no-trust")
    with pytest.MonkeyPatch.context() as patched:
        failing(patched, error)
        assert enhance(*line)[0] == code
    (run,) = runs()
    assert (run.status, run.tags["reason"]) == (status, reason)
    done, data, err = enhance(*line)
    assert (done, data["resumed"]) == (0, 1), err
    (run,) = runs()
    assert (run.id, run.status, run.tags["reason"]) == (data["run_id"], "FINISHED", "")
    assert run.metrics["tiles/resumed"] == 1
    assert "changed.tile" not in run.tags


def test_another_setting_is_another_run(enhance: Any) -> None:
    line = (write("a.h5"), "--output", "e.h5", "--tile", "8,16,16", "--no-trust")
    with pytest.MonkeyPatch.context() as patched:
        failing(patched, KeyboardInterrupt())
        assert enhance(*line)[0] == 130
    assert enhance(*line, "--units", "input")[0] == 0
    assert sorted(run.status for run in runs()) == ["FINISHED", "KILLED"]


def test_what_is_refused_makes_no_run_and_what_is_finished_no_second_one(enhance: Any) -> None:
    names = [write(f"{name}.h5", seed) for seed, name in enumerate("ab")]
    line = (*names, "--output", "out", "--no-trust")
    code, first, err = enhance(*line)
    assert code == 0, err
    before = {run.id: (run.metrics, len(artifacts(run))) for run in runs()}
    code, second, err = enhance(*line)
    assert code == 0, err
    assert [v["run_id"] for v in first["volumes"]] == [v["run_id"] for v in second["volumes"]]
    assert {run.id: (run.metrics, len(artifacts(run))) for run in runs()} == before
    code, _, err = enhance(*line, "--units", "input")  # other results of these names
    assert (code, "--overwrite" in err) == (1, True)
    code, _, err = enhance("a.h5", "--output", "f.h5", "--memory-gb", "0.01")
    assert (code, "--memory-gb" in err) == (2, True)
    assert {run.id for run in runs()} == set(before)
    # A copy requested later joins the same run, which keeps its record of the work.
    code, third, err = enhance(*line, "--log-volume", "copy")
    assert code == 0, err
    assert [v["volume"]["how"] for v in third["volumes"]] == ["copied", "copied"]
    for run in runs():
        assert (run.metrics, run.tags["log_volume"]) == (before[run.id][0], "copied")
        name = Path(run.params["output"]).name
        assert artifacts(run)[f"volume/{name}"].read_bytes() == Path("out", name).read_bytes()


def test_waiting_for_the_store_is_no_part_of_the_speed(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Store.create_run

    def slow(self: Store, *arguments: Any, **options: Any) -> Run:
        time.sleep(3)
        return create(self, *arguments, **options)

    monkeypatch.setattr(Store, "create_run", slow)
    begin = time.perf_counter()
    code, data, _ = enhance(write("a.h5"), "--output", "e.h5", "--no-trust", "--no-report")
    assert code == 0
    assert time.perf_counter() - begin - data["seconds"] > 3


def test_a_process_killed_before_it_noted_its_run_leaves_one_that_the_next_finds(
    enhance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Store.create_run

    def dies_when_the_run_exists(*arguments: Any, **values: Any) -> None:
        create(*arguments, **values)
        os._exit(9)

    line = (write("a.h5"), "--output", "e.h5", "--no-report", "--no-trust")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            monkeypatch.setattr(Store, "create_run", dies_when_the_run_exists)
            enhance(*line)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = runs()
    assert (left.status, left.params) == ("RUNNING", {})
    code, data, err = enhance(*line)
    assert code == 0, err
    (run,) = runs()
    assert (run.id, run.name, run.status) == (left.id, left.name, "FINISHED")
    assert (data["run_id"], run.tags["reason"]) == (left.id, "")
    assert run.params["output"] == str(Path("e.h5").absolute())
