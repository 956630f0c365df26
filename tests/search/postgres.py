"""A PostgreSQL server of Debian's package for the tests, started and stopped by them.

    python tests/search/postgres.py    # starts one, prints its address, stops it when it is stopped

As root it runs as the user `postgres`, because the server refuses root. With
CYCLEGAN_REQUIRE_POSTGRES set, a missing server is a failure; otherwise its tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, or None."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


class Server:
    """A server with its data in a new folder below the temporary one."""

    def __init__(self, folder: Path) -> None:
        self._programs = folder
        self._root = Path(tempfile.mkdtemp(prefix="cyclegan-postgres-"))
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(self._root, "postgres")
        self._data, self._port = str(self._root / "data"), _free_port()
        self.address = f"postgresql://tester@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Server:
        self._call("initdb", "-D", self._data, "-A", "trust", "-U", "tester", "--no-sync")
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # stopped already
            self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1"
        options += f" -c unix_socket_directories={self._root}"
        log = str(self._root / "log")
        self._call("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        line = [*self._as_user, str(self._programs / program), *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(line, check=True, cwd=self._root, **quiet)  # type: ignore[call-overload]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    binaries = programs()
    assert binaries is not None, "no initdb; on Debian: apt-get install postgresql"
    with Server(binaries) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.address, flush=True)  # noqa: T201
        signal.pause()
