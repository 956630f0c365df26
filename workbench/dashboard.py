"""A read-only optuna-dashboard on a study's storage.

The server runs in this process and ends with it. It answers only requests that read: the
dashboard's buttons could rename or delete a running study, and it asks nobody for a password.
"""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cyclegan.errors import CycleGANError, UsageError
from search.study import known_studies, open_study
from tracking.ui import check_host

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from search.study import StudyHandle

PORT = 8080
_LOCAL = ("127.0.0.1", "localhost", "::1")


def study_to_show(name: str | None) -> StudyHandle:
    """Return the study called `name`, or the only one here.

    Errors: `UsageError` if `name` is missing and there is no study, or more than one.
    """
    if name is not None:
        return open_study(name)
    known = known_studies()
    if not known:
        raise UsageError("no study has been run here yet; start one: cyclegan study run FILE.yaml")
    if len(known) > 1:
        raise UsageError(f"--optuna shows one study; name one of {', '.join(known)}")
    return open_study(known[0])


def serve_dashboard(
    handle: StudyHandle,
    *,
    port: int = PORT,
    host: str = "127.0.0.1",
    say: Callable[[str], None],
) -> None:
    """Serve optuna-dashboard until Ctrl-C or SIGTERM; `say` receives each line for the user.

    Errors: `CycleGANError` if the port is taken.
    """
    with suppress(KeyboardInterrupt), running_dashboard(handle, port, host) as address:
        say(f"optuna-dashboard (read-only): {address}")
        say("stop it with Ctrl-C")
        threading.Event().wait()


@contextmanager
def running_dashboard(handle: StudyHandle, port: int, host: str = "127.0.0.1") -> Iterator[str]:
    """Run a dashboard that answers requests; yield the address of the study's page.

    Errors: `CycleGANError` if the port is taken.
    """
    storage, study_id = handle.study._storage, handle.study._study_id
    server = _server(host, port)
    try:
        from optuna_dashboard import wsgi

        server.set_app(read_only(wsgi(storage), host))
        threading.Thread(target=server.serve_forever, name="dashboard", daemon=True).start()
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
        where = f"[{shown}]" if ":" in shown else shown
        try:
            yield f"http://{where}:{server.server_port}/dashboard/studies/{study_id}"
        finally:
            server.shutdown()
    finally:
        server.server_close()


def read_only(app: WSGIApplication, host: str) -> WSGIApplication:
    """Wrap `app` to refuse requests that write, and on a local `host` all foreign host names.

    The second rule keeps out web pages that give their server's name this machine's address.
    """

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        asked = environ.get("HTTP_HOST", "").lower()
        name = asked.rpartition(":")[0] if not asked.endswith("]") else asked
        if host in _LOCAL and (name or asked).strip("[]") not in _LOCAL:
            return _refused(start, "this dashboard only answers requests to localhost")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refused(start, "this dashboard is read-only; use cyclegan study")
        return app(environ, start)

    return guarded


def _refused(start: StartResponse, reason: str) -> list[bytes]:
    status = HTTPStatus.FORBIDDEN
    start(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
    return [f'{{"reason": "{reason}"}}'.encode()]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answer several requests at once: a page makes many, and one may take seconds."""

    daemon_threads = True

    def server_bind(self) -> None:
        # Skip HTTPServer's look-up of the host's name, which hangs where there is no DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Handle requests without logging them."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _server(host: str, port: int) -> _Server:
    check_host(host)
    kind = _Server6 if ":" in host else _Server
    try:
        return make_server(host, port, _unready, server_class=kind, handler_class=_Quiet)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"can't be used: {error.strerror}"
        raise CycleGANError(f"port {port} on {host} {why}; choose another with --port") from error


def _unready(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    return _refused(start, "starting")
