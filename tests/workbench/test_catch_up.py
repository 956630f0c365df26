"""Doctor and a resumed training deliver to MLflow what a full disk kept from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyclegan.callbacks import Callback
from cyclegan.config import parse_config
from cyclegan.errors import CycleGANError
from cyclegan.trainer import Trainer
from search.catch_up import ended_trainings, shortfall
from search.launch import Job, run_training
from tracking import Run, Store
from tracking.process import PROCESS
from viz.console import Console
from workbench.doctor import examine_and_repair
from workbench.training import train

from .test_doctor import dead_process

_OWN_TIME = ("speed/", "system/")


class FullDisk(Callback):
    """Lets neither the store nor the journal take anything from an iteration on."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.patch, self.at = patch, at

    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        def full(*_: object, **__: object) -> None:
            raise CycleGANError("the disk is full")

        if trainer.iteration == self.at:
            for name in ("log_rows", "set_tags", "log_text", "log_file", "log_image", "finish"):
                self.patch.setattr(Run, name, full)
            self.patch.setattr("tracking.outbox.outbox.write_text", full)
            self.patch.setattr("tracking.outbox.writer._FINAL_PAUSE", 0.01)


def curves(store: Store, run_id: str) -> dict[str, dict[int, float]]:
    run = store.run(run_id)
    metrics = store.find_run(run_id).metrics
    names = [n for n in metrics if not n.startswith(_OWN_TIME) and n != "iteration"]
    return {name: run.history(name) for name in names}


def job(tiny: dict[str, Any], project: Path, name: str) -> Job:
    config = parse_config(tiny | {"run_name": name, "steps": 20, "log_every": 5})
    folder = project / "results" / name
    return Job(config=config, folder=folder, experiment="train", kind="train", tags={})


@pytest.mark.parametrize("way", ["doctor", "resume"])
def test_a_training_on_a_full_disk_is_told_whole_afterwards(
    way: str, project: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, console = Store.open(), Console(quiet=True)
    whole = run_training(job(tiny, project, "whole"), store=store, console=console)
    with monkeypatch.context() as patch:
        given = job(tiny, project, "t")
        ended = run_training(given, store=store, console=console, callbacks=[FullDisk(patch, 9)])
    store.run(ended.run_id).set_tags({PROCESS: dead_process()})
    before = store.find_run(ended.run_id)
    assert (before.status, before.metrics.get("iteration", 0) < 20) == ("RUNNING", True)
    if way == "doctor":
        assert examine_and_repair(store).exit_code == 0
        assert "all is well" in examine_and_repair(store).text
    else:
        train(given.config, store=store, console=console, resume=True)
    after = store.find_run(ended.run_id)
    assert (after.status, after.tags["outcome"], after.tags["reason"]) == (
        *("FINISHED", "completed"),
        "",
    )
    assert curves(store, ended.run_id) == curves(store, whole.run_id)
    one, other = (store.run(run_id) for run_id in (ended.run_id, whole.run_id))
    assert one.image_steps("Cycle/slices") == other.image_steps("Cycle/slices")
    assert one.artifact_names("checkpoints") == other.artifact_names("checkpoints")
    assert not [e for e in ended_trainings(project / "results") if shortfall(store, e)]


def test_a_run_that_was_closed_in_between_is_opened_again(
    project: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, console = Store.open(), Console(quiet=True)
    with monkeypatch.context() as patch:
        given = job(tiny, project, "t")
        ended = run_training(given, store=store, console=console, callbacks=[FullDisk(patch, 9)])
    store.run(ended.run_id).finish("KILLED", "its process died")  # as the next command did
    assert examine_and_repair(store).exit_code == 0
    assert store.find_run(ended.run_id).status == "FINISHED"
