"""Storages of studies (journal, SQLite, PostgreSQL): new trials, and the effects of a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from cyclegan.errors import CycleGANError, UsageError
from search.study.storage import JOURNAL, StudyStorage, mend_journal, storage_for


def study_in(storage: StudyStorage) -> optuna.Study:
    with storage.claiming():
        return optuna.create_study(
            study_name="s", storage=storage.open(), direction="maximize", load_if_exists=True
        )


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "journal":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    address: str = request.getfixturevalue("postgresql")
    return address


def take_all(folder: Path, address: str | None, answer: Any) -> None:
    storage = storage_for(folder, address)
    study = study_in(storage)
    taken = []
    while True:
        with storage.claiming():
            if not any(t.state.name == "WAITING" for t in study.get_trials(deepcopy=False)):
                break
            taken.append(study.ask().number)
    answer.put(taken)


@pytest.mark.slow
def test_a_waiting_trial_is_handed_to_one_process_only(tmp_path: Path, address: str | None) -> None:
    folder = tmp_path / "claims"
    study = study_in(storage_for(folder, address))
    first = len(study.trials)
    for value in range(12):
        study.enqueue_trial({"x": value})
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    crew = [context.Process(target=take_all, args=(folder, address, answer)) for _ in range(3)]
    for process in crew:
        process.start()
    taken = [number for _ in crew for number in answer.get(timeout=120)]
    for process in crew:
        process.join()
    assert sorted(taken) == list(range(first, first + 12))


def hold_for_ever(folder: Path, address: str | None, holds: Any) -> None:
    with storage_for(folder, address).claiming():
        holds.set()
        time.sleep(600)


@pytest.mark.slow
def test_a_killed_process_leaves_no_claim_behind(tmp_path: Path, address: str | None) -> None:
    folder = tmp_path / "killed"
    context = multiprocessing.get_context("spawn")
    holds = context.Event()
    process = context.Process(target=hold_for_ever, args=(folder, address, holds))
    process.start()
    assert holds.wait(timeout=60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    began = time.monotonic()
    with storage_for(folder, address).claiming():
        assert time.monotonic() - began < 10  # not the 30 seconds of Optuna's own lock


@pytest.mark.slow
def test_studies_in_one_database_do_not_wait_for_each_other(
    tmp_path: Path, postgresql: str
) -> None:
    one, other = (storage_for(tmp_path / name, postgresql) for name in ("one", "other"))
    again = storage_for(tmp_path / "one", postgresql)
    order: list[str] = []

    def claim() -> None:
        with again.claiming():
            order.append("again")

    thread = threading.Thread(target=claim)
    with one.claiming():
        thread.start()
        with other.claiming():  # would wait for ever
            order.append("other")
        time.sleep(1.0)
        order.append("one")
    thread.join(30.0)
    assert order == ["other", "one", "again"]


@pytest.mark.slow
def test_a_process_keeps_one_connection(tmp_path: Path, postgresql: str) -> None:
    storage = storage_for(tmp_path / "connections", postgresql)
    study = optuna.create_study(study_name="connections", storage=storage.open())
    with storage.claiming():
        study.tell(study.ask(), 1.0)
    pool = storage.open()._backend.engine.pool  # type: ignore[attr-defined]
    assert (pool.checkedin(), pool.checkedout()) == (1, 0)


def test_a_half_written_line_is_cut_off_and_the_study_goes_on(tmp_path: Path) -> None:
    study = study_in(StudyStorage(tmp_path))
    study.tell(study.ask(), 1.0)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    again = study_in(StudyStorage(tmp_path))
    again.tell(again.ask(), 2.0)
    assert [t.value for t in study_in(StudyStorage(tmp_path)).trials] == [1.0, 2.0]
    assert path.read_bytes().startswith(whole)
    assert mend_journal(path) == 0


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    study_in(StudyStorage(tmp_path))
    path = tmp_path / JOURNAL
    path.write_bytes(b"not a journal\n" + path.read_bytes())
    with pytest.raises(CycleGANError, match=r"journal\.log: the study's journal can't be read"):
        StudyStorage(tmp_path).open()


def test_the_storage_is_remembered_without_its_password(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = storage_for(tmp_path, url)
    storage.remember()
    assert storage_for(tmp_path, None) == storage
    with pytest.raises(UsageError, match="the study was started in sqlite"):
        storage_for(tmp_path, "sqlite:///elsewhere.db")
    secret = storage_for(tmp_path / "b", "postgresql://me:secret@127.0.0.1/studies")
    assert "secret" not in secret.shown
    secret.remember()
    stored = (tmp_path / "b" / "storage.json").read_text(encoding="utf-8")
    assert json.loads(stored) == {"url": "postgresql://me@127.0.0.1/studies"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("studies.db", "not an address of a database"),
        ("oracle://host/db", "Optuna supports postgresql, mysql, sqlite"),
        ("sqlite://", "a database in memory can't be shared"),
    ],
)
def test_what_is_no_storage_is_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        storage_for(tmp_path, url)


def test_a_server_that_is_away_is_one_line_without_the_password(tmp_path: Path) -> None:
    storage = storage_for(tmp_path, "postgresql://me:secret@127.0.0.1:1/studies")
    with pytest.raises(
        CycleGANError, match=r"postgresql://me@127\.0\.0\.1:1/studies can't be"
    ) as e:
        storage.open()
    assert "secret" not in str(e.value)


def test_another_storage_than_the_studys_own_is_refused(tmp_path: Path) -> None:
    study_in(StudyStorage(tmp_path))
    with pytest.raises(UsageError, match="leave --storage out"):
        storage_for(tmp_path, f"sqlite:///{tmp_path / 'other.db'}")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (
            "v3.0.0.d",
            "was made by an older Optuna (v3.0.0.d); make a copy of it, then run: optuna ",
        ),
        ("v99.0.0.a", "was made by a newer Optuna (v99.0.0.a) than this one"),
    ],
)
def test_tables_of_another_version_are_one_line_with_the_command(
    tmp_path: Path, version: str, words: str
) -> None:
    address = f"sqlite:///{tmp_path / 'study.db'}"
    storage_for(tmp_path, address).open()
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("update alembic_version set version_num = ?", (version,))
    with pytest.raises(CycleGANError) as caught:
        storage_for(tmp_path, address).open()
    assert f"study storage {address} {words}" in str(caught.value)


@pytest.mark.parametrize("name", ["what?", "a%20b", "data #2", "100% CT", "a?b=c&d", "plain"])
def test_a_folder_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    for place, address in (
        ("a", None),
        ("b", f"sqlite:///{folder / 'absolute.db'}"),
        ("c", "sqlite:///relative.db"),
    ):
        storage = storage_for(folder / place, address)
        study_in(storage).tell(study_in(storage).ask(), 1.0)
        storage.remember()
        assert len(study_in(storage_for(folder / place, None)).trials) == 1
    assert (folder / "absolute.db").is_file()
    assert (folder / "relative.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_record_with_a_password_of_an_earlier_version_still_opens(tmp_path: Path) -> None:
    address = "postgresql://h/db?user=me&password=X"
    path = tmp_path / "storage.json"
    path.write_text(json.dumps({"url": address}))
    for given in (None, address):
        storage = storage_for(tmp_path, given)
        assert storage.secret is not None
        assert "password=X" in storage.secret
        storage.remember()
        assert path.stat().st_mode & 0o777 == 0o600
