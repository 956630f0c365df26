"""Storages of a study's trials: a journal file by default, or any database that Optuna supports.

The journal lies in `studies/local/<name>/journal.log` and serves the workers of one host (or of
several hosts that share that folder). A database (`postgresql://host/name`, `sqlite:///file.db`)
serves all who can reach it, also through a proxy (`grpc://host:port`). The file
`studies/local/<name>/storage.json` records which database a study uses, without its password.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import URL, make_url

from cyclegan.addresses import HIDDEN, is_secret, text_without_secrets, without_secrets
from cyclegan.data import read_json
from cyclegan.errors import CycleGANError, DataError, UsageError
from cyclegan.files import replacing
from cyclegan.locks import FileLock, waiting_for

JOURNAL = "journal.log"
_REMEMBERED = "storage.json"
_SQLITE_SECONDS = 60
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
"""Errors of the storage, such as a database that can't be reached, or a full disk.

They say nothing about a trial: the study stops, and goes on with the same trial."""
_KINDS = ("postgresql", "mysql", "sqlite", "grpc")


class _JournalLock(JournalFileOpenLock):
    """Guards appending to a journal; the operating system releases it when a process is killed.

    Optuna's own lock is a symbolic link, which a killed process leaves behind for 30 seconds.
    Taking this lock also cuts off a last line that a killed process or a full disk left
    half-written: anything appended to it would make the whole journal unreadable.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self._lock = FileLock(Path(f"{journal}.flock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            mend_journal(self.journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


class _JournalFile(JournalFileBackend):
    """A journal whose failed reads and writes are `STORAGE_ERRORS`, as a database's are.

    To Optuna they are errors of the objective: a disk that is full for a moment would end a trial.
    """

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the entries from a number on."""
        with _storage_errors():
            yield from super().read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, and wait until they are on the disk."""
        with _storage_errors():
            super().append_logs(logs)


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a damaged line
        raise optuna.exceptions.StorageInternalError(str(error)) from error


def mend_journal(path: Path) -> int:
    """Cut off a half-written last line and return the number of bytes removed; needs the lock."""
    with path.open("r+b") as handle:
        end = handle.seek(0, os.SEEK_END)
        if end == 0:
            return 0
        handle.seek(end - 1)
        if handle.read(1) == b"\n":
            return 0
        handle.seek(0)
        whole = handle.read().rfind(b"\n") + 1
        handle.truncate(whole)
        return end - whole


@dataclass(frozen=True)
class StudyStorage:
    """The storage of one study.

    `url` is None for the journal in `folder`. It may hold a password: use `shown` in messages.
    """

    folder: Path
    url: URL | None = field(default=None, repr=False)
    connections: int = 1
    """Connections to a database server that stay open."""
    _opened: list[BaseStorage] = field(default_factory=list, repr=False, compare=False)

    @property
    def shown(self) -> str:
        """The address for messages and records, without password and other secrets."""
        if self.url is None:
            return str(self.folder / JOURNAL)
        url = self.url
        open_query = {key: value for key, value in url.query.items() if not is_secret(key)}
        plain = URL.create(
            url.drivername, url.username, None, url.host, url.port, url.database, open_query
        ).render_as_string(hide_password=False)
        return without_secrets(plain)  # what a wrong address has in the wrong place

    @property
    def secret(self) -> str | None:
        """The address with its password, for another process; None for the journal."""
        return None if self.url is None else self.url.render_as_string(hide_password=False)

    @property
    def proxy(self) -> tuple[str, int] | None:
        """Host and port of the proxy through which the database is reached, if there is one."""
        if self.url is None or self.url.get_backend_name() != "grpc":
            return None
        return self.url.host or "", self.url.port or 0

    def open(self) -> BaseStorage:
        """Return Optuna's storage object, opened once.

        Errors: `CycleGANError` if it can't be reached.
        """
        if not self._opened:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            with self.explaining():
                self.folder.mkdir(parents=True, exist_ok=True)
            with self.explaining(), self._creating():
                self._opened.append(self._storage())
        return self._opened[0]

    @contextlib.contextmanager
    def claiming(self) -> Iterator[None]:
        """Hold the lock that only one process of all that share this storage may hold at a time.

        Trials are handed out under this lock. Optuna alone would hand the same waiting trial of an
        SQLite file to several processes, and it can't hand over an interrupted trial at all. A
        killed process can't leave the lock behind: it is a file lock, or an advisory lock of the
        database connection.
        """
        if self.proxy is not None:
            from search.study.proxy import holding

            self.open()  # an address without a server is said there
            with holding(*self.proxy, self.folder.name):
                yield
            return
        engine = getattr(getattr(self.open(), "_backend", None), "engine", None)
        if self.url is None or engine is None or self.url.get_backend_name() == "sqlite":
            with waiting_for(self._claim_file()):
                yield
            return
        take, give = _advisory_lock(self.url, self.folder.name)
        with engine.connect() as connection:
            connection.execute(take)
            connection.commit()
            try:
                yield
            finally:
                connection.execute(give)
                connection.commit()

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn errors of the storage, and of files, into a `CycleGANError` of one line."""
        try:
            yield
        except STORAGE_ERRORS as error:
            raise self.away(error) from error
        except OSError as error:
            raise CycleGANError(
                f"study {self.folder.name}: {error.filename or 'a file'} can't be used: "
                f"{error.strerror or error}; put that right and run the study again to continue"
            ) from error

    def away(self, error: BaseException) -> CycleGANError:
        """Return one of `STORAGE_ERRORS` as a one-line error."""
        while error.__cause__ is not None and str(error.__cause__).strip():
            error = error.__cause__
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if isinstance(error, OSError):
            cause = error.strerror or cause
        for secret in self._secrets():
            cause = cause.replace(secret, HIDDEN)
        cause = text_without_secrets(cause)
        return CycleGANError(
            f"study storage {self.shown} can't be used: {cause}; when it works again, run the "
            "study again to continue"
        )

    def remember(self) -> None:
        """Record in the study's folder which storage the study uses; only its owner may read it.

        A record of an earlier version, which may hold a password, stays.
        """
        path = self.folder / _REMEMBERED
        if self.url is None:
            return
        if path.is_file():
            path.chmod(0o600)
            return
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps({"url": self.shown}), encoding="utf-8")

    def _secrets(self) -> list[str]:
        """Return the password and the values of secret parameters, as they are and as rendered."""
        if self.url is None:
            return []
        values = [self.url.password or ""]
        for key, value in self.url.query.items():
            if is_secret(key):
                values += [value] if isinstance(value, str) else value
        forms = {form for value in values for form in (value, quote(value, safe=""))}
        return sorted(filter(None, forms), key=len, reverse=True)

    def _claim_file(self) -> Path:
        if self.url is not None and self.url.database:
            return Path(f"{Path(self.url.database).resolve()}.claim")
        return self.folder / "claim.lock"

    def _creating(self) -> contextlib.AbstractContextManager[None]:
        # Processes that create the tables of one new database at the same time crash each other.
        if self.url is not None and self.url.get_backend_name() == "sqlite":
            return waiting_for(self._claim_file())
        if self.url is not None and self.url.get_backend_name() == "postgresql":
            return _creating_tables(self.url)
        return waiting_for(self.folder / "claim.lock")

    def _storage(self) -> BaseStorage:
        if self.url is None:
            return self._journal()
        return self._database() if self.proxy is None else self._behind_proxy()

    def _behind_proxy(self) -> BaseStorage:
        assert self.proxy is not None
        try:
            from search.study.proxy import connected
        except ImportError as error:
            raise UsageError(
                f"--storage {self.shown}: the proxy needs grpcio: pip install 'cyclegan3d[grpc]'"
            ) from error
        return connected(*self.proxy)

    def _journal(self) -> BaseStorage:
        path = self.folder / JOURNAL
        try:
            return JournalStorage(_JournalFile(str(path), lock_obj=_JournalLock(path)))
        except (KeyError, *STORAGE_ERRORS) as error:
            if isinstance(error.__cause__, OSError):
                raise
            raise DataError(
                f"{path}: the study's journal can't be read ({error}); restore it from a copy"
            ) from error

    def _database(self) -> BaseStorage:
        # Takes long, and a journal does without.
        from search.study.bulk_reading import BulkReadingStorage

        assert self.url is not None
        # A process keeps one connection; the lock, the thread that renews the lease and that of the
        # report take another each while they need it. A server has about 100 for everybody.
        options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": self.connections}
        options["max_overflow"] = 9
        if self.url.get_backend_name() == "sqlite":
            options = {"connect_args": {"timeout": _SQLITE_SECONDS}, "pool_pre_ping": True}
        assert self.secret is not None
        try:
            storage = BulkReadingStorage(self.secret, engine_kwargs=options)
            return optuna.storages.get_storage(storage)
        except ImportError as error:
            raise UsageError(
                f"--storage {self.shown}: the driver is missing; for PostgreSQL: "
                "pip install 'psycopg[binary]'"
            ) from error
        except STORAGE_ERRORS as error:
            raise self.away(error) from error
        except RuntimeError as error:  # Optuna's tables have another version
            raise self._other_version(options) from error

    def _other_version(self, options: dict[str, Any]) -> CycleGANError:
        assert self.secret is not None
        tables = RDBStorage(self.secret, engine_kwargs=options, skip_compatibility_check=True)
        theirs = tables.get_current_version()
        if theirs in tables.get_all_versions():
            which = f"an older Optuna ({theirs}); make a copy of it, then run"
            remedy = f"optuna storage upgrade --storage {shlex.quote(self.shown)}"
        else:
            which = f"a newer Optuna ({theirs}) than this one ({optuna.__version__}); run"
            remedy = "pip install --upgrade optuna"
        return CycleGANError(f"study storage {self.shown} was made by {which}: {remedy}")


def storage_for(folder: Path, url: str | None) -> StudyStorage:
    """Return the storage given, else the one recorded in `folder`, else the journal there.

    Errors: `UsageError` for an invalid address, or one that differs from the study's own.
    """
    path = folder / _REMEMBERED
    stored = _parsed(str(read_json(path)["url"]), str(path)) if path.is_file() else None
    before = StudyStorage(folder, stored)
    if url is None:
        return before
    storage = StudyStorage(folder, _parsed(url, "--storage"))
    journal = (folder / JOURNAL).is_file()
    is_door = storage.proxy is not None and stored is not None and stored.drivername != "sqlite"
    if (stored is not None or journal) and before.shown != storage.shown and not is_door:
        raise UsageError(
            f"--storage {storage.shown}: the study was started in {before.shown}; "
            "leave --storage out, or give the study another name"
        )
    return storage


def _parsed(text: str, source: str) -> URL:
    shown = f"{source} {without_secrets(text)}"
    try:
        url = _of_odd_folder(text, shown) or make_url(text)
        kind = url.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        raise UsageError(
            f"{shown}: not an address of a database, such as postgresql://host/name or "
            "sqlite:///studies/local/study.db"
        ) from None
    if kind not in _KINDS:
        raise UsageError(f"{shown}: Optuna supports {', '.join(_KINDS)}")
    if kind != "sqlite" and text.count("@") > 1:
        raise UsageError(
            f"{shown}: it has several @; write all but the one before the host as %40, or leave "
            "the password to PGPASSWORD or ~/.pgpass"
        )
    if kind == "grpc" and (url.database or not (url.host and url.port)):
        raise UsageError(f"{shown}: a proxy's address is grpc://HOST:PORT")
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        raise UsageError(f"{shown}: a database in memory can't be shared or continued")
    return url


def _of_odd_folder(text: str, shown: str) -> URL | None:
    """Return the address of an SQLite file in a folder with `?` or `%` in its name, else None.

    In an address these characters mean something else: what follows `?` would be left out.
    """
    scheme, _, path = text.partition(":///")
    folder = path.rpartition("/")[0]
    if scheme != "sqlite" or not re.search("[?%]", folder):
        return None
    if Path(folder).is_dir():
        return make_url("sqlite://").set(database=path)
    if "?" in folder:
        raise UsageError(f"{shown}: there is no folder {folder}; make it first")
    return None


@contextlib.contextmanager
def _creating_tables(url: URL) -> Iterator[None]:
    """Hold the lock of a server's database for those who may create its tables.

    Hosts that share the database need not share a folder. Where the lock can't be had, the storage
    itself says what is wrong.
    """
    take, _ = _advisory_lock(url, "")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError, ImportError):
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
            stack.enter_context(engine.connect()).execute(take)
        yield  # the lock ends with the connection


def _advisory_lock(url: URL, study: str) -> tuple[sqlalchemy.TextClause, sqlalchemy.TextClause]:
    """Return how to take and give back the lock of a study; other studies have locks of their own.

    Versions before this one had one lock for all; their workers must not join a study of this one.
    """
    if url.get_backend_name() == "mysql":
        # MySQL's names have at most 64 characters.
        name = f"cyclegan-{zlib.crc32(f'{url.database} {study}'.encode())}"
        return (
            sqlalchemy.text("SELECT GET_LOCK(:name, 3600)").bindparams(name=name),
            sqlalchemy.text("SELECT RELEASE_LOCK(:name)").bindparams(name=name),
        )
    key = zlib.crc32(f"claims of {study}".encode())
    return (
        sqlalchemy.text("SELECT pg_advisory_lock(:key)").bindparams(key=key),
        sqlalchemy.text("SELECT pg_advisory_unlock(:key)").bindparams(key=key),
    )
