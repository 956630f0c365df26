"""Locate the store, create a fresh embedded one, and set MLflow's environment variables.

The embedded store is one SQLite file with a folder `artifacts` beside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cyclegan.addresses import without_secrets
from cyclegan.errors import CycleGANError, UsageError
from cyclegan.files import check_name
from cyclegan.locks import waiting_for
from tracking.errors import first_line, translated
from tracking.schema import check_version

DATABASE_NAME = "mlflow.db"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433, "http": 80, "https": 443}
_FIRST_USE = 5_218_001
"""Number of the advisory lock; it only has to be another one than those of studies."""
_POOL_SIZE = "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"
_PATIENCE = 10.0
"""Seconds to wait for a server to accept a connection."""


@dataclass(frozen=True)
class Location:
    """The address of a store."""

    uri: str
    """Address in MLflow's form; paths in it are absolute."""
    artifacts: str | None
    """URI of the folder for files of new experiments; None if the server chooses it."""
    database: Path | None
    """The SQLite file of an embedded store; None for other stores."""
    chosen: bool = field(default=True, compare=False)
    """False if nobody named a store, so that it is the project's own."""

    @property
    def is_server(self) -> bool:
        """True if the store is an MLflow server rather than a database."""
        return self.uri.startswith("http")

    @property
    def outboxes(self) -> Path:
        """Folder on this machine for the outboxes of runs; see `tracking.outbox`."""
        mlruns = self.database.parent if self.database else project_root() / "mlruns"
        return mlruns / "journal"

    def addressed(self, command: str) -> str:
        """Return a shell's command of MLflow's so that it works on this store.

        By itself it would take a store of its own below the working directory.
        """
        return f"MLFLOW_TRACKING_URI={shlex.quote(without_secrets(self.uri))} {command}"

    def __str__(self) -> str:
        return str(self.database) if self.database else without_secrets(self.uri)


def project_root() -> Path:
    """Return the nearest folder, from the working directory up, with `studies` and `mlruns` in it.

    Return the working directory itself if there is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "studies").is_dir() and (folder / "mlruns").is_dir():
            return folder
    return here


def locate(tracking_uri: str | None = None) -> Location:
    """Return the location of `tracking_uri`, else `MLFLOW_TRACKING_URI`, else the project's own.

    Errors: `UsageError` for a URI that is not the address of a store, `DataError` for a place
    where no file can be.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    folder = project_root() / "mlruns"
    if not uri:
        return replace(_embedded(folder / DATABASE_NAME), chosen=False)
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if scheme not in _SCHEMES:
        raise UsageError(
            f"tracking URI '{without_secrets(uri)}' is not the address of a store; give "
            "sqlite:///path/mlflow.db, postgresql://user@host/database or http://host:port"
        )
    if scheme == "sqlite":
        path = unquote(uri.partition("://")[2].removeprefix("/").partition("?")[0])
        if not path or path == ":memory:":
            raise UsageError(
                f"tracking URI '{without_secrets(uri)}' names no file; give sqlite:///path/mlflow.db"
            )
        database = Path.cwd() / path
        check_name(database)
        return _embedded(database)
    if scheme in ("http", "https"):
        return Location(uri.rstrip("/"), None, None)
    return Location(uri, (folder / "artifacts").as_uri(), None)


def _embedded(database: Path) -> Location:
    artifacts = database.parent / "artifacts"
    return Location(_sqlite_uri(database), artifacts.as_uri(), database)


def _sqlite_uri(database: Path) -> str:
    """Return the address of a file; in an address `?` begins options and `%` a character's code.

    The name of a driver in it does not change anything, except that MLflow then makes no folder
    that is named like the address.
    """
    path = str(database)
    quoted = path.replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def ensure(location: Location) -> None:
    """Make sure that the store can be used: create a missing embedded one, try to reach any other.

    Errors: `CycleGANError` in one line if it can't be reached or its file is damaged.
    """
    prepare()
    if location.database is None:
        _reach(location)
        return
    if not location.database.exists():
        with _locked(location.database):
            if not location.database.exists():
                _create(location, location.database)
    check_version(location, _check_file(location.database))


def _create(location: Location, database: Path) -> None:
    """Create the tables in a file beside `database`, then rename it: it is never half made."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    temporary = database.with_name(f".{database.name}.{os.getpid()}.part")
    try:
        with translated(f"{database}: a new tracking database can't be made"):
            store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
                _sqlite_uri(temporary), location.artifacts
            )
            store.engine.dispose()
            temporary.replace(database)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Hold an exclusive lock among processes; it ends with the process that holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(waiting_for(database.with_name(f".{database.name}.lock")))
        except OSError as error:
            raise CycleGANError(
                f"{database}: a new tracking database can't be made: {error.strerror}; choose "
                "another place with --tracking-uri"
            ) from error
        yield


@contextlib.contextmanager
def first_use(location: Location) -> Iterator[None]:
    """Let one process at a time use a database of a server for the first time.

    MLflow then makes the tables, and processes that do so at the same time crash each other. The
    lock ends with the connection, hence with a killed process. Where the lock can't be had, MLflow
    says what is wrong with the address. Embedded stores have a lock file, MLflow's servers need no
    lock.
    """
    if not location.uri.startswith("postgresql"):
        yield
        return
    import sqlalchemy  # here, so that `import tracking` stays quick

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError, ImportError):
            engine = sqlalchemy.create_engine(location.uri, poolclass=sqlalchemy.NullPool)
            connection = stack.enter_context(engine.connect())
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_FIRST_USE})"))
        yield


def _check_file(database: Path) -> str:
    """Return the version of the tables. Errors: `CycleGANError` if the file can't be used."""
    # MLflow's own connection retries a file it can't open for more than a minute.
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_PATIENCE)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            query = "SELECT version_num FROM alembic_version"
            version = connection.execute(query).fetchone() if "alembic_version" in tables else None
    except sqlite3.OperationalError as error:
        locked = "locked" in str(error)
        remedy = "wait for the program that writes to it" if locked else "check its permissions"
        raise CycleGANError(
            f"{database}: the tracking database can't be opened: {error}; {remedy}"
        ) from error
    except sqlite3.DatabaseError as error:
        raise CycleGANError(
            f"{database}: the tracking database is damaged: {error}; move the file away or name "
            "another store with --tracking-uri"
        ) from error
    if "experiments" not in tables or "alembic_version" not in tables:
        raise CycleGANError(
            f"{database}: this is not an MLflow tracking database; name another with --tracking-uri"
        )
    return str(version[0]) if version else ""


def _reach(location: Location) -> None:
    try:
        parts = urlsplit(location.uri)
        scheme = parts.scheme.partition("+")[0]
        host, port = parts.hostname, parts.port or _PORTS[scheme]
    except ValueError as error:
        raise UsageError(
            f"tracking URI '{location}' can't be read; in a password write %2F for /, %3F for ?, "
            "%23 for # and %40 for @"
        ) from error
    if host is None:  # a database on this machine's socket
        return
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except OSError as error:
        raise CycleGANError(
            f"{location}: nothing answers on {host}:{port} ({first_line(error)}); is the tracking "
            "server running, and is the address right?"
        ) from error


# -- MLflow's settings for this process: no telemetry, little output, short waits --------------
#
# MLflow reads most of them when it is imported, so every import of mlflow in this room is inside a
# function and after a call of `prepare`. This also keeps `import tracking` quick: importing mlflow
# takes more than a second.

_SETTINGS = {
    # Otherwise the first use looks up a host on the internet.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # With a server, the end of a run would print its address among the results on standard output.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # With MLflow's seven retries a server that is down would hold up a training for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def prepare() -> None:
    """Set MLflow's environment variables, unless the user did, and quiet its loggers."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name, level in (
        ("mlflow", logging.WARNING),
        ("alembic", logging.WARNING),
        # It logs retries; we report their outcome ourselves.
        ("urllib3.connectionpool", logging.ERROR),
        # It prints a traceback of each error, which it raises as well.
        ("mlflow.store.db.utils", logging.CRITICAL),
    ):
        logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def few_connections(location: Location) -> Iterator[None]:
    """Let MLflow keep one connection to a database server, while the client is made.

    By default it keeps five, and a hundred workers would use up all that a server has. More are
    opened while threads need them.
    """
    if location.database is not None or location.is_server or _POOL_SIZE in os.environ:
        yield
        return
    os.environ[_POOL_SIZE] = "1"
    try:
        yield
    finally:
        del os.environ[_POOL_SIZE]


def child_environment() -> dict[str, str]:
    """Return the environment for an MLflow process that must obey its arguments alone."""
    variables = {**os.environ, **_SETTINGS}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"):
        variables.pop(name, None)
    return variables
