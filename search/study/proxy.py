"""A database of studies behind one process, for workers that should not connect to it themselves.

A PostgreSQL server takes about a hundred connections. Optuna's gRPC proxy has a few, whatever the
number of workers, and remembers trials for all of them:

```
worker --grpc://host:port--> serving() --postgresql://...--> database
```
Beside Optuna's own service the server hands out the lock under which trials are claimed (see
`StudyStorage.claiming`). It is the database's own lock, so workers with and without the proxy may
share a study. A worker that dies with the lock loses it after a minute.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy
from optuna.storages._grpc.server import make_server

from cyclegan.errors import CycleGANError
from search.study.storage import StudyStorage

PORT = 13_000
_TAKE, _GIVE = "/cyclegan.Claims/take", "/cyclegan.Claims/give"
_LEASE_SECONDS = 60.0
"""Seconds without a renewal after which a worker that holds the lock counts as dead."""
_RENEW_SECONDS = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two questions for a lock that another worker has."""
_PATIENCE = 20.0
_THREADS = 10
Hold = Callable[[str], contextlib.AbstractContextManager[None]]
"""Returns a context that holds the database's lock of a study."""


# -- The server --------------------------------------------------------------------------------


@dataclass
class _Held:
    owner: str
    until: float
    """Time of the monotonic clock at which it ends without a renewal."""
    lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Claims:
    """Hands out the locks of studies to workers.

    Args:
        hold: holds the database's own lock of a study.
        clock: returns seconds; nobody must be able to set it.
    """

    def __init__(self, hold: Hold, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold, self._clock = hold, clock
        self._mutex = threading.Lock()
        self._held: dict[str, _Held] = {}

    def take(self, asked: Mapping[str, str], context: object = None) -> dict[str, bool]:
        """Give a study's lock to an owner, or renew it; `granted` is False if another has it."""
        study, owner = asked["study"], asked["owner"]
        with self._mutex:
            held, now = self._held.get(study), self._clock()
            if held is not None and held.owner != owner and now < held.until:
                return {"granted": False}
            if held is None:
                held = self._held[study] = _Held(owner, now)
                try:
                    held.lock.enter_context(self._hold(study))
                except BaseException:
                    del self._held[study]
                    raise
            held.owner, held.until = owner, self._clock() + _LEASE_SECONDS
            return {"granted": True}

    def give(self, asked: Mapping[str, str], context: object = None) -> dict[str, bool]:
        """Take a study's lock back from its owner; `held` is False if it has lost it."""
        with self._mutex:
            held = self._held.get(asked["study"])
            if held is None or held.owner != asked["owner"]:
                return {"held": False}
            del self._held[asked["study"]]
            held.lock.close()
            return {"held": True}


@contextlib.contextmanager
def serving(place: StudyStorage, host: str, port: int) -> Iterator[None]:
    """Serve a database of studies until the context ends.

    Errors: `CycleGANError` if it can't be reached, or the port is taken.
    """
    threads = ThreadPoolExecutor(_THREADS)
    try:
        server = make_server(place.open(), f"[{host}]" if ":" in host else host, port, threads)
    except RuntimeError as error:
        raise CycleGANError(
            f"--port {port}: {host} can't be listened to there; another program may use it"
        ) from error
    claims = Claims(lambda study: replace(place, folder=Path(study)).claiming())
    methods = {
        name.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(
            method, request_deserializer=json.loads, response_serializer=_as_bytes
        )
        for name, method in ((_TAKE, claims.take), (_GIVE, claims.give))
    }
    service = _TAKE.split("/")[1]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    server.start()
    try:
        yield
    finally:
        server.stop(grace=1.0).wait()


def _as_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


# -- The workers' side -------------------------------------------------------------------------


def connected(host: str, port: int) -> BaseStorage:
    """Return the storage that a server serves. Errors: `StorageInternalError` without an answer."""
    with warnings.catch_warnings():  # its interface is experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = _Client(host=host, port=port)
    try:
        storage.wait_server_ready(timeout=_PATIENCE)
    except ConnectionError:
        raise optuna.exceptions.StorageInternalError(
            f"no answer for {_PATIENCE:.0f} seconds; does cyclegan study serve run there?"
        ) from None
    return storage


@contextlib.contextmanager
def holding(host: str, port: int, study: str) -> Iterator[None]:
    """Hold the lock of a study; wait while another worker has it."""
    asked = {"study": study, "owner": uuid.uuid4().hex}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        take, give = (_method(channel, name) for name in (_TAKE, _GIVE))
        pause = _FIRST_PAUSE
        while not take(asked)["granted"]:
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  (so that not all ask at once)
            pause = min(2 * pause, _LONGEST_PAUSE)
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(_RENEW_SECONDS):
                with contextlib.suppress(optuna.exceptions.StorageInternalError):
                    take(asked)

        thread = threading.Thread(target=renew, name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            give(asked)


def _method(channel: grpc.Channel, name: str) -> Callable[[Mapping[str, str]], dict[str, bool]]:
    call = channel.unary_unary(name, request_serializer=_as_bytes, response_deserializer=json.loads)
    return _explained(lambda asked: call(asked, timeout=_PATIENCE))


def _explained(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method with errors of the connection as those of a storage."""

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except grpc.RpcError as error:
            details = getattr(error, "details", lambda: None)() or type(error).__name__
            raise optuna.exceptions.StorageInternalError(str(details)) from error

    return call


class _Client(GrpcStorageProxy):
    """Optuna's client, whose failures are those of a storage."""


for _name in BaseStorage.__dict__:
    if not _name.startswith("_") and callable(getattr(GrpcStorageProxy, _name, None)):
        setattr(_Client, _name, _explained(getattr(GrpcStorageProxy, _name)))
