"""Addresses of databases and servers without the secrets in them, for messages and files."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

HIDDEN = "***"
_SECRET = re.compile(r"pass|pwd|secret|token|key|auth|credential", re.IGNORECASE)
"""Parts of the names of parameters that may hold a secret."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def is_secret(parameter: str) -> bool:
    """Return True if a parameter of this name, as it stands in an address, may hold a secret."""
    return _SECRET.search(unquote_plus(parameter)) is not None


def without_secrets(address: str) -> str:
    """Return an address with `***` for its password and the values of secret parameters.

    A password may hold any character, also `/`, `?` and `@`: all from the first colon behind the
    user's name to the last `@` is hidden. Without a password the name itself is a token where the
    scheme is that of a web server.
    """
    scheme, slashes, rest = address.partition("://")
    if not slashes:
        return _without_secret_values(address)
    before, at, behind = rest.rpartition("@")
    if not at or ("/" in before and ":" not in before.partition("/")[0]):
        return f"{scheme}://{_without_secret_values(rest)}"  # the @ is part of a path or a value
    user, colon, _ = before.partition(":")
    if not colon and scheme.startswith("http"):
        user = HIDDEN
    hidden = f"{user}:{HIDDEN}" if colon else user
    return f"{scheme}://{hidden}@{_without_secret_values(behind)}"


def text_without_secrets(text: str) -> str:
    """Return a text with `***` for the secrets of every address in it."""
    return _ADDRESS.sub(lambda found: without_secrets(found[0]), text)


def _without_secret_values(text: str) -> str:
    """Return what follows the server's name with `***` for the values of secret parameters."""
    start, mark, parameters = text.partition("?")
    if not mark:
        return text
    pieces = re.split(r"([&;#])", parameters)
    return start + mark + "".join(map(_without_secret_value, pieces))


def _without_secret_value(piece: str) -> str:
    name, equals, _ = piece.partition("=")
    return f"{name}={HIDDEN}" if equals and is_secret(name) else piece
