"""Several hosts that start at once share one new database, of MLflow or of studies."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from search.study.storage import storage_for
from tracking import Store

Open = Callable[[str, Path], object]


@pytest.fixture
def empty(postgresql: str) -> str:
    """The address of a new, empty database."""
    name = f"first_use_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgresql.rpartition('/')[0]}/{name}"


def open_store(address: str, folder: Path) -> None:
    Store.open(address)


def open_storage(address: str, folder: Path) -> None:
    storage_for(folder, address).open()


def one_host(use: Open, address: str, folder: Path, start: Any, answer: Any) -> None:
    start.wait()
    try:
        use(address, folder)
        answer.put("")
    except Exception as error:  # noqa: BLE001
        answer.put(str(error))


@pytest.mark.slow
def test_a_process_keeps_one_connection_to_a_database_of_runs(empty: str) -> None:
    """A server has about a hundred for all workers."""
    store = Store.open(empty)
    run = store.create_run("experiment", "run", kind="train", params={}, tags={})
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda step: run.log_metrics({"a": 1.0}, step, 0), range(64)))
    name = empty.rpartition("/")[2]
    with psycopg.connect(empty) as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state = 'idle'"
        row = connection.execute(asked, (name,)).fetchone()
    assert row == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("use", [open_store, open_storage])
def test_a_new_database_may_be_used_by_several_hosts_at_once(
    use: Open, empty: str, tmp_path: Path
) -> None:
    """They have no folder in common, so no lock file can help."""
    context = multiprocessing.get_context("spawn")
    start, answer = context.Barrier(3), context.Queue()
    hosts = [
        context.Process(target=one_host, args=(use, empty, tmp_path / str(n), start, answer))
        for n in range(3)
    ]
    for host in hosts:
        host.start()
    said = [answer.get(timeout=120) for _ in hosts]
    for host in hosts:
        host.join()
    assert said == ["", "", ""]
