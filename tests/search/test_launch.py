"""A tracked training in its folder: stored generators, statuses, one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan import Callback, Config, Trainer, load_generator, parse_config
from cyclegan.errors import BusyError, ConfigError
from cyclegan.keep_best import KeepBest
from cyclegan.locks import exclusive
from cyclegan.validation import ValidationReport
from search import launch as launches
from search.launch import Job, LaunchResult, run_training
from tracking import Store
from viz.console import Console


def job(config: Config, **changes: Any) -> Job:
    values = {"experiment": "e", "kind": "train", "tags": {}, "folder": Path("results/t")}
    return Job(config=config, **(values | changes))


def launch(config: Config, *callbacks: Callback, **changes: Any) -> LaunchResult:
    return run_training(
        job(config, **changes), store=Store.open(), console=Console(quiet=True), callbacks=callbacks
    )


class Scores(Callback):
    """Replace the results of the validations with a score that rises and falls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scores: list[float | None]) -> None:
        self.weights: dict[int, torch.Tensor] = {}
        original = Trainer._emit

        def emit(trainer: Trainer, event: str, *arguments: Any) -> None:
            if event == "on_validation_end":
                (report,) = arguments
                score = scores[report.step // 4 - 1]
                values = vars(report) | {"score": score or -100.0, "gate": None if score else "no"}
                arguments = (ValidationReport(**values),)
                self.weights[report.step] = next(trainer.model.mean_G_A.parameters()).clone()
            original(trainer, event, *arguments)

        monkeypatch.setattr(Trainer, "_emit", emit)


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [([1.0, 3.0, 2.0], 8, 3.0), ([None, 1.0, None], 8, 1.0), ([None, None, None], 12, None)],
)
def test_the_generators_of_the_best_validation_are_kept(
    config: Config,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float | None],
    kept: int,
    best: float | None,
) -> None:
    watch = Scores(monkeypatch, scores)
    finished = launch(config)
    assert (finished.best_step, finished.best_score) == (kept, best)
    generator = load_generator(finished.folder / "save/generator.pt")
    assert generator.step == kept
    assert torch.equal(next(generator.network.parameters()), watch.weights[kept])


def test_keep_best_forgets_a_file_that_is_gone(tmp_path: Path) -> None:
    keeper = KeepBest(tmp_path / "g.pt")
    keeper.load_state_dict({"score": 5.0, "step": 3})
    assert keeper.score is None
    (tmp_path / "g.pt").write_bytes(b"")
    keeper.load_state_dict({"score": 5.0, "step": 3})
    assert (keeper.score, keeper.gain_db) == (5.0, None)  # a state of an earlier version
    keeper.load_state_dict({"score": 5.0, "step": 3, "gain_db": 1.5})
    assert keeper.state_dict() == {"score": 5.0, "step": 3, "gain_db": 1.5}


def status(run_id: str) -> tuple[str, str]:
    from mlflow import MlflowClient

    found = MlflowClient(Store.open().uri).get_run(run_id)
    return found.info.status, found.data.tags.get("reason", "")


def test_a_failure_is_failed_with_its_message_in_mlflow(config: Config, project: Path) -> None:
    class Fails(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
            raise RuntimeError("the amplifier exploded")

    with pytest.raises(RuntimeError, match="amplifier"):
        launch(config, Fails())
    (run,) = Store.open().search("e")
    state, reason = status(run.id)
    assert state == "FAILED"
    assert "the amplifier exploded" in reason


def test_a_stopped_training_is_killed_with_its_reason_and_final(
    config: Config, project: Path
) -> None:
    class Stops(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
            trainer.request_stop("hopeless", outcome="pruned")

    finished = launch(config, Stops())
    assert status(finished.run_id) == ("KILLED", "hopeless")
    again = launch(config)
    assert again.reused
    assert again.result == finished.result


def test_the_same_folder_with_another_configuration_is_refused(
    config: Config, project: Path
) -> None:
    launch(config)
    with pytest.raises(ConfigError, match="lr_g"):
        launch(config.model_copy(update={"lr_g": 0.01}))


@pytest.mark.slow
def test_continuing_another_training_keeps_its_values_but_for_what_is_asked(
    config: Config, project: Path
) -> None:
    class Changes(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
            if trainer.step == 5:
                trainer.set_hparams({"lambdas.C_A": 7.0, "lr_d": 3e-4})

    seen: dict[str, float] = {}

    class Looks(Callback):
        def on_train_end(self, trainer: Trainer, result: Any) -> None:
            seen.update(trainer.hparams.flat())
            seen["adam"] = trainer.model.optimizer_G.param_groups[0]["lr"]

    first = launch(config, Changes())
    more = parse_config(config.to_dict() | {"steps": 16, "lr_g": 5e-4})
    start = first.folder / "save/checkpoint.pt"
    second = launch(more, Looks(), folder=Path("results/more"), start=start)
    assert second.result.step == 16
    assert seen["lr_g"] == seen["adam"] == 5e-4
    assert (seen["lambdas.C_A"], seen["lr_d"]) == (7.0, 3e-4)
    # When it continues from its own checkpoint, nothing changes a second time.
    longer = parse_config(more.to_dict() | {"steps": 20})
    launch(longer, Looks(), folder=Path("results/more"), start=start)
    assert seen["lr_g"] == 5e-4


class Dies(Callback):
    """The process dies in the middle of a training and writes nothing any more."""

    def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
        if trainer.step == 3:
            os._exit(9)


def run_and_die(config: Config, **changes: Any) -> None:
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            launch(config, Dies(), **changes)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def runs_of_e() -> list[tuple[str, str, str]]:
    return [(run.id, run.name, run.status) for run in Store.open().search("e")]


def test_a_training_that_died_before_its_first_checkpoint_keeps_its_run(
    config: Config, project: Path
) -> None:
    run_and_die(config)
    assert not Path("results/t/save/checkpoint.pt").exists()
    ((run_id, _, status_before),) = runs_of_e()
    assert status_before == "RUNNING"
    finished = launch(config)
    assert runs_of_e() == [(run_id, "tiny", "FINISHED")]
    assert finished.run_id == run_id


def test_a_process_killed_before_it_noted_its_run_leaves_one_that_the_next_finds(
    config: Config, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_when_the_run_exists(folder: Path, **record: object) -> None:
        if "run_id" in record:
            os._exit(9)
        remember(folder, **record)

    remember = launches._remember
    with monkeypatch.context() as patched:
        patched.setattr(launches, "_remember", dies_when_the_run_exists)
        run_and_die(config)
    ((run_id, _, _),) = runs_of_e()
    assert "run_id" not in json.loads(Path("results/t/run.json").read_text())
    assert launch(config).run_id == run_id
    assert runs_of_e() == [(run_id, "tiny", "FINISHED")]


def test_what_it_left_is_closed_if_another_configuration_takes_its_folder(
    config: Config, project: Path
) -> None:
    run_and_die(config)
    finished = launch(parse_config(config.to_dict() | {"lr_g": 2e-3}))
    statuses = {run_id: state for run_id, _, state in runs_of_e()}
    assert statuses.pop(finished.run_id) == "FINISHED"
    assert list(statuses.values()) == ["KILLED"]


@pytest.mark.slow
def test_a_training_whose_run_is_gone_from_the_store_gets_a_new_one(
    config: Config, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = launch(config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'other' / 'mlflow.db'}")
    more = launch(parse_config(config.to_dict() | {"steps": 16}))
    assert more.result.step == 16
    assert more.run_id != first.run_id
    assert [state for _, _, state in runs_of_e()] == ["FINISHED"]


def test_litter_of_a_killed_process_is_removed(config: Config, project: Path) -> None:
    folder = Path("results/t")
    folder.mkdir(parents=True)
    (folder / ".checkpoint.pt.99.abcdef01.part").write_bytes(b"half")
    launch(config)
    assert not list(folder.glob(".*.part"))


def test_a_folder_in_use_is_refused_and_named(config: Config, project: Path) -> None:
    with (
        exclusive(Path("results/t/.lock"), "x"),
        pytest.raises(BusyError, match=r"training folder results/t is in use by process \d+"),
    ):
        launch(config)


def test_more_steps_that_raise_a_finished_schedule_are_said(
    config: Config, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = config.to_dict() | {
        "steps": 8,
        "lr_g": 1e-3,
        "lr_schedule": {"kind": "linear"},
        "lambda_schedule": {"groups": ["G_A"]},
    }
    for steps in (8, 16):
        changed = parse_config(linear | {"steps": steps})
        run_training(job(changed), store=Store.open(), console=Console())
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("stretch its schedule") == 1
    assert "steps = 16 instead of 8 stretch its schedule, so after step 8" in said
    assert "lr_g goes from 0.00025 up to 0.001" in said
    assert "lambdas.G_A goes from 0.25 up to 1" in said
    assert "start another run_name with them, and with pretrained = " in said


def test_a_training_that_goes_on_reads_its_checkpoint_once(
    config: Config, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have gigabytes."""

    class Stop(Callback):
        name = "stop"

        def on_step_end(self, trainer: Trainer, metrics: Any) -> None:
            if trainer.step == 6:
                trainer.request_stop("test", outcome="interrupted")

    launch(config, Stop())
    read: list[Path] = []
    load = torch.load

    def counted(file: Any, *arguments: Any, **options: Any) -> Any:
        read.append(file)
        return load(file, *arguments, **options)

    monkeypatch.setattr(torch, "load", counted)
    assert launch(config).result.outcome == "completed"
    assert len(read) == 1
