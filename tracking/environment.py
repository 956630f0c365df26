"""MLflow's settings for this process: no telemetry, no chatter, no waiting for ever.

MLflow reads most of them when it is imported, so every import of mlflow in this room stands inside
a function and after a call of `prepare`. This also keeps `import tracking` quick: mlflow takes more
than a second.
"""

from __future__ import annotations

import logging
import os

_SETTINGS = {
    # Else the first use looks up a host in the internet.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # With a server, the end of a run would print its address among the results on standard output.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # With MLflow's seven retries a server that is down holds a training up for minutes.
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
        # Its retries: what comes of them is told by us.
        ("urllib3.connectionpool", logging.ERROR),
        # Prints a traceback of each error that it raises as well.
        ("mlflow.store.db.utils", logging.CRITICAL),
    ):
        logging.getLogger(name).setLevel(level)


def child_environment() -> dict[str, str]:
    """Environment for an MLflow process that must obey its arguments alone."""
    variables = {**os.environ, **_SETTINGS}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"):
        variables.pop(name, None)
    return variables
