"""A database of studies behind a proxy: the same trials, and the database's own lock."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from cyclegan.errors import CycleGANError, UsageError
from search.study.proxy import Claims, serving
from search.study.storage import StudyStorage, storage_for


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def place(tmp_path: Path) -> StudyStorage:
    (tmp_path / "s").mkdir()
    return storage_for(tmp_path / "s", f"sqlite:///{tmp_path}/studies.db")


@pytest.fixture
def address(place: StudyStorage) -> Iterator[str]:
    port = free_port()
    with serving(place, "127.0.0.1", port):
        yield f"grpc://127.0.0.1:{port}"


def behind(address: str, folder: Path) -> StudyStorage:
    return storage_for(folder, address)


def test_workers_see_and_change_the_trials_of_the_database(
    place: StudyStorage, address: str, tmp_path: Path
) -> None:
    worker = behind(address, tmp_path / "w" / "s")
    study = optuna.create_study(storage=worker.open(), study_name="s", direction="maximize")
    trial = study.ask()
    trial.suggest_float("lr_g", 1e-4, 1e-2, log=True)
    trial.report(0.5, 100)
    trial.set_user_attr("config", "{}")
    (found,) = optuna.load_study(study_name="s", storage=place.open()).trials
    assert found.params == trial.params and found.intermediate_values == {100: 0.5}
    assert found.user_attrs == {"config": "{}"}


def test_a_lock_excludes_workers_with_and_without_the_proxy(
    place: StudyStorage, address: str, tmp_path: Path
) -> None:
    worker = behind(address, tmp_path / "w" / "s")
    place.open(), worker.open()
    context = multiprocessing.get_context("spawn")
    order: Any = context.Queue()
    begin = context.Event()
    process = context.Process(target=claim_directly, args=(place.url, place.folder, begin, order))
    process.start()
    assert order.get(timeout=60) == "open"
    with worker.claiming():
        begin.set()
        time.sleep(0.5)
        assert order.empty()
    assert order.get(timeout=60) == "has it"
    process.join()


def claim_directly(url: Any, folder: Path, begin: Any, order: Any) -> None:
    storage = StudyStorage(folder, url)
    storage.open()
    order.put("open")
    begin.wait()
    with storage.claiming():
        order.put("has it")


def claims(clock: Any) -> tuple[Claims, list[str]]:
    log: list[str] = []

    @contextmanager
    def hold(study: str) -> Iterator[None]:
        log.append(f"lock {study}")
        yield
        log.append(f"unlock {study}")

    return Claims(hold, clock), log


def test_only_one_owner_has_the_lock_of_a_study() -> None:
    given, log = claims(lambda: 0.0)
    one, other = {"study": "s", "owner": "1"}, {"study": "s", "owner": "2"}
    assert given.take(one)["granted"] and not given.take(other)["granted"]
    assert given.take({"study": "t", "owner": "2"})["granted"]
    assert not given.give(other)["held"]
    assert given.give(one)["held"] and given.take(other)["granted"]
    assert log == ["lock s", "lock t", "unlock s", "lock s"]


def test_a_worker_that_dies_with_the_lock_loses_it_and_one_that_renews_does_not() -> None:
    now = 0.0
    given, log = claims(lambda: now)
    one, other = {"study": "s", "owner": "1"}, {"study": "s", "owner": "2"}
    given.take(one)
    for now in (15.0, 30.0, 45.0, 60.0, 75.0):  # noqa: B007  (the clock reads it)
        assert given.take(one)["granted"] and not given.take(other)["granted"]
    now = 140.0
    assert given.take(other)["granted"]
    assert not given.give(one)["held"] and not given.take(one)["granted"]
    assert given.give(other)["held"]
    assert log == ["lock s", "unlock s"]  # the database's lock stayed with the server


def test_a_lock_that_cant_be_had_is_no_lock() -> None:
    def fails(study: str) -> ExitStack:
        raise optuna.exceptions.StorageInternalError("away")

    given = Claims(fails)
    for _ in range(2):
        with pytest.raises(optuna.exceptions.StorageInternalError):
            given.take({"study": "s", "owner": "1"})


def test_an_address_without_a_server_and_a_port_that_is_taken_are_one_line(
    place: StudyStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.proxy._PATIENCE", 0.2)
    port = free_port()
    with pytest.raises(CycleGANError, match="does cyclegan study serve run there") as caught:
        behind(f"grpc://127.0.0.1:{port}", tmp_path / "s").open()
    assert "\n" not in str(caught.value) and f"grpc://127.0.0.1:{port}" in str(caught.value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with (
            pytest.raises(CycleGANError, match=f"--port {port}"),
            serving(place, "127.0.0.1", port),
        ):
            pass
    for wrong in ("grpc://host", "grpc://:13000", "grpc://host:13000/name"):
        with pytest.raises(UsageError, match="grpc://HOST:PORT"):
            behind(wrong, tmp_path / "s")


def test_a_server_that_goes_away_is_an_error_of_the_storage(
    place: StudyStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.study.proxy._PATIENCE", 2.0)
    port = free_port()
    worker = behind(f"grpc://127.0.0.1:{port}", tmp_path / "w" / "s")
    with serving(place, "127.0.0.1", port):
        study = optuna.create_study(storage=worker.open(), study_name="s")
    with pytest.raises(CycleGANError, match="can't be used"), worker.explaining():
        study.ask()
    with (
        pytest.raises(CycleGANError, match="can't be used"),
        worker.explaining(),
        worker.claiming(),
    ):
        pass
