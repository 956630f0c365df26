"""A training whose numbers are no longer finite fails, but leaves its earlier good state."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Config, Trainer, checkpoints, load_generator, parse_config
from cyclegan.config import override
from cyclegan.errors import CheckpointError, DivergedError
from cyclegan.score.deferred import Deferred
from search.launch import Job, run_training
from tracking import Store
from viz.console import Console

SAVE = Path("results/t/save")


class Breaks(Callback):
    """Put a NaN into a weight after a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.last = 0

    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        self.last = trainer.iteration
        if trainer.iteration == self.step:
            with torch.no_grad():
                next(trainer.model.G_A.parameters()).view(-1)[0] = float("nan")


def launch(config: Config, *callbacks: Callback) -> Any:
    job = Job(config=config, experiment="e", kind="train", tags={}, folder=Path("results/t"))
    return run_training(job, store=Store.open(), console=Console(quiet=True), callbacks=callbacks)


def changed(config: Config, **changes: Any) -> Config:
    return parse_config(override(config.to_dict(), changes))


def status() -> str:
    from mlflow import MlflowClient

    store = Store.open()
    (run,) = store.search("e")
    return str(MlflowClient(store.uri).get_run(run.id).info.status)


def finite(state: dict[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in state.values())


def test_an_absurd_weight_ends_in_failure_and_leaves_no_generator(
    config: Config, project: Path
) -> None:
    with pytest.raises(DivergedError, match=r"at step 1 loss/G_total was inf; lower lr_g"):
        launch(changed(config, **{"lambdas.C_A": 1e300}))
    assert status() == "FAILED"
    assert not list(SAVE.glob("*.pt"))


def test_what_was_good_before_stays(
    config: Config, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny network's contrast may fail the gates, which are not tested here.
    passed = Deferred([], lambda: None)
    monkeypatch.setattr("cyclegan.score.objective._collapsed", lambda *_: passed)
    monkeypatch.setattr("cyclegan.score.objective.inverted", lambda *_: None)
    steps = {"steps": 12, "validate_every": 4, "checkpoint_every": 4}
    with pytest.raises(DivergedError, match="diverged"):
        launch(changed(config, **steps), Breaks(6))
    assert status() == "FAILED"
    assert load_generator(SAVE / "generator.pt").step == 4
    kept = checkpoints.load(SAVE / "checkpoint.pt", formats=(checkpoints.CHECKPOINT_FORMAT,))
    assert kept["step"] == 4
    assert finite(kept["training"]["networks"])


class Freezes(Callback):
    """A gradient whose square overflows: its weight never moves again."""

    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        if trainer.iteration == 6:
            moments = next(iter(trainer.model.optimizer_G.state.values()))
            moments["exp_avg_sq"].view(-1)[0] = float("inf")


def test_weights_that_can_not_move_any_more_are_no_training(config: Config, project: Path) -> None:
    with pytest.raises(DivergedError, match=r"Adam's moments of optimizer_G were not finite"):
        launch(changed(config, steps=12, checkpoint_every=4), Freezes())
    assert status() == "FAILED"


def test_an_optimizer_still_falls_back(config: Config, project: Path) -> None:
    ring = {"enabled": True, "snapshot_every": 2, "check_every": 4, "warmup": 100, "fall_back": 2}
    steps = {"steps": 12, "validate_every": 3, "checkpoint_every": 3, "hp_optimizer": ring}
    finished = launch(changed(config, **steps), Breaks(6))
    assert finished.result.outcome == "completed"
    assert finished.rollbacks >= 1
    assert status() == "FINISHED"
    load_generator(SAVE / "generator.pt")


def test_it_is_said_once_that_no_checkpoint_is_written(
    config: Config, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = {"enabled": True, "snapshot_every": 2, "check_every": 12, "warmup": 100, "fall_back": 2}
    steps = {"steps": 14, "validate_every": 7, "checkpoint_every": 1, "hp_optimizer": ring}
    assert launch(changed(config, **steps), Breaks(6)).result.outcome == "completed"
    said = [r for r in caplog.records if r.getMessage().startswith("no checkpoint is written")]
    assert len(said) == 1


def test_a_replay_does_not_train_on_with_what_is_not_finite(config: Config, project: Path) -> None:
    launch(changed(config, hp_optimizer={"enabled": True, "check_every": 4, "warmup": 100}))
    Path("results/t/schedule.yaml").rename("schedule.yaml")
    shutil.rmtree("results/t")
    replay = {"enabled": True, "policy": "replay", "schedule": "schedule.yaml"}
    steps = {"steps": 400, "validate_every": 400, "checkpoint_every": 4, "hp_optimizer": replay}
    breaks = Breaks(6)
    with pytest.raises(DivergedError, match=r"diverged: at step [67]"):
        launch(changed(config, **steps), breaks)
    assert breaks.last == 8


def test_a_checkpoint_of_an_earlier_version_goes_on(config: Config, project: Path) -> None:
    steps = {"checkpoint_every": 4, "pretrain_steps": 2, "lambdas.P_A": 1.0}
    launch(changed(config, steps=8, **steps))
    path = SAVE / "checkpoint.pt"
    state = dict(checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,)))
    # Otherwise values that a step did not compute could not be told from NaN.
    del state["history"]["layouts"], state["history"]["layout_of"]
    checkpoints.save(state, path)
    result = launch(changed(config, steps=12, **steps)).result
    assert (result.outcome, result.step) == ("completed", 12)


@pytest.mark.parametrize("which", ["generator.pt", "checkpoint.pt"])
def test_broken_weights_are_refused_by_their_name(
    config: Config, project: Path, which: str
) -> None:
    launch(config)
    path = SAVE / which
    content = torch.load(path, weights_only=True)
    networks = content.get("training", {}).get("networks", content.get("mean_G_A"))
    name = next(key for key in networks if "mean_G_A" in key or "encoder" in key)
    networks[name].view(-1)[0] = float("inf")
    broken = project / "broken.pt"
    torch.save(content, broken)
    with pytest.raises(CheckpointError, match=r"broken\.pt.*not finite"):
        Trainer(changed(config, pretrained=str(broken))).load_pretrained()
    if which == "generator.pt":
        with pytest.raises(CheckpointError, match=r"broken\.pt.*mean_G_A.*not finite"):
            load_generator(broken)
