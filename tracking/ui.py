"""Start MLflow's user interface on the store, and stop it without leaving processes behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import IO

from cyclegan.errors import CycleGANError, UsageError
from tracking import exit_with_parent, views
from tracking.database import child_environment
from tracking.errors import hidden
from tracking.store import Store

START_TIMEOUT = 120.0
"""Seconds to wait for the server's first answer; it takes 6-9 on two cores."""
_STOP_TIMEOUT = 10.0
_POLL = 0.2
_LINKS = 10
_CONNECTIONS = {"MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "60"}
"""Connections that the server may open to its database beyond those it keeps, unless the user says
otherwise. It answers 40 requests at a time; by default it has 15 connections, and where more
workers than that write at the same moment the others get an error after half a minute."""


def serve(
    store: Store, port: int = 5000, host: str = "127.0.0.1", say: Callable[[str], None] = print
) -> None:
    """Serve the user interface until Ctrl-C or SIGTERM; `say` gets each line for the user.

    If the store is a server already, only its address is printed. The interface has no passwords:
    on any `host` except this machine's own, everybody who reaches the port can read and change the
    runs. MLflow answers only requests for localhost and private addresses; the environment variable
    `MLFLOW_SERVER_ALLOWED_HOSTS` names others.

    Errors: `CycleGANError` if the port is taken or the server doesn't start.
    """
    if store.location.is_server:
        _say_links(store, str(store.location), say)
        return
    store.create()  # a server that finds no tables makes them in a half-made file
    with _signals_as_interrupt(), contextlib.suppress(KeyboardInterrupt):
        say(f"starting the MLflow user interface on {store.location} ...")
        with running_server(store, port, host) as server:
            _say_links(store, server.address, say)
            say("stop it with Ctrl-C")
            code = server.process.wait()
            raise CycleGANError(
                f"the MLflow server ended unexpectedly ({code}): {server.last_words()}"
            )


@dataclass(frozen=True)
class Server:
    """A running server that answers."""

    address: str
    """Such as `http://127.0.0.1:5000`."""
    process: subprocess.Popen[bytes]
    _log: IO[bytes]

    def last_words(self) -> str:
        """Return the last line that it wrote."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return hidden(lines[-1]) if lines else "it printed nothing"


@contextlib.contextmanager
def running_server(store: Store, port: int, host: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server on `store`, wait until it answers, and stop it and its children afterwards.

    Errors: `CycleGANError` if the port is taken or the server doesn't start.
    """
    check_port(host, port)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    address = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            # The server and its children would outlive a kill -9 of this process and keep the port.
            # `exit_with_parent` ends them: its standard input closes with this process.
            [sys.executable, exit_with_parent.__file__, *_command(store, host, port)],
            env=_environment(store),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group, so that its children can be stopped with it
        )
        server = Server(address, process, log)
        try:
            _wait(server)
            yield server
        finally:
            _stop(process)


def _command(store: Store, host: str, port: int) -> list[str]:
    options = ["--host", host, "--port", str(port), "--workers", "1"]
    if store.location.artifacts:
        # The folder for files of experiments that clients of this server create.
        options += ["--artifacts-destination", store.location.artifacts]
    return [sys.executable, "-m", "mlflow", "server", *options]


def _environment(store: Store) -> dict[str, str]:
    ours = {
        # It goes into the environment: everybody could read its password in a command line.
        "MLFLOW_BACKEND_STORE_URI": store.uri,
        # It runs jobs for language models; without it the server needs a fifth of time and memory.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return _CONNECTIONS | child_environment() | ours


def check_host(host: str) -> None:
    """Raise `UsageError` if no host can have this name."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise UsageError(f"--host {host}: not a name or an address of a host") from error


def check_port(host: str, port: int) -> None:
    """Refuse an address on which this process can't listen. Errors: `CycleGANError`."""
    if not 0 < port < 65536:
        raise UsageError(f"port {port} must lie between 1 and 65535; choose another with --port")
    check_host(host)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CycleGANError(
                f"port {port} on {host} is taken by another program; choose another with --port"
            ) from error
        raise CycleGANError(
            f"port {port} on {host} can't be used: {error.strerror}; choose another with --port"
        ) from error


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not _answers(server.address):
        if server.process.poll() is not None:
            raise CycleGANError(f"the MLflow server did not start: {server.last_words()}")
        if time.monotonic() > deadline:
            raise CycleGANError(
                f"the MLflow server did not answer within {START_TIMEOUT:.0f} s: "
                f"{server.last_words()}"
            )
        time.sleep(_POLL)


def _answers(address: str) -> bool:
    # Ignore proxies that the environment may name: the server is ours.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group: send SIGTERM first, then SIGKILL."""
    try:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
    finally:  # for children that outlive it, and after an impatient second Ctrl-C
        _signal_group(process, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `KeyboardInterrupt` inside the block, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _say_links(store: Store, address: str, say: Callable[[str], None]) -> None:
    say(f"MLflow user interface: {address}")
    for experiment in store.experiments()[:_LINKS]:
        shipped = [key for key in views.KEYS if views.tag_name(key) in experiment.tags]
        for key in shipped or (None,):
            name = f"{experiment.name}, {key}" if key else experiment.name
            say(f"  {name}: {views.experiment_link(address, experiment.id, key)}")
