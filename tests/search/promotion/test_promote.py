"""`cyclegan promote` and its results: training, links, champion, enhancement."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from cyclegan import checkpoints, load_config, parse_config
from cyclegan.errors import ConfigError, DataError, UsageError
from cyclegan.events import TrainResult
from cyclegan.generator import load_generator, save_generators
from cyclegan.model import CycleGAN
from cyclegan.portable import recipe
from search.launch import Job, LaunchResult, run_training
from search.promotion import promote
from search.promotion.lineage import RegistrationResult, register
from search.promotion.promote import promoted_config
from search.study import StudyHandle
from search.study.definition import Promotion
from tracking import Challenge, ModelVersion, Store
from tracking.ui import running_server
from tracking.views import promoted_view
from viz.console import Console
from workbench import cli
from workbench.session import run

QUIET = Console(quiet=True)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process: (exit code, JSON or None, standard error)."""

    def run_it(*arguments: str) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", *arguments, "--json", "--quiet"])
        code = run(cli.app)
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return run_it


def volume(project: Path) -> str:
    with h5py.File(project / "a.h5", "w") as handle:
        handle["data"] = np.random.default_rng(0).normal(size=(16, 20, 24)).astype(np.float32)
    return "a.h5"


@pytest.mark.slow
def test_the_top_trials_become_trainings_and_the_better_one_the_champion(
    written: Callable[..., StudyHandle], store: Store, call: Any, project: Path
) -> None:
    handle = written([1.0, 3.0, 2.0])
    code, data, err = call("promote", "s", "--top", "2")
    assert (code, err) == (0, "")
    assert [p["trial"] for p in data["promoted"]] == [1, 2]
    scores = {p["model"]["version"]: p["best_score"] for p in data["promoted"]}
    assert list(scores) == ["s@1", "s@2"]
    best = max(scores, key=lambda label: scores[label])
    assert data["promoted"][1]["model"]["champion"] == (best == "s@2")
    assert data["screening"]["n"] == 2

    # Links from everywhere to everywhere.
    first = data["promoted"][0]
    trial, promoted = store.find_run(handle.trials()[1].run_id), store.find_run(first["run_id"])
    study = store.find_run(handle.study.user_attrs["mlflow_run_id"])
    assert promoted.tags["promoted_from"] == trial.id
    assert trial.tags["promoted_to"] == promoted.id
    assert promoted.tags["mlflow.parentRunId"] == study.id
    assert (promoted.tags["kind"], promoted.tags["start"]) == ("promoted", "scratch")
    assert float(promoted.tags["best_score"]) == first["best_score"]
    for source, targets in (
        (trial, [promoted.id]),
        (promoted, [trial.id, study.id]),
        (study, [p["run_id"] for p in data["promoted"]]),
    ):
        note = source.tags["mlflow.note.content"]
        for target in targets:
            assert f"(#/experiments/{source.experiment_id}/runs/{target}?" in note
    shown = {r.id for r in store.search("s", promoted_view().filter)}
    assert shown == {p["run_id"] for p in data["promoted"]}

    # The same command again trains nothing and registers nothing.
    code, again, err = call("promote", "s", "--top", "2")
    assert [p["reused"] for p in again["promoted"]] == [True, True]
    assert [v.label for v in store.registry.versions("s")] == ["s@2", "s@1"]
    holder = store.registry.holder("s")
    assert holder is not None
    assert holder.label == best

    # An enhancement with it records its version in the file and in MLflow.
    code, done, err = call(
        "enhance", volume(project), "--model", "champion", "--output", "e.h5", "--no-trust"
    )
    assert (code, err) == (0, "")
    assert done["model_version"] == best
    with h5py.File("e.h5") as handle:
        attributes = dict(handle["data"].attrs)
    assert (attributes["model_version"], attributes["model"]) == (best, holder.run_id)
    tags = store.find_run(done["run_id"]).tags
    assert (tags["model_version"], tags["model_run"]) == (best, holder.run_id)
    assert best in Path("e.html").read_text()
    code, done, _ = call(
        "enhance",
        "a.h5",
        "--model",
        "s@2",
        "--output",
        "f.h5",
        "--no-trust",
        "--other-model",
        "s@1",
    )
    assert code == 2  # --no-trust leaves out the map that needs the other model
    code, _, err = call("enhance", "a.h5", "--model", "s@7", "--output", "f.h5")
    assert (code, "known: s@champion, s@2, s@1" in err) == (1, True)


@pytest.mark.slow
def test_more_steps_go_on_and_make_a_version_of_their_own_only_if_better(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    handle = written([1.0])
    first = promote(handle, store=store, console=QUIET)
    assert first.registered is not None
    more = promote(handle, store=store, console=QUIET, steps=24)
    assert more.finished.run_id == first.finished.run_id
    assert more.finished.result.step == 24
    assert more.registered is not None
    improved = (more.finished.best_score or 0) > (first.finished.best_score or 0)
    assert more.registered.new == improved
    assert len(store.registry.versions("s")) == 1 + improved
    with pytest.raises(
        ConfigError, match=r"began with --from-scratch.*but you asked for --continue"
    ):
        promote(handle, store=store, console=QUIET, start="continue")


def trained(handle: StudyHandle, store: Store) -> None:
    """Trial 0 with a real checkpoint."""
    job = Job(
        config=handle.config_of(0),
        folder=handle.trial_folder(0),
        experiment="s",
        kind="trial",
        tags={},
    )
    run_training(job, store=store, console=QUIET)


def test_a_promotion_that_continues_begins_where_the_trial_ended(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    handle = written([1.0])
    with pytest.raises(DataError, match=r"holds no checkpoint; promote with --from-scratch"):
        promote(handle, store=store, console=QUIET, start="continue")
    trained(handle, store)
    with pytest.raises(UsageError, match=r"--steps 8: trial 0 already has 8"):
        promote(handle, store=store, console=QUIET, start="continue", steps=8)
    done = promote(handle, store=store, console=QUIET, start="continue")
    assert done.finished.result.step == 12
    assert store.find_run(done.finished.run_id).tags["start"] == "continue"
    # The start is recorded, so that nobody has to repeat it and no checkpoint is needed.
    shutil.rmtree(handle.trial_folder(0))
    assert promote(handle, store=store, console=QUIET).start == "continue"


@pytest.mark.slow
def test_a_promotion_that_continues_keeps_the_trial_s_generators_until_it_has_better_ones(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    handle = written([1.0])
    trained(handle, store)
    save = handle.trial_folder(0) / "save"
    state = dict(checkpoints.load(save / "checkpoint.pt", formats=(checkpoints.CHECKPOINT_FORMAT,)))
    state["callbacks"]["KeepBest"] = {"score": 1e6, "step": 4}  # cannot be beaten
    checkpoints.save(state, save / "checkpoint.pt")
    done = promote(handle, store=store, console=QUIET, start="continue").finished
    assert (done.best_score, done.best_step) == (1e6, 4)
    kept = (done.folder / "save" / "generator.pt").read_bytes()
    assert kept == (save / "generator.pt").read_bytes()


def test_the_data_stay_those_of_the_trial(
    written: Callable[..., StudyHandle], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = written([1.0])
    other = Promotion(steps=12, set={"data_A": "other.json"})  # of a version that did not check it
    definition = handle.definition.model_copy(update={"promote": other})
    handle = replace(handle, definition=definition)
    with pytest.raises(ConfigError, match=r"promote.set.data_A = other.json.*leave the key out"):
        promote(handle, store=store, console=QUIET)
    assert not (handle.results / "s-promoted-000").exists()


def test_the_study_s_file_and_the_call_change_what_they_name(
    written: Callable[..., StudyHandle],
) -> None:
    handle = written([1.0], promote={"steps": 12, "set": {"lr_d": 1e-5}})
    config = promoted_config(handle, 0, steps=99, hp_optimizer=True)
    assert (config.lr_d, config.steps, config.hp_optimizer.enabled) == (1e-5, 99, True)
    assert config.lambdas == handle.config_of(0).lambdas
    assert (config.seed, config.data_A) == (handle.config_of(0).seed, handle.config_of(0).data_A)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--trial", "7"], 2, "--trial 7: study s has trials 0 to 1"),
        (["--trial", "1", "--top", "2"], 2, "--trial and --top both choose trials"),
        (["--confirm", "2x2", "--top", "2"], 2, "--top and --confirm both choose trials"),
        (["--confirm", "nine"], 2, "--confirm nine: give TRIALSxSEEDS"),
        (["--confirm", "9x2"], 1, "has 2 complete trials, but you asked for 9"),
        (["--top", "3"], 1, "has 2 complete trials, but you asked for 3"),
        # Before anything is trained, not after the confirmation.
        (["--confirm", "2x2", "--continue"], 1, "holds no checkpoint; promote with --from-scratch"),
    ],
)
def test_mistakes_are_one_line(
    written: Callable[..., StudyHandle], call: Any, arguments: list[str], code: int, words: str
) -> None:
    written([1.0, 2.0])
    got, data, err = call("promote", "s", *arguments)
    assert (got, data, err.count("\n")) == (code, None, 1)
    assert words in err
    assert not Path("results").exists()


def test_a_trial_that_is_not_over_is_not_promoted(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    handle = written([1.0])
    trial = handle.study.ask()
    trial.set_user_attr("config", json.dumps(handle.config_of(0).to_dict()))
    with pytest.raises(DataError, match="trial 1 of study s is interrupted; end it first"):
        promote(handle, store=store, console=QUIET, trial=1)


@pytest.mark.slow
def test_the_winner_of_a_confirmation_is_promoted(
    written: Callable[..., StudyHandle], call: Any
) -> None:
    handle = written([500.0, 400.0])
    code, data, err = call("promote", "s", "--confirm", "2x2")
    assert (code, err) == (0, "")
    confirmation = data["confirmation"]
    assert confirmation["complete"]
    # The scores by which the trials were chosen do not count, those of the further seed do.
    later = {t["trial"]: t["scores"][1]["score"] for t in confirmation["trials"]}
    winner = max(later, key=lambda t: later[t])
    assert data["trial"] == confirmation["trials"][0]["trial"] == winner
    assert 0.0 < confirmation["sureness"] < 1.0
    config = load_config(handle.results / f"s-promoted-00{winner}" / "config.yaml")
    assert (config.seed, config.steps) == (0, 12)


def test_promotions_at_the_same_moment_register_once_and_agree_on_the_champion(
    written: Callable[..., StudyHandle], store: Store, project: Path
) -> None:
    handle = written([1.0])

    def finished(number: int, score: float) -> LaunchResult:
        folder = project / f"p{number}"
        (folder / "save").mkdir(parents=True)
        (folder / "save" / "generator.pt").write_bytes(bytes([number]))
        made = store.create_run("s", f"p{number}", kind="promoted", params={}, tags={})
        result = TrainResult(outcome="completed", reason="", step=9, iteration=9, score=score)
        return LaunchResult(result=result, run_id=made.id, folder=folder, best_score=score)

    trainings = [finished(1, 1.0), finished(2, 3.0), finished(3, 2.0)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda f: register(handle, 0, f, Store.open()), [*trainings, *trainings]))
    assert len(store.registry.versions("s")) == 3
    holder = store.registry.holder("s")
    assert holder is not None
    assert holder.score == 3.0


@pytest.fixture
def finished(store: Store, project: Path, tiny: dict[str, Any]) -> LaunchResult:
    """A training that stored a generator."""
    kept = project / "p" / "save" / "generator.pt"
    save_generators(CycleGAN(parse_config(tiny), torch.device("cpu")), kept, step=7, score=0.5)
    made = store.create_run("s", "p", kind="promoted", params={}, tags={})
    result = TrainResult(outcome="completed", reason="", step=9, iteration=9, score=0.5)
    return LaunchResult(result=result, run_id=made.id, folder=project / "p", best_score=0.5)


def test_a_registered_generator_has_a_copy_for_elsewhere_that_knows_its_origin(
    written: Callable[..., StudyHandle],
    store: Store,
    finished: LaunchResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handle = written([1.0])
    assert register(handle, 0, finished, store) is not None
    version = store.registry.find("s@champion")
    assert version.portable is not None
    run_ = store.run(finished.run_id)
    generator, about = recipe.load(run_.artifact_path(version.portable))
    assert (about["origin"]["study"], about["origin"]["version"]) == ("s", "s@1")
    image = torch.randn(1, 1, 8, 4, 12)
    original = load_generator(finished.folder / "save" / "generator.pt").network
    torch.testing.assert_close(generator(image), original(image))
    description = run_.artifact_path(version.portable.replace("generator.pt2", "MLmodel"))
    assert "[-1, 1, -1, -1, -1]" in description.read_text()
    monkeypatch.delattr(torch.export, "export")  # once is enough
    register(handle, 0, finished, store)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_a_generator_that_can_not_be_exported_is_registered_all_the_same_and_later_again(
    written: Callable[..., StudyHandle],
    store: Store,
    finished: LaunchResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such operator\nand where")

    handle = written([1.0])
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", broken)
        registered = register(handle, 0, finished, store)
    assert registered is not None
    assert registered.challenge.won
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith("s@1 is registered without an exported copy: ")
    assert line.endswith("can't be exported: no such operator")
    assert store.registry.find("s@1").portable is None
    register(handle, 0, finished, store)
    assert store.registry.find("s@1").portable is not None


def test_without_a_usable_validation_nothing_is_registered(
    written: Callable[..., StudyHandle], store: Store
) -> None:
    handle = written([1.0], promote={"steps": 12, "set": {"lr_g": 1e-6}})  # stays flat
    promoted = promote(handle, store=store, console=QUIET)
    assert (promoted.finished.best_score, promoted.registered) == (None, None)
    assert store.registry.versions("s") == []


@pytest.mark.slow
def test_enhancing_with_the_champion_of_a_server(
    store: Store, call: Any, project: Path, tiny: dict[str, Any]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    model = CycleGAN(parse_config(tiny), torch.device("cpu"))
    save_generators(model, project / "generator.pt", step=7, score=0.5)
    with running_server(store, port) as server:
        remote = Store.open(server.address)
        training = remote.create_run("elsewhere", "p", kind="promoted", params={}, tags={})
        version, _ = remote.registry.register(
            "demo", training, project / "generator.pt", score=0.5, tags={}
        )
        assert remote.registry.challenge(version).won
        uri = ("--log-volume", "copy", "--tracking-uri", server.address)
        code, done, err = call(
            "enhance", volume(project), "--model", "champion", "--output", "e.h5", *uri
        )
        assert code == 0, err  # the command warns of an untrained generator
        assert (done["model_version"], done["model_run"]) == ("demo@1", training.id)
        run, tags = remote.run(done["run_id"]), remote.find_run(done["run_id"]).tags
        assert (tags["model_version"], tags["log_volume"]) == ("demo@1", "copied")
        assert tags["model_file"].startswith(f"runs:/{training.id}/registered/")
        assert run.artifact_path("volume/e.h5").read_bytes() == Path("e.h5").read_bytes()


def test_what_is_told_of_a_registration() -> None:
    def version(number: int, score: float | None) -> ModelVersion:
        tags = {} if score is None else {"score": str(score)}
        return ModelVersion(model="m", version=number, run_id="r", source="", tags=tags)

    def text(won: bool, before: ModelVersion | None) -> str:
        challenge = Challenge(won=won, before=before)
        return RegistrationResult(version=version(2, 1.5), new=True, challenge=challenge).text

    assert text(True, None) == "m@2, score 1.50, is champion now"
    assert (
        text(True, version(1, 1.25))
        == "m@2, score 1.50, is champion now, replacing m@1, score 1.25"
    )
    assert text(False, version(1, 2.0)) == "m@2, score 1.50; champion stays m@1, score 2.00"
    assert text(False, version(1, None)) == "m@2, score 1.50; champion stays m@1, chosen by hand"
    assert text(True, version(2, 1.5)) == "m@2, score 1.50, is champion already"
