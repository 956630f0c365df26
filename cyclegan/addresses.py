"""Addresses of databases and servers without the secrets in them, for messages and files."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

HIDDEN = "***"
_SECRET = re.compile(r"pass|pwd|secret|token|key|auth|credential", re.IGNORECASE)
"""Parts of the names of parameters that may hold a secret."""
_SECRET_VALUE = re.compile(r"([?&;](?:password|passwd|pwd|token|secret)=)([^&]*)", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def is_secret(parameter: str) -> bool:
    """Return True if a parameter of this name, as it stands in an address, may hold a secret."""
    return _SECRET.search(unquote_plus(parameter)) is not None


def without_secrets(address: str) -> str:
    """Return an address with `***` for its password and the values of secret parameters.

    It needs no valid address. A password may hold any character, also `/`, `?` and `@`, so that an
    address can be read in several ways: what is a secret in one of them is hidden. Without a
    password the name itself is a token where the scheme is that of a web server.
    """
    return _by_parts(_by_marks(address))


def _by_marks(address: str) -> str:
    """Hide what follows the first colon of the login, and secret values with an @ in them."""
    scheme, slashes, rest = address.partition("://")
    if not slashes:
        scheme, rest = "", address
    found = _SECRET_VALUE.search(rest)
    place, query = (rest[: found.start()], rest[found.start() :]) if found else (rest, "")
    login, at, host = place.rpartition("@")
    if at:
        place = f"{_without_password(login)}@{host}"
    elif "@" in query:
        place = _without_password(place)
    return scheme + slashes + place + _SECRET_VALUE.sub(rf"\1{HIDDEN}", query)


def _without_password(login: str) -> str:
    user, colon, _ = login.partition(":")
    return f"{user}:{HIDDEN}" if colon else login


def _by_parts(address: str) -> str:
    """Hide the login and every secret parameter, as a library would read the address."""
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
