from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cyclegan.addresses import without_secrets
from cyclegan.errors import BusyError, CycleGANError, DataError, UsageError
from tracking import Store, project_root, views
from tracking.database import locate
from tracking.schema import explained
from tracking.views import CYCLE_PICTURES, trials_view


def python(code: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    variables.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- place of the store -----------------------------------------------------------------------


def test_the_project_is_the_nearest_folder_with_both_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("studies", "mlruns", "inner/studies", "inner/deep"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "inner" / "deep")
    assert project_root() == tmp_path
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path
    monkeypatch.chdir("/")
    assert project_root() == Path("/")


def test_argument_beats_environment_beats_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "mlruns").mkdir()
    monkeypatch.chdir(tmp_path / "studies")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000/")
    assert locate("sqlite:///own.db").uri == f"sqlite:///{tmp_path}/studies/own.db"
    assert locate().uri == "http://server:5000"
    assert locate().artifacts is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert locate().uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert locate().artifacts == (tmp_path / "mlruns" / "artifacts").as_uri()


@pytest.mark.parametrize(
    "uri", ["mlruns", "/data/mlruns", "file:///data", "sqlite://", "ftp://x/y"]
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="tracking URI"):
        locate(uri)


def test_passwords_are_not_shown() -> None:
    shown = without_secrets("postgresql://me:secret@host:5432/runs")
    assert "secret" not in shown
    assert "me" in shown
    assert "host:5432/runs" in shown


def test_a_server_that_is_down_is_told_quickly() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.monotonic()
    for scheme in ("http", "postgresql"):
        with pytest.raises(CycleGANError, match=f"nothing answers on 127.0.0.1:{port}") as caught:
            Store.open(f"{scheme}://me:secret@127.0.0.1:{port}/runs")
        assert "secret" not in str(caught.value)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("content", [b"this is not a database at all, but a long text" * 30, b""])
def test_a_damaged_database_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(CycleGANError, match=r"mlflow\.db: .*database") as caught:
        Store.open(f"sqlite:///{tmp_path}/mlflow.db")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_a_database_of_another_version_is_told_with_the_way_out(database: Path) -> None:
    for version, expected in (
        ("ffffffffffff", r"a newer MLflow than the installed 3\..*pip install --upgrade mlflow"),
        ("0a8213491aaa", rf"an older MLflow .* mlflow db upgrade sqlite:///{database}$"),
    ):
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        before = database.read_bytes()
        with pytest.raises(CycleGANError, match=expected) as caught:
            Store.open(f"sqlite:///{database}")
        assert "\n" not in str(caught.value)
        assert database.read_bytes() == before


def test_what_mlflow_says_of_another_version_is_explained() -> None:
    location = locate("postgresql://me:secret@host/runs")
    error = CycleGANError("x: Detected out-of-date database schema (found version 0a8213491aaa, ")
    text = str(explained(location, error))
    assert text.endswith("mlflow db upgrade 'postgresql://me:***@host/runs'")
    error = CycleGANError("Can't locate revision identified by 'ffffffffffff'")
    assert "a newer MLflow" in str(explained(location, error))
    assert explained(location, same := CycleGANError("something else")) is same


@pytest.mark.parametrize("name", ["what?", "a%20b", "data #2", "100% CT", "50%25", "ü +&"])
def test_any_name_of_a_folder_will_do(
    name: str, tmp_path: Path, fresh_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    for room in ("studies", "mlruns"):
        (folder / room).mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(fresh_database, folder / "mlruns")
    store = Store.open()
    run = store.create_run("study", "r", kind="train", params={}, tags={})
    run.log_text("text", "note.txt")
    run.log_image(np.zeros((4, 4), np.uint8), "Cycle/slices", 0)
    assert Store.open(store.uri).location == store.location
    assert run.artifact_path("note.txt").is_relative_to(folder / "mlruns" / "artifacts")
    assert run.image_steps("Cycle/slices") == {0}
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert sorted(path.name for path in folder.iterdir()) == ["mlruns", "studies"]


def test_a_new_store_is_made_in_a_folder_of_any_name(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/what%3F/a%2520b/mlflow.db")
    store.create()
    location = store.location
    assert location.database == tmp_path / "what?" / "a%20b" / "mlflow.db"
    assert location.database.is_file()


def test_an_embedded_store_is_made_when_something_is_first_written(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert not store.exists
    assert (store.search(), store.experiments("all"), store.run_ids()) == ([], [], set())
    assert (store.tagged("study", "s"), store.registry.versions("s")) == (None, [])
    for unknown in ("x", "0" * 32):
        with pytest.raises(DataError, match=rf"{unknown}.*{tmp_path}/mlruns/mlflow\.db"):
            store.find_run(unknown)
    for model in ("champion", "s@champion", "s@1"):
        with pytest.raises(DataError, match=r"mlflow\.db"):
            store.registry.find(model)
    assert not list(tmp_path.iterdir())
    run = store.create_run("study", "first", kind="trial", params={}, tags={})
    assert store.exists
    assert [found.id for found in store.search("study")] == [run.id]
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()


def test_a_parent_of_another_store_is_left_out(store: Store, client: MlflowClient) -> None:
    run = store.create_run("study", "x", kind="train", params={}, tags={}, parent="0" * 32)
    assert "mlflow.parentRunId" not in client.get_run(run.id).data.tags


def test_a_locked_database_is_not_a_matter_of_permissions(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.database._PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CycleGANError, match="locked; wait for the program") as caught:
            Store.open(f"sqlite:///{database}")
    assert "permission" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:sec/ret@127.0.0.1:1/runs",
        "postgresql://127.0.0.1:1/runs?user=me&password=sec/ret",
        "mysql+pymysql://me:sec/ret@127.0.0.1:1/runs",
        "http://me:sec/ret@127.0.0.1:1",
        "ftp://me:sec/ret@127.0.0.1:1",
        "me:sec/ret@127.0.0.1:1",
        "sqlite:///?password=sec/ret",
    ],
)
def test_no_message_shows_a_password(uri: str) -> None:
    with pytest.raises(CycleGANError) as caught:
        Store.open(uri)
    text = str(caught.value)
    assert not any(part in text for part in ("sec", "ret@")), text
    assert "\n" not in text


@pytest.mark.slow
def test_several_processes_make_one_fresh_store_quietly(tmp_path: Path) -> None:
    root = tmp_path / "a project with spaces"
    (root / "studies").mkdir(parents=True)
    (root / "mlruns").mkdir()
    code = (
        "from tracking import Store\n"
        "store = Store.open()\n"
        "run = store.create_run('study', 'x', kind='trial', params={'a': 1}, tags={})\n"
        "run.log_text('text', 'a.txt')\n"
        "print(run.experiment_id)"
    )
    processes = [python(code, root / "studies") for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1  # the same experiment
    assert {error for _, error in outputs} == {""}
    store = Store.open(f"sqlite:///{root}/mlruns/mlflow.db")
    assert len(store.search("study")) == 3
    assert not list((root / "mlruns").glob("*.part"))
    assert len(list((root / "mlruns" / "artifacts").glob("*/artifacts/a.txt"))) == 3
    assert not (root / "studies" / "mlruns").exists()


def test_importing_is_quick(tmp_path: Path) -> None:
    code = (
        "import sys, tracking; print(sorted({'mlflow', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    out, error = python(code, tmp_path).communicate(timeout=60)
    assert (out.strip(), error) == ("[]", "")


# -- experiments and runs ---------------------------------------------------------------------


def test_an_experiment_is_made_once_and_keeps_its_note(store: Store, client: MlflowClient) -> None:
    first = store.experiment("fibres", "what it is **about**")
    assert store.experiment("fibres") == first
    tags = client.get_experiment(first).tags
    assert tags["mlflow.note.content"] == "what it is **about**"
    client.delete_experiment(first)
    with pytest.raises(CycleGANError, match=r"'fibres' was deleted; .*restore"):
        store.experiment("fibres")


def test_a_trial_is_a_child_with_its_parameters(store: Store, client: MlflowClient) -> None:
    study = store.create_run("fibres", "study", kind="study", params={}, tags={})
    trial = store.create_run(
        "fibres",
        "trial-7",
        kind="trial",
        params={"lr_g": 1e-4},
        tags={"number": "7"},
        parent=study.id,
    )
    found = client.get_run(trial.id)
    assert found.data.params == {"lr_g": "0.0001"}
    assert found.data.tags["mlflow.parentRunId"] == study.id
    assert (found.data.tags["kind"], found.data.tags["number"]) == ("trial", "7")
    assert [run.name for run in store.search("fibres", "tags.kind = 'trial'")] == ["trial-7"]
    assert {run.name for run in store.search()} == {"study", "trial-7"}
    assert store.run_url(trial.id) is None


def test_find_run_prefers_finished_then_newest(store: Store) -> None:
    def made(experiment: str, status: str | None) -> str:
        run = store.create_run(experiment, "fibres-2x", kind="train", params={}, tags={})
        if status:
            run.finish(status)  # type: ignore[arg-type]
        time.sleep(0.002)  # start times are in ms
        return run.id

    ids = [made("a", "FINISHED"), made("a", "FINISHED"), made("a", "FAILED"), made("b", None)]
    assert store.find_run("fibres-2x").id == ids[1]
    assert store.find_run("fibres-2x", "b").id == ids[3]
    info = store.find_run(ids[2])
    assert (info.name, info.status, info.experiment) == ("fibres-2x", "FAILED", "a")


def test_find_run_tells_what_there_is(store: Store, client: MlflowClient) -> None:
    with pytest.raises(DataError, match=r"no run is called 'x' in .*; it has no runs"):
        store.find_run("x")
    for name in ("fibres-1x", "bone", "it's"):
        run = store.create_run("study", name, kind="train", params={}, tags={})
    assert store.find_run("it's").name == "it's"
    with pytest.raises(DataError, match=r"no run is called 'fibre-1x' .*did you mean 'fibres-1x'"):
        store.find_run("fibre-1x")
    with pytest.raises(DataError, match=r"no experiment is called 'stody' .*did you mean 'study'"):
        store.find_run("bone", "stody")
    with pytest.raises(DataError, match=f"no run has the id '{'0' * 32}'"):
        store.find_run("0" * 32)
    for i in range(12):
        run = store.create_run("study", f"many-{i}", kind="train", params={}, tags={})
    with pytest.raises(DataError, match="the newest: many-11, many-10, ") as caught:
        store.find_run("zzz")
    assert "bone" not in str(caught.value)
    client.delete_run(run.id)
    with pytest.raises(DataError, match="was deleted"):
        store.open_run(run.id)


@pytest.mark.parametrize(
    "name", ["it's 5\" wide", "it's", 'a "b"', "c\\", "d\\'", "e' or 'a' = 'a", "ü\n"]
)
def test_any_name_that_people_give_is_found(store: Store, client: MlflowClient, name: str) -> None:
    run = store.create_run("study", "plain", kind="trial", params={}, tags={})
    store.create_run("study", "another", kind="trial", params={}, tags={})
    client.update_run(run.id, name=name)
    assert [found.id for found in store.find_runs(name)] == [run.id]
    run.set_tags({"study": name, "trial": 3})
    assert store.find_run(f"{name}:3").id == run.id
    assert store.tagged("study", name) == run.id
    model = name.replace("/", "").replace(":", "")
    client.create_registered_model(model)
    client.create_model_version(model, client.get_run(run.id).info.artifact_uri, run.id)
    assert [version.run_id for version in store.registry.versions(model)] == [run.id]
    assert set(store.registry.of_runs([run.id])) == {run.id}


def test_a_renamed_experiment_stays_that_of_its_study(store: Store, client: MlflowClient) -> None:
    study = store.create_run("s", "s", kind="study", params={}, tags={"study": "s"})
    client.rename_experiment(study.experiment_id, "T700 search")
    trial = store.create_run("s", "s-1", kind="trial", params={}, tags={}, parent=study.id)
    other = store.create_run("s", "s-2", kind="promoted", params={}, tags={})
    assert {trial.experiment_id, other.experiment_id} == {study.experiment_id}
    assert [experiment.name for experiment in store.experiments()] == ["T700 search"]
    for name in ("s", "T700 search"):
        assert len(store.search(name)) == 3
        assert store.find_experiment(name).id == study.experiment_id


def test_an_experiment_of_an_older_version_is_found_by_its_runs_or_its_name(
    store: Store, client: MlflowClient
) -> None:
    old = client.create_experiment("s", store.location.artifacts)
    study = client.create_run(old, tags={"kind": "study"}).info.run_id
    client.rename_experiment(old, "renamed before")
    trial = store.create_run("s", "s-1", kind="trial", params={}, tags={}, parent=study)
    assert trial.experiment_id == old
    client.rename_experiment(old, "s")
    assert store.experiment("s") == old
    client.rename_experiment(old, "renamed after")
    assert store.experiment("s") == old


def test_a_study_ships_a_view_of_its_trials(store: Store, client: MlflowClient) -> None:
    experiment = store.experiment("study")
    store.ship_view(experiment, trials_view(["lr_g", "lambdas.C_A"], step=100))
    tags = client.get_experiment(experiment).tags
    name, state = views.decode(tags["mlflow.sharedViewState.trials"])
    assert name == "Trials"
    assert state["searchFilter"] == "tags.kind = 'trial'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`score/value`", False)
    assert state["selectedColumns"] == [
        "metrics.`score/value`",
        "metrics.`score`",
        "params.`lr_g`",
        "params.`lambdas.C_A`",
        "tags.`outcome`",
        "metrics.`iteration`",
    ]
    # MLflow 3.17's own interface writes and expects this; a missing key breaks the page.
    assert set(state) == {
        *("searchFilter", "orderByKey", "orderByAsc", "startTime", "lifecycleFilter"),
        *("datasetsFilter", "modelVersionFilter", "selectedColumns", "columnOrder"),
        *("columnWidths", "runsHiddenMode", "viewMaximized", "runListHidden"),
        *("isAccordionReordered", "useGroupedValuesInCharts", "hideEmptyCharts", "groupBy"),
        *("groupsExpanded", "globalLineChartConfig"),
        *("compareRunCharts", "compareRunSections"),
    }
    pictures, *others = state["compareRunCharts"]
    assert (pictures["imageKeys"], pictures["step"]) == ([CYCLE_PICTURES], 100)
    assert [card["type"] for card in others] == ["LINE", "PARALLEL"]
    sections = [section["uuid"] for section in state["compareRunSections"]]
    assert {card["metricSectionId"] for card in state["compareRunCharts"]} == set(sections)
    # The filter uses the store's own syntax: a mistake would leave the table empty, not wrong.
    store.create_run("study", "trial", kind="trial", params={}, tags={})
    store.create_run("study", "parent", kind="study", params={}, tags={})
    assert [run.name for run in store.search("study", state["searchFilter"])] == ["trial"]


def test_a_view_can_sort_upwards() -> None:
    view = views.View(key="fast", name="Fast", columns=[], order_by="metrics.`speed` ASC")
    name, state = views.decode(views.encode(view, now_ms=1))
    assert (name, state["orderByKey"], state["orderByAsc"]) == ("Fast", "metrics.`speed`", True)
    assert "compareRunCharts" not in state  # MLflow's own order of charts


_CLAIM = """
import sys, time
from cyclegan.errors import BusyError
from tracking import Store

store = Store.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    store.open_run(sys.argv[2])
    print("mine", flush=True)
except BusyError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def test_of_several_processes_one_gets_a_run(database: Path, store: Store) -> None:
    run = store.create_run("study", "trial-1", kind="trial", params={}, tags={})
    run.finish("KILLED", "to be continued")
    line = [sys.executable, "-c", _CLAIM, store.uri, run.id]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(line, text=True, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:  # all at once
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in processes]
        winner = said.index("mine")
        refused = (
            f"process {processes[winner].pid} on this host is writing to run trial-1 ({run.id})"
        )
        assert [line.startswith(refused) for line in said] == [
            number != winner for number in range(3)
        ]
        with pytest.raises(BusyError, match="wait for it or stop it first"):
            store.open_run(run.id)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert store.open_run(run.id).id == run.id  # no living process writes to it any more
