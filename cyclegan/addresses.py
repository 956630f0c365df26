"""Addresses of stores and servers, as messages and logs may show them."""

from __future__ import annotations

import re

_SECRET = re.compile(r"([?&;](?:password|passwd|pwd|token|secret)=)([^&]*)", re.IGNORECASE)


def without_secrets(address: str) -> str:
    """Return `address` with every password in it replaced by `***`.

    It needs no valid address: whatever could belong to a password is hidden, rather too much of an
    address that can be read in two ways.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    found = _SECRET.search(rest)
    place, query = (rest[: found.start()], rest[found.start() :]) if found else (rest, "")
    if "@" in place:
        login, _, host = place.rpartition("@")
        place = f"{_without_password(login)}@{host}"
    elif "@" in query:
        place = _without_password(place)
    return scheme + separator + place + _SECRET.sub(r"\1***", query)


def _without_password(login: str) -> str:
    user, colon, _ = login.partition(":")
    return f"{user}:***" if colon else login
