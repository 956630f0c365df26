"""Translate MLflow's many exceptions into the project's own, with messages of one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from cyclegan.addresses import without_secrets
from cyclegan.errors import CycleGANError


def first_line(error: BaseException) -> str:
    """Return an exception's message in one line; database libraries append the whole statement."""
    if "Max retries exceeded" in str(error):  # hundreds of characters, the reason in the middle
        address = re.search(r"(https?://[^/\s]+)/", str(error))
        reason = re.search(
            r"Read timed out|Connection refused|too many 5\d\d|[A-Z]\w+Error", str(error)
        )
        what = f" ({reason[0].lower()})" if reason else ""
        return hidden(f"{address[1] if address else 'the server'} does not answer{what}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return hidden(lines[0])[:300] if lines else type(error).__name__


def hidden(text: str) -> str:
    """Return `text` without the passwords of the addresses in it."""
    return re.sub(r"\w[\w+.-]*://\S+", lambda found: without_secrets(found[0]), text)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn failures of the store inside the block into `CycleGANError`: `doing` and the reason."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, RequestException, OSError) as error:
        raise CycleGANError(f"{doing}: {first_line(error)}") from error
