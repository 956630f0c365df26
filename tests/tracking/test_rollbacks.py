"""Rollbacks in the store, as they happen."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config
from cyclegan.events import Cause
from cyclegan.snapshot import Snapshot
from cyclegan.trainer import Trainer
from tracking import Run, Store, TrackingCallback
from tracking.views import ROLLBACK_PICTURES

Make = Callable[..., Config]
RED = np.array([255, 0, 0])


class Drill(Callback):
    """Take a snapshot at step `start`, fall back and report outcomes at given iterations."""

    def __init__(
        self, start: int, falls: Mapping[int, Cause], outcomes: Mapping[int, str] | None = None
    ) -> None:
        self.start, self.falls, self.outcomes = start, falls, outcomes or {}
        self.snapshot: Snapshot | None = None

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.step == self.start and self.snapshot is None:
            self.snapshot = trainer.snapshot()
        if trainer.iteration in self.outcomes:
            trainer.conclude_rollback(self.outcomes[trainer.iteration])
        if trainer.iteration in self.falls:
            assert self.snapshot is not None
            trainer.request_rollback(
                self.snapshot,
                reason="no good",
                changes={"lr_g": 5e-4},
                cause=self.falls[trainer.iteration],
            )

    def state_dict(self) -> dict[str, Any]:
        return {"snapshot": self.snapshot.to_plain() if self.snapshot else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["snapshot"]:
            self.snapshot = Snapshot.from_plain(state["snapshot"])


class Look(Callback):
    """Record the result of `see` at every step."""

    def __init__(self, see: Callable[[], Any]) -> None:
        self.see = see
        self.seen: dict[int, Any] = {}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.seen[trainer.iteration] = self.see()


CAUSES = {
    8: Cause(kind="non_finite", severity=math.inf),
    10: Cause(kind="flat", severity=2.5, attempt=2),
}
OUTCOMES = {10: "failed again", 13: "recovered"}


def drill(**changes: Any) -> Drill:
    return Drill(**{"start": 6, "falls": CAUSES, "outcomes": OUTCOMES} | changes)


@pytest.fixture
def guarded(tiny: Make) -> Make:
    """A configuration that names an optimizer; the tests run none."""

    def make(**changes: Any) -> Config:
        return tiny(**{"steps": 12, "hp_optimizer": {"enabled": True}} | changes)

    return make


def points(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in client.get_metric_history(run.id, name)]


def record(run: Run) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = run.artifact_path("rollbacks.json").read_text()
    return json.loads(text, parse_constant=refuse)


def picture(client: MlflowClient, run: Run, iteration: int) -> NDArray[np.uint8]:
    files = [item.path for item in client.list_artifacts(run.id, "images")]
    (path,) = [
        f for f in files if f"/Cycle~rollbacks+step+{iteration}+" in f and f.endswith(".png")
    ]
    return np.asarray(Image.open(run.artifact_path(path)).convert("RGB"))


@pytest.mark.parametrize("first", [True, False], ids=["tracking first", "tracking last"])
def test_events_and_what_became_of_them_are_told(
    run: Run, client: MlflowClient, guarded: Make, first: bool
) -> None:
    tracking = TrackingCallback(run, every=4)
    Trainer(guarded(), [tracking, drill()] if first else [drill(), tracking]).fit()
    one, two = record(run)
    assert {"iteration", "to_step", "reason", "after", "kickstart"} <= one.keys()
    assert (one["cause"]["severity"], two["cause"]["severity"]) == (None, 2.5)
    assert (one["outcome"], one["concluded"]) == ("failed again", 10)
    assert (two["outcome"], two["concluded"]) == ("recovered", 13)
    assert points(client, run, "rollbacks") == [(8, 1.0), (10, 2.0)]
    assert points(client, run, "rollback/severity") == [(10, 2.5)]
    attempts = dict(points(client, run, "attempt"))
    steps = {7: 0, 8: 1, 9: 1, 10: 2, 12: 2, 13: 0, 16: 0}
    assert {i: attempts[i] for i in steps} == steps
    # One picture per event and one of the recovery; the second fall is the first one's outcome.
    assert run.image_steps(ROLLBACK_PICTURES) == {8, 10, 13}
    page = run.artifact_path("rollback_path.html").read_text()
    assert page.count("failed again") > 1
    assert "at iteration 13" in page


def test_an_outcome_is_in_the_store_one_step_later(run: Run, guarded: Make) -> None:
    tracking = TrackingCallback(run, seconds=1e9)

    def outcome() -> object:
        tracking.settle()  # entries on their way by now
        return record(run)[-1]["outcome"] if run.image_steps(ROLLBACK_PICTURES) else None

    look = Look(outcome)
    Trainer(guarded(), [tracking, drill(), look]).fit()
    expected = {8: None, 9: "", 10: "", 11: "", 13: "", 14: "recovered"}
    assert {i: look.seen[i] for i in expected} == expected


def test_trainings_without_rollbacks_or_optimizer_show_neither(
    run: Run, store: Store, client: MlflowClient, guarded: Make, tiny: Make
) -> None:
    Trainer(guarded(steps=4), [TrackingCallback(run)]).fit()
    assert set(dict(points(client, run, "attempt")).values()) == {0.0}
    names = {item.path for item in client.list_artifacts(run.id)}
    assert not names & {"rollbacks.json", "rollback_path.html"}
    other = store.create_run("study", "trial-2", kind="trial", params={}, tags={})
    Trainer(tiny(steps=10), [TrackingCallback(other), drill()]).fit()
    assert points(client, other, "attempt") == []
    assert len(record(other)) == 2


def test_the_picture_shows_the_fault_and_the_restored_networks(
    run: Run, client: MlflowClient, guarded: Make
) -> None:
    class Poison(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            if trainer.iteration == 7:
                with torch.no_grad():
                    next(trainer.model.G_A.parameters()).fill_(math.nan)

    outcomes = {12: "recovered"}
    falls = {8: CAUSES[8]}
    callbacks = [TrackingCallback(run), drill(falls=falls, outcomes=outcomes), Poison()]
    Trainer(guarded(), callbacks).fit()
    before, after = np.array_split(picture(client, run, 8), 2, axis=1)
    red = [(half == RED).all(axis=2).mean() for half in (before, after)]
    assert red[0] > 0.2
    assert red[1] == 0
    assert not (picture(client, run, 12) == RED).all(axis=2).any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tracking_a_rollback_changes_nothing(run: Run, guarded: Make, precision: str) -> None:
    changes: dict[str, Any] = {"kickstart": True, "norm_D": "batch", "precision": precision}
    config = guarded(**changes)
    drawn = [Look(torch.get_rng_state) for _ in range(2)]
    plain = Trainer(config, [drill(), drawn[0]])
    tracked = Trainer(config, [TrackingCallback(run, every=1), drill(), drawn[1]])
    plain.fit()
    tracked.fit()
    assert len(plain.rollbacks) == 2
    assert run.image_steps(ROLLBACK_PICTURES)
    assert plain.history.rows() == tracked.history.rows()
    for name, weights in plain.model.state_dict().items():
        assert torch.equal(weights, tracked.model.state_dict()[name]), name
    assert torch.equal(plain.model.random.get_state(), tracked.model.random.get_state())
    assert all(torch.equal(state, drawn[1].seen[i]) for i, state in drawn[0].seen.items())
    assert all(module.training for module in (tracked.model.G_A, tracked.model.D_A))


def test_a_rollback_without_a_picture_is_no_end(
    run: Run, guarded: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    trainer = Trainer(guarded(), [TrackingCallback(run), drill()])
    monkeypatch.setattr("tracking.rollbacks._translated", fail)
    monkeypatch.setattr("tracking.rollbacks.path_page", fail)
    assert trainer.fit().outcome == "completed"
    assert [event["outcome"] for event in record(run)] == ["failed again", "recovered"]
    assert "no memory" in caplog.text


@pytest.mark.parametrize(
    ("iteration", "killed"), [(9, False), (13, False), (9, True)], ids=["open", "known", "killed"]
)
def test_a_resume_neither_loses_nor_doubles(
    run: Run,
    store: Store,
    client: MlflowClient,
    guarded: Make,
    tmp_path: Path,
    iteration: int,
    killed: bool,
) -> None:
    class Leave(Callback):
        """Interrupt the training, or copy the checkpoint of the iteration before and go on."""

        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            if trainer.iteration == iteration and killed:
                shutil.copy(tmp_path / "checkpoint.pt", tmp_path / "old.pt")
            elif trainer.iteration == iteration:
                trainer.request_stop("SIGTERM", outcome="interrupted")

    config = guarded(checkpoint_every=1)
    Trainer(config, [TrackingCallback(run), drill(), Leave()], tmp_path).fit()
    tracking = TrackingCallback(store.open_run(run.id))
    second = Trainer(config, [tracking, drill()], tmp_path)
    second.fit(resume=tmp_path / ("old.pt" if killed else "checkpoint.pt"))
    assert [(e["iteration"], e["outcome"]) for e in record(run)] == [
        (8, "failed again"),
        (10, "recovered"),
    ]
    assert points(client, run, "rollbacks") == [(8, 1.0), (10, 2.0)]
    steps = [step for step, _ in points(client, run, "attempt")]
    assert len(steps) == len(set(steps))
    files = [item.path for item in client.list_artifacts(run.id, "images")]
    assert len([f for f in files if "/Cycle~rollbacks+" in f and f.endswith(".png")]) == 3
    # All validations, including that of the discarded step 8.
    scores = [at for at, _, _ in tracking.state_dict()["scores"]]
    assert scores == [at for at, _ in points(client, run, "score")]
    assert tracking.state_dict()["initial"]["lr_g"] == 2e-4


def test_states_of_earlier_versions_load(run: Run, guarded: Make, tmp_path: Path) -> None:
    Trainer(guarded(steps=4), [TrackingCallback(run)], tmp_path).fit()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    state["callbacks"]["TrackingCallback"] = {"rollbacks": [{"iteration": 3}]}
    del state["rollbacks"]
    tracking = TrackingCallback(run)
    Trainer(guarded(steps=4), [tracking]).load_state_dict(state)
    assert tracking.state_dict() == {"scores": [], "initial": {}, "unsent": {}}
