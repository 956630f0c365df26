"""Permanent deletion in real stores: what goes, what stays, and interruptions."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cyclegan.errors import CycleGANError
from tracking import Run, Store
from tracking.artifacts import local_folder, orphans, remove_orphan, walk
from tracking.database import Location
from tracking.deletion import FREED, Remover, carry_out, survey
from tracking.process import PROCESS
from tracking.retention import Rules, plan
from tracking.ui import running_server

FAILED = Rules(failed_days=0)
_TABLES = ("runs", "metrics", "latest_metrics", "params", "tags")


def made(store: Store, name: str, kind: str = "train", status: Any = "FAILED", **given: Any) -> Run:
    """A run with a text, a large file in a folder, metrics and parameters."""
    run = store.create_run(
        "demo", name, kind=kind, params={"a": 1}, tags=given.pop("tags", {}), **given
    )
    run.log_text("a: 1", "config.yaml")
    run.log_text("x" * 1000, "volumes/cycle.h5")
    run.log_metrics({"score": 1.0})
    if status:
        run.finish(status)
    return run


def folder(store: Store, run: Run) -> Path:
    found = store.artifacts(next(r for r in store.search(stage="all") if r.id == run.id)).folder
    assert found is not None
    return found


def rows(database: Path, run_id: str) -> int:
    """Return the rows in all tables of the database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return sum(
            connection.execute(
                f"SELECT count(*) FROM {t} WHERE run_uuid = ?",  # noqa: S608
                (run_id,),
            ).fetchone()[0]
            for t in _TABLES
        )


def collect(store: Store, rules: Rules) -> dict[str, int]:
    """Return the bytes freed by name of the run, without the runs that were left."""
    done = list(carry_out(store, plan(survey(store), rules), rules))
    assert not [one.error for one in done if one.error]
    return {one.run.name: one.bytes for one in done if not one.kept}


def test_files_and_rows_are_gone_and_nothing_else(store: Store, database: Path) -> None:
    gone, stays = made(store, "gone"), made(store, "stays", status="FINISHED")
    before, place = rows(database, stays.id), folder(store, gone)
    assert rows(database, gone.id) > 5
    assert collect(store, FAILED) == {"gone": 1004}
    assert rows(database, gone.id) == 0
    assert not place.parent.exists()
    assert rows(database, stays.id) == before
    assert {file.path for file in walk(folder(store, stays))} == {"config.yaml", "volumes/cycle.h5"}
    assert collect(store, FAILED) == {}


def test_what_was_deleted_in_the_interface_is_freed(
    store: Store, database: Path, client: MlflowClient
) -> None:
    runs = [made(store, name, status="FINISHED") for name in ("deleted", "stays", "of a study")]
    client.delete_run(runs[0].id)
    other = store.create_run("other", "whole", kind="train", params={}, tags={})
    other.finish("FINISHED")
    client.delete_experiment(other.experiment_id)  # with all its content
    assert set(collect(store, Rules(deleted=True))) == {"deleted", "whole"}
    assert [rows(database, run.id) > 0 for run in (*runs, other)] == [False, True, True, False]
    assert {run.name for run in store.search(stage="all")} == {"stays", "of a study"}


def test_only_the_large_files_go_and_the_run_can_still_be_compared(store: Store) -> None:
    run = made(store, "r")
    rules = Rules(failed_days=0, artifacts_only=True)
    assert collect(store, rules) == {"r": 1000}
    found = store.find_run("r")
    assert (found.metrics["score"], found.params["a"]) == (1.0, "1")
    assert FREED in found.tags
    assert [file.path for file in walk(folder(store, run))] == ["config.yaml"]
    assert not (folder(store, run) / "volumes").exists()


def test_a_link_in_a_folder_goes_but_not_what_it_leads_to(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "beamtime"
    precious.mkdir()
    (precious / "scan.h5").write_bytes(b"x" * 5000)
    run = made(store, "r")
    place = folder(store, run)
    (place / "out").symlink_to(precious)
    (place / "volumes" / "scan.h5").symlink_to(precious / "scan.h5")
    files = store.artifacts(store.find_run("r")).files() or []
    assert sum(file.bytes for file in files) < 1500  # the measurement does not follow links
    collect(store, Rules(failed_days=0, artifacts_only=True))
    assert not (place / "out").is_symlink()
    (place / "out").symlink_to(precious)
    assert "r" in collect(store, FAILED)
    assert not place.exists()
    assert (precious / "scan.h5").stat().st_size == 5000


@pytest.mark.parametrize("what", ["artifacts", "run folder"])
def test_a_folder_that_is_a_link_is_left_with_its_run(
    store: Store, tmp_path: Path, what: str
) -> None:
    run = made(store, "r")
    place = folder(store, run) if what == "artifacts" else folder(store, run).parent
    elsewhere = tmp_path / run.id
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    found = plan(survey(store), FAILED)
    assert not found.free
    assert "behind a link" in found.kept[0][1]
    assert list(elsewhere.rglob("cycle.h5"))


@pytest.mark.parametrize(
    "address", ["{tmp}/precious", "{tmp}/{id}/artifacts", "{root}", "{root}/.."]
)
def test_an_address_that_leads_elsewhere_is_not_followed(
    store: Store, database: Path, tmp_path: Path, address: str
) -> None:
    run = made(store, "r")
    root = database.parent / "artifacts"
    uri = address.format(tmp=tmp_path, id=run.id, root=root)
    Path(uri).mkdir(parents=True, exist_ok=True)
    (Path(uri) / "scan.h5").write_bytes(b"x")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (f"file://{uri}",))
        connection.commit()
    found = plan(survey(store), FAILED)
    assert not found.free
    assert "its files lie in" in found.kept[0][1]
    with pytest.raises(CycleGANError, match="its files lie in"):
        store.artifacts(store.find_run("r")).remove()
    assert (Path(uri) / "scan.h5").exists()


def test_an_artifact_folder_on_another_disk_is_the_stores_own(
    store: Store, database: Path, tmp_path: Path
) -> None:
    """People move `artifacts` elsewhere and leave a link in its place."""
    made(store, "r")
    disk = tmp_path / "disk"
    (database.parent / "artifacts").rename(disk)
    (database.parent / "artifacts").symlink_to(disk)
    assert collect(store, FAILED) == {"r": 1004}
    assert list(disk.iterdir()) == []


def test_a_run_whose_files_are_gone_already_can_go(store: Store, database: Path) -> None:
    run = store.create_run("demo", "empty", kind="train", params={}, tags={})
    run.finish("FAILED")
    assert collect(store, FAILED) == {"empty": 0}
    assert rows(database, run.id) == 0


@pytest.mark.parametrize("stop", ["hidden", "half its files", "all its files"])
def test_what_a_kill_left_is_finished_by_the_next_call(
    store: Store, database: Path, stop: str
) -> None:
    run = made(store, "r")
    place = folder(store, run)
    Remover.of(store).hide(run.id)
    if stop != "hidden":
        (place / "volumes" / "cycle.h5").unlink()
    if stop == "all its files":
        store.artifacts(survey(store).by_id[run.id]).remove()
    assert set(collect(store, FAILED)) == {"r"}  # by the same rule as before
    assert rows(database, run.id) == 0
    assert not place.parent.exists()


class _Stop(BaseException):
    """Ctrl-C at a place of the test's choice."""


@pytest.mark.parametrize("place", ["hide", "free_rows", "shutil.rmtree"])
def test_interrupted_at_any_step_nothing_is_lost_from_sight(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    runs = [made(store, f"r{i}") for i in range(3)]
    name = place if "." in place else f"tracking.deletion.Remover.{place}"
    calls = []

    def stop_at_the_second(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise _Stop
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        import shutil

        from tracking.deletion import Remover

        original = shutil.rmtree if "." in place else getattr(Remover, place)
        patch.setattr(name, stop_at_the_second)
        with pytest.raises(_Stop):
            collect(store, FAILED)
    known = {run.id for run in store.search(stage="all")}
    files = {path.name for path in (database.parent / "artifacts").iterdir()}
    assert files <= known  # no file without a run
    assert len(known) == 2
    collect(store, FAILED)
    assert [rows(database, run.id) for run in runs] == [0, 0, 0]
    assert not list((database.parent / "artifacts").iterdir())


_GC = """
import sys, time
from tracking import Store
from tracking.deletion import carry_out, survey
from tracking.retention import Rules, plan
rules = Rules(failed_days=0)
store = Store.open(sys.argv[1])
found = plan(survey(store), rules)
print("ready", flush=True)
sys.stdin.readline()
print(sum(not one.kept for one in carry_out(store, found, rules)), flush=True)
"""


@pytest.mark.slow
def test_two_at_once_delete_everything_once_and_do_not_fail(store: Store, database: Path) -> None:
    runs = [made(store, f"r{i}") for i in range(12)]
    line = [sys.executable, "-c", _GC, store.uri]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **options) as one, subprocess.Popen(line, **options) as two:
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"  # both have the same plan
        for process in (one, two):
            process.stdin.write("\n")
            process.stdin.flush()
        counts = [int(process.stdout.read()) for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0)
    assert sum(counts) >= 12  # both may have worked on the same run
    assert sum(rows(database, run.id) for run in runs) == 0
    assert not list((database.parent / "artifacts").iterdir())


@pytest.mark.slow
def test_killed_in_the_middle_the_next_call_finishes(store: Store, database: Path) -> None:
    runs = [made(store, f"r{i}") for i in range(30)]
    line = [sys.executable, "-c", _GC, store.uri]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        while len(store.search()) > 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    left = sum(rows(database, run.id) > 0 for run in runs)
    assert 0 < left < 30
    files = {path.name for path in (database.parent / "artifacts").iterdir()}
    assert files <= {run.id for run in store.search(stage="all")}
    collect(store, FAILED)
    assert sum(rows(database, run.id) for run in runs) == 0
    assert not list((database.parent / "artifacts").iterdir())


@pytest.mark.slow
def test_a_locked_database_is_told_and_no_file_is_touched(store: Store, database: Path) -> None:
    run = made(store, "r")
    found = plan(survey(store), FAILED)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # like a training that writes
        with pytest.raises(CycleGANError, match="database is locked") as caught:
            list(carry_out(store, found, FAILED))
        connection.rollback()
    assert "\n" not in str(caught.value)
    assert (folder(store, run) / "volumes" / "cycle.h5").exists()
    assert store.find_run("r").status == "FAILED"
    assert set(collect(store, FAILED)) == {"r"}


def test_what_changed_since_the_question_was_asked_counts(store: Store) -> None:
    runs = {name: made(store, name) for name in ("resumed", "promoted", "registered", "other")}
    agreed = plan(survey(store), FAILED)
    assert len(agreed.free) == 4
    store.open_run(runs["resumed"].id)  # RUNNING, in this process
    made(store, "p", "promoted", tags={"promoted_from": runs["promoted"].id})
    store.registry.register(
        "demo", runs["registered"], folder(store, runs["other"]) / "config.yaml", score=1.0, tags={}
    )
    done = {one.run.name: one for one in carry_out(store, agreed, FAILED)}
    assert {name for name, one in done.items() if not one.kept} == {"other"}
    assert {run.name for run in store.search()} == {"resumed", "promoted", "registered", "p"}


def test_a_training_that_resumes_while_others_are_deleted_is_spared(store: Store) -> None:
    """Between two surveys of the whole store, every run is checked once more."""
    runs = [made(store, f"r{i}") for i in range(3)]
    agreed = plan(survey(store), FAILED)
    spared = agreed.free[-1][0]
    steps = carry_out(store, agreed, FAILED, clock=lambda: 0.0)
    next(steps)
    store.open_run(spared.id)
    rest = list(steps)
    assert rest[-1].kept == "it is running"
    assert {run.id for run in store.search()} == {spared.id} < {run.id for run in runs}


def test_nobody_can_continue_a_run_that_is_being_deleted(store: Store) -> None:
    run = made(store, "r")
    Remover.of(store).hide(run.id)
    with pytest.raises(CycleGANError, match="was deleted"):
        store.open_run(run.id)


def test_files_that_cannot_be_removed_are_told_and_the_others_go(
    store: Store, monkeypatch: pytest.MonkeyPatch, database: Path
) -> None:
    runs = [made(store, f"r{i}") for i in range(2)]
    original, first = os.unlink, runs[0].id

    def refuse(path: Any, *arguments: Any, **options: Any) -> None:
        where = (
            str(Path(f"/proc/self/fd/{options['dir_fd']}").readlink())
            if "dir_fd" in options
            else ""
        )
        if first in where:
            raise PermissionError(13, "Permission denied", str(path))
        original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        done = list(carry_out(store, plan(survey(store), FAILED), FAILED))
    assert [bool(one.error) for one in done] == [one.run.id == first for one in done]
    assert "Permission denied" in next(one.error for one in done if one.error)
    assert [rows(database, run.id) > 0 for run in runs] == [True, False]
    assert set(collect(store, FAILED)) == {"r0"}


def test_orphans_are_folders_of_no_run_and_nothing_else(
    store: Store, database: Path, client: MlflowClient, tmp_path: Path
) -> None:
    root = database.parent / "artifacts"
    deleted, living = made(store, "deleted"), made(store, "living")
    foreign = client.create_run("0").info.run_id
    client.delete_run(deleted.id)
    for name in ("a" * 32, "7/" + "b" * 32, foreign):
        (root / name / "artifacts").mkdir(parents=True)
        (root / name / "artifacts" / "f").write_bytes(b"123")
    for name in ("mine", "a" * 31, "models"):
        (root / name).mkdir()
    (root / ("c" * 32)).symlink_to(tmp_path)
    found = orphans(root, lambda: list(store.run_ids()))
    assert found == [(root / ("a" * 32), 3), (root / "7" / ("b" * 32), 3)]
    remove_orphan(root, found[0][0])
    assert not found[0][0].exists()
    with pytest.raises(CycleGANError, match="outside"):
        remove_orphan(root, root / ("c" * 32))
    with pytest.raises(CycleGANError, match="outside"):
        remove_orphan(root, tmp_path)
    assert folder(store, living).is_dir()


def test_what_a_server_took_in_is_found_below_the_embedded_store(tmp_path: Path) -> None:
    own = Location("sqlite:///x.db", tmp_path.as_uri(), tmp_path / "x.db")
    served = Location("http://127.0.0.1:5000", None, None)
    uri = "mlflow-artifacts:/1/abc/artifacts"
    assert local_folder(own, uri) == tmp_path / "1" / "abc" / "artifacts"
    assert local_folder(served, uri) is None
    assert local_folder(served, "s3://bucket/abc/artifacts") is None
    assert local_folder(served, "file:///a%20b/c") == Path("/a b/c")
    assert local_folder(served, "file://host/a") is None


@pytest.mark.slow
def test_through_a_server_the_files_go_and_the_server_keeps_the_rows(
    store: Store, database: Path, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    local = made(store, "local")  # its files are on this disk, and the server says where
    with running_server(store, port) as server:
        remote = Store.open(server.address)
        runs = [
            remote.create_run("far", name, kind="train", params={}, tags={PROCESS: ""})
            for name in ("gone", "stays", "thin")
        ]
        for run, status in zip(runs, ("FAILED", "FINISHED", "FINISHED"), strict=True):
            run.log_text("x" * 500, "volumes/a/b.h5")
            run.log_text("x" * 20, "config.yaml")
            run.finish(status)
        files = remote.artifacts(remote.find_run("gone")).files() or []
        assert [(f.path, f.bytes) for f in files] == [("config.yaml", 20), ("volumes/a/b.h5", 500)]
        assert remote.artifacts(remote.find_run("gone")).files(requests=2) is None
        thin = Rules(named=frozenset({runs[2].id}), artifacts_only=True)
        assert collect(remote, thin) == {"thin": 500}
        assert collect(remote, FAILED) == {"gone": 520, "local": 1004}
        assert {run.name for run in remote.search()} == {"stays", "thin"}
    left = {path.relative_to(database.parent).parts[-1] for path in walked(database.parent)}
    assert left == {"config.yaml", "b.h5"}
    assert not [path for path in walked(database.parent) if runs[0].id in str(path)]
    assert rows(database, runs[0].id) > 0
    # On the server's machine the rest goes, too.
    assert set(collect(store, Rules(deleted=True))) == {"gone", "local"}
    assert rows(database, runs[0].id) + rows(database, local.id) == 0
    assert set(collect(store, Rules(named=frozenset({runs[1].id})))) == {"stays"}
    assert not [path for path in walked(database.parent) if runs[1].id in str(path)]


def walked(parent: Path) -> list[Path]:
    return [path for path in (parent / "artifacts").rglob("*") if path.is_file()]
