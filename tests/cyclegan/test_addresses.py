"""Addresses in messages show no password, whatever it is."""

from __future__ import annotations

import random
import string

import pytest

from cyclegan.addresses import without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:pw@host:5432/runs", "postgresql://me:***@host:5432/runs"),
        ("postgresql://me@host/runs", "postgresql://me@host/runs"),
        ("mysql+pymysql://me:p/w@host/runs", "mysql+pymysql://me:***@host/runs"),
        ("redis://:pw@host", "redis://:***@host"),
        ("http://me:p@w@host:5000", "http://me:***@host:5000"),
        ("http://host:5000/a?token=pw&x=1", "http://host:5000/a?token=***&x=1"),
        (
            "postgresql://host/runs?user=me&PASSWORD=pw",
            "postgresql://host/runs?user=me&PASSWORD=***",
        ),
        ("postgresql://host/r?passwd=a@b&x=1", "postgresql://host/r?passwd=***&x=1"),
        ("postgresql://me:pw@host/r?password=pw", "postgresql://me:***@host/r?password=***"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://me:pw@[::1", "http://me:***@[::1"),
        ("me:pw@host", "me:***@host"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("/a/b.db", "/a/b.db"),
        ("", ""),
    ],
)
def test_the_rest_of_an_address_stays(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
    assert without_secrets(shown) == shown


def test_no_password_is_shown_whatever_is_in_it() -> None:
    draw = random.Random(0)  # noqa: S311
    letters = string.ascii_letters + string.digits + "/?#@:%&=;+ [].~!\\\"'äß漢"
    for _ in range(20_000):
        secret = "".join(draw.choices(letters, k=draw.randint(1, 12)))
        marked = f"{secret}SECRET"
        user, host = draw.choice(["", "me", "a.b", "ä"]), draw.choice(["host", "10.0.0.1", "[::1]"])
        port = draw.choice(["", ":5432", ":x"])
        scheme = draw.choice(["postgresql://", "mysql+pymysql://", "http://", "redis://", ""])
        login = f"{scheme}{user}:{marked}@{host}{port}/runs"
        assert "SECRET" not in without_secrets(login), login
        word = draw.choice(["password", "passwd", "token", "Password"])
        value = marked.replace("&", "")
        query = f"{scheme}{host}{port}/runs?a=b&{word}={value}&c=d"
        assert "SECRET" not in without_secrets(query), query
        assert "SECRET" not in without_secrets(f"{login}?{word}={value}"), login
