"""A real MLflow server that stops, hangs or fails during a training."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torch import Tensor

from cyclegan.callbacks import Callback
from cyclegan.config import Config
from cyclegan.trainer import Trainer
from tracking import Run, Store, TrackingCallback
from tracking.outbox.delivery import deliver_waiting
from tracking.ui import Server, running_server
from tracking.views import CYCLE_PICTURES

Make = Callable[..., Config]
pytestmark = pytest.mark.slow

STEPS = 150
PACE = 0.05
"""Least seconds of a step."""


class Outage(Callback):
    """Steps at a known pace; the store goes away at `i10`, and may come back at `i60`."""

    def __init__(self, go: Callable[[], object], back: Callable[[], object] | None) -> None:
        self.go, self.back = go, back
        self.longest = 0.0
        self._before = 0.0

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        now = time.monotonic()
        if self._before:
            self.longest = max(self.longest, now - self._before)
        if trainer.iteration == 10:
            self.go()
        if trainer.iteration == 60 and self.back:
            self.back()
        time.sleep(PACE)
        self._before = time.monotonic()


class Fleeting:
    """A server on one port that can be stopped and restarted."""

    def __init__(self, store: Store, port: int) -> None:
        self.store, self.port = store, port
        self._stack = contextlib.ExitStack()
        self.server: Server | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = self._stack.enter_context(running_server(self.store, self.port))

    def stop(self) -> None:
        self._stack.close()

    def signal(self, number: signal.Signals) -> None:
        assert self.server
        os.killpg(self.server.process.pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fleeting(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleeting]:
    monkeypatch.chdir(tmp_path)  # where the outboxes of a server's runs wait
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = Fleeting(store, free_port())
    server.start()
    yield server
    server.signal(signal.SIGCONT) if server.server else None
    server.stop()


@pytest.fixture
def remote(fleeting: Fleeting) -> Run:
    return Store.open(fleeting.address).create_run(
        "study", "over http", kind="train", params={}, tags={}
    )


def train(config: Config, remote: Run, outage: Outage) -> Trainer:
    trainer = Trainer(config, [TrackingCallback(remote, seconds=0.2), outage])
    assert trainer.fit().outcome == "completed"
    return trainer


def check(fleeting: Fleeting, remote: Run, trainer: Trainer) -> None:
    """Check that everything is there exactly once, as if nothing had happened."""
    store = Store.open(fleeting.address)
    run = store.run(remote.id)
    points = run._client.get_metric_history(run.id, "loss/G_total")
    rows = trainer.history.rows()
    assert [(p.step, p.value) for p in points] == [
        (row.iteration, row.values["loss/G_total"]) for row in rows
    ]
    assert sorted(run.history("score")) == list(range(50, STEPS + 1, 50))
    assert run.image_steps(CYCLE_PICTURES) == set(range(0, STEPS + 1, 50))
    info = store.find_run(remote.id)
    assert (info.status, info.tags["outcome"]) == ("FINISHED", "completed")
    assert info.end_ms is not None
    assert "system/cpu_utilization_percentage" in info.metrics


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_a_server_that_goes_and_comes_back_loses_nothing(
    how: str, fleeting: Fleeting, remote: Run, tiny: Make
) -> None:
    if how == "stopped":
        go, back = fleeting.stop, lambda: threading.Thread(target=fleeting.start).start()
    else:
        go = lambda: fleeting.signal(signal.SIGSTOP)  # noqa: E731
        back = lambda: fleeting.signal(signal.SIGCONT)  # noqa: E731
    outage = Outage(go, back)
    trainer = train(tiny(steps=STEPS, validate_every=50), remote, outage)
    # The test itself stops the server, in the training's thread; the rest are steps.
    assert outage.longest < 4.0  # a request that hangs takes 5
    deliver_waiting(Store.open(fleeting.address))
    check(fleeting, remote, trainer)


def test_a_server_that_stays_away_gets_everything_at_the_next_start(
    fleeting: Fleeting,
    remote: Run,
    store: Store,
    tiny: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = train(tiny(steps=STEPS, validate_every=50), remote, Outage(fleeting.stop, None))
    folder = tmp_path / "mlruns" / "journal" / remote.id
    assert str(folder) in caplog.text
    ended = time.time()
    time.sleep(1.5)
    fleeting.start()
    (delivery,) = deliver_waiting(Store.open(fleeting.address))
    assert (delivery.left, delivery.error) == (0, "")
    assert not folder.exists()
    check(fleeting, remote, trainer)
    end_ms = store.find_run(remote.id).end_ms
    assert end_ms is not None
    assert end_ms / 1000 < ended  # the time of its end, not of the delivery


class _Fails(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(500)
        self.end_headers()
        self.wfile.write(b'{"error_code": "INTERNAL_ERROR", "message": "no space left"}')

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_that_answers_500_stops_no_training(
    fleeting: Fleeting, remote: Run, tiny: Make
) -> None:
    failing: list[ThreadingHTTPServer] = []

    def go() -> None:
        fleeting.stop()
        failing.append(ThreadingHTTPServer(("127.0.0.1", fleeting.port), _Fails))
        threading.Thread(target=failing[0].serve_forever, daemon=True).start()

    try:
        outage = Outage(go, None)
        trainer = train(tiny(steps=STEPS, validate_every=50), remote, outage)
        assert outage.longest < 4.0  # a request that hangs takes 5
    finally:
        for server in failing:
            server.shutdown()
            server.server_close()
    fleeting.start()
    deliver_waiting(Store.open(fleeting.address))
    check(fleeting, remote, trainer)
