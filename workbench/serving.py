"""Serve a database of studies to many workers over few connections."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cyclegan.errors import UsageError
from cyclegan.signals import handled
from search.study.storage import storage_for
from tracking.ui import check_port

_CONNECTIONS = 10


def serve(storage: str, *, port: int, host: str, say: Callable[[str], None]) -> None:
    """Serve the database `storage` at `grpc://host:port` until Ctrl-C or SIGTERM.

    Errors: `UsageError` for an address that is no database's, or without grpcio; `CycleGANError` if
    the database can't be reached or the port is taken.
    """
    check_port(host, port)
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder:  # no study's own: the database may have many
        place = replace(storage_for(Path(folder), storage), connections=_CONNECTIONS)
        if place.proxy is not None:
            raise UsageError(f"--storage {place.shown}: name the database itself")
        try:
            from search.study.proxy import serving
        except ImportError as error:
            raise UsageError("the proxy needs grpcio: pip install 'cyclegan3d[grpc]'") from error
        with handled(lambda number, frame: over.set()), serving(place, host, port):
            say(f"serving {place.shown}; for workers: --storage grpc://{host}:{port}")
            say("stop it with Ctrl-C")
            while not over.wait(1.0):
                pass
