"""An embedded store whose folder was moved or copied finds and writes everything in its own."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cyclegan.errors import CycleGANError
from tracking import Run, Store
from tracking.outbox.delivery import deliver_waiting
from tracking.outbox.outbox import Outbox
from tracking.outbox.records import Text
from workbench.doctor import examine_and_repair


@pytest.fixture
def old(fresh_database: Path, tmp_path: Path) -> Path:
    """The folder `old` with a store in `mlruns`."""
    (tmp_path / "old" / "mlruns").mkdir(parents=True)
    shutil.copy(fresh_database, tmp_path / "old" / "mlruns")
    with sqlite3.connect(tmp_path / "old" / "mlruns" / "mlflow.db") as connection:
        own = (tmp_path / "old" / "mlruns" / "artifacts" / "0").as_uri()
        connection.execute("UPDATE experiments SET artifact_location = ?", (own,))
    return tmp_path / "old"


def opened(project: Path) -> Store:
    return Store.open(f"sqlite:///{project}/mlruns/mlflow.db")


def with_run(project: Path, name: str = "first", *, status: str = "FINISHED") -> Run:
    store = opened(project)
    run = store.create_run("study", name, kind="train", params={}, tags={})
    folder = store.artifacts(store.find_run(run.id)).folder
    assert folder is not None
    folder.mkdir(parents=True)  # MLflow's client would remember the folder of this run
    (folder / "note.txt").write_text(f"text of {name}")
    if status == "FINISHED":
        run.finish("FINISHED")
    return run


def addresses(project: Path) -> set[str]:
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as connection:
        queries = (
            "SELECT artifact_location FROM experiments",
            "SELECT artifact_uri FROM runs",
            "SELECT source FROM model_versions",
            "SELECT storage_location FROM model_versions",
        )
        return {row[0] for query in queries for row in connection.execute(query)}


def test_a_moved_project_finds_all_and_writes_nothing_to_the_old_place(
    old: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = with_run(old)
    source = f"{(old / 'mlruns' / 'artifacts').as_uri()}/{run.id}/artifacts/registered"
    client = opened(old).client
    client.create_registered_model("study")
    client.create_model_version("study", source, run.id)
    new = old.rename(tmp_path / "new")
    with caplog.at_level(logging.WARNING):
        store = opened(new)
    assert [r.getMessage() for r in caplog.records] == [
        f"{new}/mlruns/mlflow.db: the project was moved; the files of 1 run in "
        f"{old}/mlruns/artifacts are found in {new}/mlruns/artifacts now"
    ]
    moved = store.run(run.id)
    assert moved.artifact_path("note.txt").read_text() == "text of first"
    assert moved.artifact_path("note.txt").is_relative_to(new)
    second = opened(new).create_run("study", "second", kind="train", params={}, tags={})
    second.log_text("text", "note.txt")
    assert second.artifact_path("note.txt").is_relative_to(new)
    assert not old.exists()
    assert all(address.startswith((new / "mlruns").as_uri()) for address in addresses(new) - {None})
    before = sqlite3.connect(new / "mlruns" / "mlflow.db.before-move")
    assert before.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    before.close()
    caplog.clear()
    opened(new)
    assert not caplog.records


def test_a_copy_leaves_the_original_alone(old: Path, tmp_path: Path) -> None:
    run = with_run(old, status="RUNNING")  # by this living process, in the original
    new = Path(shutil.copytree(old, tmp_path / "new"))
    database = old / "mlruns" / "mlflow.db"
    before = database.read_bytes()
    opened(new).run(run.id).log_text("another text", "note.txt")
    assert database.read_bytes() == before
    assert opened(old).run(run.id).artifact_path("note.txt").read_text() == "text of first"
    assert opened(new).run(run.id).artifact_path("note.txt").read_text() == "another text"


def test_what_waited_before_the_move_is_delivered(old: Path, tmp_path: Path) -> None:
    run = with_run(old)
    outbox = Outbox.of(run)
    outbox.append(Text("late", "late.txt"))
    outbox.close()
    new = old.rename(tmp_path / "new")
    store = opened(new)
    assert [each.left for each in deliver_waiting(store)] == [0]
    assert store.run(run.id).artifact_path("late.txt").read_text() == "late"
    assert not old.exists()


def test_a_move_under_a_living_training_waits_for_its_end(
    old: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_run(old, status="RUNNING")
    new = old.rename(tmp_path / "new")
    monkeypatch.chdir(new)
    before = addresses(new)
    store = opened(new)
    assert addresses(new) == before
    expected = f"run first ({run.id}) may still write there: stop it, then run again"
    assert expected in caplog.text
    output = examine_and_repair(store, dry_run=True)
    assert (output.exit_code, expected in output.text) == (1, True)
    store.run(run.id).finish("FINISHED")
    opened(new)
    assert addresses(new) != before


def test_files_that_did_not_come_along_are_told(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_run(old)
    new = old.rename(tmp_path / "new")
    (new / "mlruns" / "artifacts").rename(tmp_path / "forgotten")
    monkeypatch.chdir(new)
    before = addresses(new)
    output = examine_and_repair(opened(new))
    assert addresses(new) == before
    assert output.exit_code == 1
    assert f"{old}/mlruns/artifacts, which is gone" in output.text
    assert f"copy that folder to {new}/mlruns/artifacts" in output.text
    (tmp_path / "forgotten").rename(new / "mlruns" / "artifacts")
    assert examine_and_repair(opened(new)).exit_code == 0


def test_a_folder_that_somebody_chose_stays(old: Path, tmp_path: Path) -> None:
    store = opened(old)
    chosen = tmp_path / "large disk" / "artifacts"
    store.client.create_experiment("study", chosen.as_uri())
    run = with_run(old)
    before = addresses(old)
    assert opened(old).run(run.id).artifact_path("note.txt").is_relative_to(chosen)
    assert addresses(old) == before


def test_a_link_to_the_project_is_no_move(old: Path, tmp_path: Path) -> None:
    with_run(old)
    before = addresses(old)
    (tmp_path / "link").symlink_to(old)
    opened(tmp_path / "link")
    assert addresses(old) == before


def test_a_database_that_cannot_be_changed_is_told_in_one_line(old: Path, tmp_path: Path) -> None:
    with_run(old)
    new = old.rename(tmp_path / "new")
    (new / "mlruns" / "mlflow.db.before-move").mkdir()
    with pytest.raises(CycleGANError, match=r"before-move") as caught:
        opened(new)
    assert "\n" not in str(caught.value)
    (new / "mlruns" / "mlflow.db.before-move").rmdir()
    opened(new)


@pytest.mark.slow
def test_a_database_on_a_server_takes_moved_files_over_when_asked(
    postgresql: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(psycopg.connect(postgresql, autocommit=True)) as connection:
        connection.execute("CREATE DATABASE moved")
    address = postgresql.rpartition("/")[0] + "/moved"
    runs = {}
    for name in ("old", "elsewhere"):
        for folder in ("studies", "mlruns"):
            (tmp_path / name / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        runs[name] = Store.open(address).create_run(name, name, kind="train", params={}, tags={})
        runs[name].log_text(f"text of {name}", "note.txt")
        runs[name].finish("FINISHED")
    shutil.rmtree(tmp_path / "elsewhere")  # as of another machine: its files are not here
    new = (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(new)
    before = names_in(address)
    store = Store.open(address)
    said = f"the files of 1 run in {tmp_path}/old/mlruns/artifacts, but they lie in {new}/mlruns"
    assert said in caplog.text and "run cyclegan doctor --adopt" in caplog.text
    for options in ({}, {"dry_run": True, "adopt": True}):
        output = examine_and_repair(store, **options)
        assert said in output.text and names_in(address) == before
    assert examine_and_repair(store, adopt=True).exit_code == 0
    changed = {key for key, value in names_in(address).items() if value != before[key]}
    assert changed == {runs["old"].id, "old"}
    caplog.clear()
    store = Store.open(address)
    assert store.run(runs["old"].id).artifact_path("note.txt").read_text() == "text of old"
    store.create_run("old", "next", kind="train", params={}, tags={}).log_text("next", "note.txt")
    assert not (tmp_path / "old").exists() and "looks for" not in caplog.text


def names_in(address: str) -> dict[str, str]:
    """Return the addresses of files in a PostgreSQL database, by run and by experiment."""
    with closing(psycopg.connect(address)) as connection:
        runs = connection.execute("SELECT run_uuid, artifact_uri FROM runs").fetchall()
        query = "SELECT name, artifact_location FROM experiments"
        return dict(runs + connection.execute(query).fetchall())
