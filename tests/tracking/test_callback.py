from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config, parse_config
from cyclegan.data.fingerprint import combined, fingerprint
from cyclegan.errors import DivergedError
from cyclegan.events import TrainResult
from cyclegan.trainer import Trainer
from tracking import Run, Store, TrackingCallback
from tracking.downsampling import Sample
from tracking.outbox.delivery import deliver_waiting
from tracking.outbox.records import End, Record, Samples
from tracking.views import CYCLE_PICTURES

Make = Callable[..., Config]


class At(Callback):
    """Do something at given iterations."""

    def __init__(self, **actions: Callable[[Trainer], object]) -> None:
        self.actions = {int(key.removeprefix("i")): action for key, action in actions.items()}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.iteration in self.actions:
            self.actions[trainer.iteration](trainer)


class FallBack(At):
    """Take a snapshot at iteration `start`; fall back to it two iterations later."""

    def __init__(self, start: int = 6) -> None:
        super().__init__(**{f"i{start}": self.take, f"i{start + 2}": self.fall})

    def take(self, trainer: Trainer) -> None:
        self.snapshot = trainer.snapshot()

    def fall(self, trainer: Trainer) -> None:
        trainer.request_rollback(self.snapshot, reason="no good", changes={"lr_g": 5e-4})


def curves(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    names = client.get_run(run.id).data.metrics
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run.id, name)]
        for name in names
    }


def test_a_training_is_logged_whole(run: Run, client: MlflowClient, tiny: Make) -> None:
    trainer = Trainer(tiny(steps=8), [TrackingCallback(run, every=1, seconds=0)])
    result = trainer.fit()
    found, points = client.get_run(run.id), curves(client, run)

    assert found.info.status == "FINISHED"
    assert (found.data.tags["outcome"], found.data.tags["reason"]) == ("completed", "")
    assert found.data.tags["data_A"] == str(Path(trainer.config.data_A).resolve())
    assert found.data.tags["version.torch"] == torch.__version__
    hashes = fingerprint(Path(trainer.config.data_A))
    assert found.data.tags["data_hash.A"] == found.data.tags["data_hash.B"] == combined(hashes)
    lock = (Path(__file__).parents[2] / "requirements.lock").read_bytes()
    assert found.data.tags["lock_sha256"] == hashlib.sha256(lock).hexdigest()
    assert found.data.params["lambdas.C_A"] == "100.0"
    stored = yaml.safe_load(run.artifact_path("config.yaml").read_text())
    assert parse_config(stored) == trainer.config

    rows = trainer.history.rows()
    for name in ("loss/G_A_bce", "loss/C_B_l1", "grad_norm_G"):
        assert points[name] == [(row.iteration, row.values[name]) for row in rows]
    assert points["step"] == [(i, float(i)) for i in range(1, 9)]
    assert not [name for name in points if name.startswith("truth")]
    assert all(0 <= value <= 1 for _, value in points["D_A/accuracy"])
    assert points["hparam/lr_g"][-1] == (8, trainer.config.lr_g)
    assert all(value > 0 for _, value in points["speed/steps_per_s"])

    assert [step for step, _ in points["score"]] == [4, 8]
    assert points["score"][-1][1] == result.score
    assert run.image_steps(CYCLE_PICTURES) == {0, 4, 8}
    with h5py.File(run.artifact_path("volumes/cycle_00000008.h5")) as file:
        assert file.attrs["iteration"] == 8
        for name in ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"):
            assert trainer.last_report is not None
            assert np.array_equal(file[name], trainer.last_report.images[name].numpy())
        shown = file[file.attrs["default"]]
        data = shown[shown.attrs["default"]]
        assert data[data.attrs["signal"]] == file["fake_B"]
        assert [data[axis].size for axis in data.attrs["axes"]] == [2, 1, 16, 16, 16]


def test_data_that_cannot_be_hashed_ends_no_training(
    run: Run, client: MlflowClient, tiny: Make, data: Path, tmp_path: Path
) -> None:
    for name in ("dataset.json", "volume.h5"):
        shutil.copy(data.parent / name, tmp_path / name)
    config = tiny(steps=2, data_A=str(tmp_path / "dataset.json"))
    trainer = Trainer(config, [TrackingCallback(run)])
    (tmp_path / "dataset.json").unlink()
    assert trainer.fit().outcome == "completed"
    tags = client.get_run(run.id).data.tags
    assert "data_hash.A" not in tags
    assert tags["outcome"] == "completed"


def test_after_a_kill_nothing_is_logged_twice(
    run: Run, store: Store, client: MlflowClient, tiny: Make, tmp_path: Path
) -> None:
    # A killed process leaves a store that is ahead of the checkpoint: here 10 and 4.
    def saved(trainer: Trainer) -> None:  # the checkpoint of step 4 is there when 5 is trained
        shutil.copy(tmp_path / "checkpoint.pt", tmp_path / "old.pt")

    first = Trainer(
        tiny(steps=8),
        [TrackingCallback(run, every=1, seconds=0), FallBack(), At(i5=saved)],
        tmp_path,
    )
    first.fit()
    assert run.last_iteration() == first.iteration == 10
    before = curves(client, run)

    tracking = TrackingCallback(store.open_run(run.id), every=1, seconds=0)
    second = Trainer(tiny(steps=16), [tracking, FallBack()], tmp_path)
    second.fit(resume=tmp_path / "old.pt")
    after = curves(client, run)

    assert second.iteration == 18
    assert [step for step, _ in after["step"]] == list(range(1, 19))
    for name, points in after.items():
        steps = [step for step, _ in points]
        assert len(steps) == len(set(steps)), name
        if name != "speed/steps_per_s":
            assert points[: len(before.get(name, []))] == before.get(name, []), name
    # The path of steps: 1..8, back to 6, on to 16.
    assert [int(step) for _, step in after["step"]] == [*range(1, 9), *range(7, 17)]
    assert after["rollbacks"] == [(8, 1.0)]
    assert len(json.loads(run.artifact_path("rollbacks.json").read_text())) == 1
    files = [item.path for item in client.list_artifacts(run.id, "images")]
    pictures = [path.split("/")[1].split("+")[0] for path in files if path.endswith(".png")]
    assert pictures.count("Cycle~slices") == 1 + len(after["score"])  # and that of the start
    assert pictures.count("Cycle~rollbacks") == 1
    assert client.get_run(run.id).data.tags["changed.steps"] == "8 -> 16"


def test_a_rollback_is_told_with_its_hyperparameters(
    run: Run, client: MlflowClient, tiny: Make
) -> None:
    Trainer(tiny(steps=8), [TrackingCallback(run, every=1, seconds=0), FallBack()]).fit()
    (event,) = json.loads(run.artifact_path("rollbacks.json").read_text())
    assert (event["from_step"], event["to_step"], event["iteration"]) == (8, 6, 8)
    assert event["reason"] == "no good"
    assert (event["before"]["lr_g"], event["after"]["lr_g"]) == (2e-4, 5e-4)
    # The chart has a step at the iteration of the change, not a ramp from the last entry.
    lr_g = curves(client, run)["hparam/lr_g"]
    assert [point for point in lr_g if 7 <= point[0] <= 8] == [(7, 2e-4), (8, 5e-4)]
    assert lr_g[-1] == (10, 5e-4)


def test_the_record_of_rollbacks_survives_a_resume(
    run: Run, store: Store, client: MlflowClient, tiny: Make, tmp_path: Path
) -> None:
    Trainer(tiny(steps=8), [TrackingCallback(run), FallBack(6)], tmp_path).fit()
    second = [TrackingCallback(store.open_run(run.id)), FallBack(12)]
    Trainer(tiny(steps=16), second, tmp_path).fit(resume=tmp_path / "checkpoint.pt")
    events = json.loads(run.artifact_path("rollbacks.json").read_text())
    assert [event["iteration"] for event in events] == [8, 14]
    assert curves(client, run)["rollbacks"] == [(8, 1.0), (14, 2.0)]


def test_a_validation_is_in_the_store_one_step_later(
    run: Run, client: MlflowClient, tiny: Make
) -> None:
    seen: list[float | None] = []

    def look(trainer: Trainer) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (found := score()):
            time.sleep(0.05)
        seen.append(found)

    def score() -> float | None:
        return client.get_run(run.id).data.metrics.get("score")

    looks = At(i4=lambda trainer: seen.append(score()), i5=look)
    Trainer(tiny(steps=6), [TrackingCallback(run, seconds=1e9), looks]).fit()
    assert seen[0] is None
    assert seen[1] is not None  # although the next batch is due in thirty years


@pytest.mark.parametrize("outcome", ["pruned", "stopped", "interrupted"])
def test_a_training_that_is_stopped_was_killed(
    run: Run, client: MlflowClient, tiny: Make, outcome: str
) -> None:
    stop = At(i3=lambda trainer: trainer.request_stop("enough\nof it", outcome=outcome))  # type: ignore[arg-type]
    result = Trainer(tiny(), [stop, TrackingCallback(run)]).fit()
    found = client.get_run(run.id)
    assert result.outcome == outcome
    assert found.info.status == "KILLED"
    assert found.data.tags["outcome"] == outcome
    assert found.data.tags["reason"] == "enough of it"
    assert run.last_iteration() == 3


@pytest.mark.parametrize(
    ("error", "status", "outcome", "reason"),
    [
        (ValueError("out of\ncheese"), "FAILED", "failed", "ValueError: out of cheese"),
        (KeyboardInterrupt(), "KILLED", "interrupted", "KeyboardInterrupt"),
        (SystemExit(1), "KILLED", "interrupted", "SystemExit"),
    ],
)
def test_an_error_closes_the_run(
    run: Run,
    client: MlflowClient,
    tiny: Make,
    error: BaseException,
    status: str,
    outcome: str,
    reason: str,
) -> None:
    def fail(trainer: Trainer) -> None:
        raise error

    with pytest.raises(type(error)):
        Trainer(tiny(), [At(i3=fail), TrackingCallback(run)]).fit()
    found = client.get_run(run.id)
    assert (found.info.status, found.data.tags["outcome"]) == (status, outcome)
    assert found.data.tags["reason"] == reason
    assert run.last_iteration() == 3  # the values before the error are there


def test_an_interrupted_validation_comes_whole_when_the_training_resumes(
    run: Run, client: MlflowClient, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(steps=8, validate_every=4, checkpoint_every=3)
    first = Trainer(config, [TrackingCallback(run, every=1, seconds=0)], tmp_path)

    def interrupted(*arguments: object, **named: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(first.validator), "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.fit()
    assert run.last_iteration() == 3  # the losses of iteration 4 wait for their score
    second = Trainer(config, [TrackingCallback(run, every=1, seconds=0)], tmp_path)
    second.fit(resume=tmp_path / "checkpoint.pt")
    points = curves(client, run)
    assert [iteration for iteration, _ in points["score"]] == [4, 8]
    losses = [iteration for iteration, _ in points["loss/G_total"]]
    assert losses == list(range(1, 9))


def test_values_that_are_not_finite_are_counted(run: Run, client: MlflowClient, tiny: Make) -> None:
    def poison(trainer: Trainer) -> None:
        with torch.no_grad():
            next(trainer.model.G_A.parameters()).fill_(math.nan)

    tracking = TrackingCallback(run, every=1, seconds=0)
    trainer = Trainer(tiny(steps=6, checkpoint_every=6), [At(i3=poison), tracking])
    with pytest.raises(DivergedError):
        trainer.fit()
    points = curves(client, run)
    bad = sum(not math.isfinite(v) for row in trainer.history.rows() for v in row.values.values())
    assert bad > 3
    assert points["nonfinite"][0][0] == 4
    assert points["nonfinite"][-1] == (6, float(bad))
    assert [step for step, _ in points["loss/C_A_l1"]] == [1, 2, 3]
    assert [step for step, _ in points["step"]] == [1, 2, 3, 4, 5, 6]
    assert all(abs(value) < 1e300 for curve in points.values() for _, value in curve)


def rename(database: Path, old: str, new: str) -> Callable[[Trainer], None]:
    def act(trainer: Trainer) -> None:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    return act


def test_a_store_that_breaks_and_comes_back_loses_nothing(
    run: Run, client: MlflowClient, tiny: Make, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    breaks = At(i3=rename(database, "metrics", "away"), i10=rename(database, "away", "metrics"))
    trainer = Trainer(tiny(), [breaks, TrackingCallback(run, every=1, seconds=0)])
    assert trainer.fit().outcome == "completed"
    assert [step for step, _ in curves(client, run)["step"]] == list(range(1, 13))
    assert run.image_steps(CYCLE_PICTURES) == {0, 4, 8, 12}
    assert client.get_run(run.id).info.status == "FINISHED"
    warnings = [record.getMessage() for record in caplog.records]
    assert any("kept and sent again" in text for text in warnings)
    assert not any("\n" in text for text in warnings)


def test_what_a_broken_store_does_not_take_waits_on_the_disk(
    run: Run,
    store: Store,
    client: MlflowClient,
    tiny: Make,
    database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tracking.outbox.writer._FINAL_PAUSE", 0.0)
    breaks = At(i3=rename(database, "metrics", "away"))
    trainer = Trainer(tiny(), [breaks, TrackingCallback(run, every=1, seconds=0)], tmp_path)
    assert trainer.fit().outcome == "completed"
    assert "did not reach the tracking store" in caplog.text
    rename(database, "away", "metrics")(trainer)
    assert client.get_run(run.id).info.status == "FINISHED"  # another kind of record got through
    (delivery,) = deliver_waiting(store)  # as the warning promises
    assert (delivery.left, delivery.error) == (0, "")
    assert [step for step, _ in curves(client, run)["loss/G_total"]] == list(range(1, 13))
    assert not (database.parent / "journal" / run.id).exists()
    assert deliver_waiting(store) == []


def test_a_resumed_training_goes_on_behind_what_waits(
    run: Run,
    store: Store,
    client: MlflowClient,
    tiny: Make,
    database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracking.outbox.writer._FINAL_PAUSE", 0.0)
    breaks = At(i3=rename(database, "metrics", "away"))
    first = Trainer(tiny(steps=8), [breaks, TrackingCallback(run, seconds=0)], tmp_path)
    first.fit()
    rename(database, "away", "metrics")(first)
    tracking = TrackingCallback(store.open_run(run.id), seconds=0)
    again = Trainer(tiny(steps=12), [tracking], tmp_path)
    again.fit(resume=tmp_path / "checkpoint.pt")
    points = curves(client, run)
    assert points["loss/G_total"] == [
        (row.iteration, row.values["loss/G_total"]) for row in again.history.rows()
    ]
    assert [step for step, _ in points["score"]] == [4, 8, 12]
    assert client.get_run(run.id).info.status == "FINISHED"


def test_a_score_that_was_on_its_way_survives_a_kill(
    run: Run, store: Store, client: MlflowClient, tiny: Make, tmp_path: Path
) -> None:
    """The checkpoint has what the store lacks, including metrics that are in no history."""

    class Dead(TrackingCallback):
        """A writer whose process was killed before its first batch."""

        name = "TrackingCallback"

        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            pass

        def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
            pass

    Trainer(tiny(steps=4), [Dead(run)], tmp_path).fit()
    assert "score" not in client.get_run(run.id).data.metrics
    again = Trainer(tiny(steps=8), [TrackingCallback(store.open_run(run.id))], tmp_path)
    again.fit(resume=tmp_path / "checkpoint.pt")
    assert [step for step, _ in curves(client, run)["score"]] == [4, 8]


def test_a_point_is_the_mean_since_the_point_before(
    run: Run, client: MlflowClient, tiny: Make
) -> None:
    trainer = Trainer(tiny(steps=12, validate_every=5), [TrackingCallback(run, every=4)])
    trainer.fit()
    losses = {row.iteration: row.values["loss/C_A_l1"] for row in trainer.history.rows()}
    points = dict(curves(client, run)["loss/C_A_l1"])
    ends = sorted(points)
    assert {4, 5, 8, 10, 12} <= set(ends)  # regular ones and validations
    for before, end in zip([0, *ends], ends, strict=False):
        expected = np.mean([losses[i] for i in range(before + 1, end + 1)])
        assert points[end] == pytest.approx(float(expected), rel=1e-6)


def test_tracking_changes_nothing_in_the_training(run: Run, tiny: Make) -> None:
    config = tiny(steps=6, kickstart=True)
    plain, tracked = Trainer(config), Trainer(config, [TrackingCallback(run, every=1, seconds=0)])
    plain.fit()
    tracked.fit()
    for name, weights in plain.model.state_dict().items():
        assert torch.equal(weights, tracked.model.state_dict()[name]), name
    assert plain.history.rows() == tracked.history.rows()


class Memory:
    """A tracker that keeps everything in memory: the protocol is all that a tracker needs."""

    name = "memory"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = False

    def put(self, *new: Record) -> None:
        self.records += new

    def flush(self) -> None:
        pass

    def drain(self, timeout: float = 30.0) -> bool:
        return True

    def close(self) -> bool:
        self.closed = True
        return True

    def unsent(self) -> list[Sample]:
        return []

    def last_iteration(self) -> int:
        return 0

    def image_steps(self, key: str) -> set[int]:
        return set()

    def artifact_names(self, folder: str) -> list[str]:
        return []


def test_another_tracker_is_told_what_mlflow_is_told(
    run: Run, tiny: Make, client: MlflowClient
) -> None:
    config, memory = tiny(steps=6), Memory()
    Trainer(config, [TrackingCallback(run, every=2, seconds=0)]).fit()
    Trainer(config, [TrackingCallback(memory, every=2, seconds=0)]).fit()
    assert memory.closed
    assert isinstance(memory.records[-1], End)
    told = {
        (sample.iteration, name): value
        for record in memory.records
        if isinstance(record, Samples)
        for sample in record.samples
        for name, value in sample.values.items()
    }
    stored = {
        (step, name): value
        for name, points in curves(client, run).items()
        if name.startswith(("loss/", "score"))
        for step, value in points
    }
    assert stored
    assert {key: told[key] for key in stored} == pytest.approx(stored)


def test_volumes_can_be_left_out(run: Run, tiny: Make) -> None:
    Trainer(tiny(steps=2), [TrackingCallback(run, volumes=False)]).fit()
    with pytest.raises(Exception, match="no artifact"):
        run.artifact_path("volumes")


_KILLED = """
import json, os, signal, sys
from pathlib import Path
from cyclegan.callbacks import Callback
from cyclegan.config import parse_config
from cyclegan.trainer import Trainer
from tracking import Store, TrackingCallback

class Kill(Callback):
    def on_step_end(self, trainer, metrics):
        if trainer.iteration == 7:
            os.kill(os.getpid(), signal.SIGKILL)

uri, folder, config = sys.argv[1:]
run = Store.open(uri).create_run("study", "killed", kind="train", params={}, tags={})
tracking = TrackingCallback(run, every=1, seconds=0)
Trainer(parse_config(json.loads(config)), [tracking, Kill()], Path(folder)).fit()
"""


@pytest.mark.slow
def test_kill_minus_nine_then_resume(
    store: Store, client: MlflowClient, tiny: Make, tmp_path: Path
) -> None:
    config = json.dumps(tiny().to_dict())
    arguments = [sys.executable, "-c", _KILLED, store.uri, str(tmp_path), config]
    killed = subprocess.run(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    run = store.run(store.find_run("killed").id)
    assert client.get_run(run.id).info.status == "RUNNING"
    assert run.last_iteration() <= 7  # entries on their way were lost with the process
    Trainer(tiny(), [TrackingCallback(store.open_run(run.id), every=1, seconds=0)], tmp_path).fit(
        resume=tmp_path / "checkpoint.pt"
    )
    straight = Trainer(tiny())
    straight.fit()
    points = curves(client, run)
    assert points["loss/G_total"] == [
        (row.iteration, row.values["loss/G_total"]) for row in straight.history.rows()
    ]
    for name, curve in points.items():
        assert len({step for step, _ in curve}) == len(curve), name
    assert client.get_run(run.id).info.status == "FINISHED"
