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
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, or None."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A server with its data in a new folder below the temporary one; its SQLAlchemy address."""
    root = Path(tempfile.mkdtemp(prefix="cyclegan-postgres-"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(root, "postgres")
    data, port = root / "data", _free_port()
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={root}"

    def call(program: str, *arguments: str) -> None:
        line = [*as_user, str(folder / program), *arguments]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, cwd=root)

    try:
        call("initdb", "-D", str(data), "-A", "trust", "-U", "tester", "--no-sync")
        log = str(root / "log")
        call("pg_ctl", "-D", str(data), "-o", options, "-l", log, "-w", "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)


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
    with server(binaries) as address, contextlib.suppress(KeyboardInterrupt):
        print(address, flush=True)  # noqa: T201
        signal.pause()
