"""No address that is shown or stored holds a secret, whatever its form."""

from __future__ import annotations

import random
import string
from pathlib import Path
from urllib.parse import quote

import pytest

from cyclegan.addresses import text_without_secrets, without_secrets
from cyclegan.errors import UsageError
from search.study.storage import storage_for


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p/w@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@w/x?y@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:pw@host/db", "postgresql://:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("https://token@host/mlflow", "https://***@host/mlflow"),
        ("mysql+pymysql://a:b@h/d?ssl_key=f", "mysql+pymysql://a:***@h/d?ssl_key=***"),
        ("postgresql://h/db?user=me&password=X", "postgresql://h/db?user=me&password=***"),
        ("postgresql://h/db?p%61ssword=X;sslPassword=Y", None),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sqlite:///studies/local/s.db", "sqlite:///studies/local/s.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("studies.db", "studies.db"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str | None) -> None:
    found = without_secrets(address)
    assert shown is None or found == shown
    assert "X" not in found
    assert "Y" not in found


HIDE_ME = "Qzx7"
SCHEMES = ("postgresql", "postgresql+psycopg", "mysql", "oracle", "http", "https", "redis", "ftp")
PARAMETERS = ("password", "PASSWORD", "sslpassword", "passwd", "pwd", "access_token", "api_key")


def test_no_address_of_random_form_shows_its_secret(tmp_path: Path) -> None:
    draw = random.Random(0)  # noqa: S311
    for number in range(2_000):
        noise = "".join(draw.choices("/@:?&=#%;+ab1", k=draw.randrange(5)))
        password = noise[: len(noise) // 2] + HIDE_ME + noise[len(noise) // 2 :]
        if draw.random() < 0.3:
            password = quote(password, safe="")
        scheme, end = draw.choice(SCHEMES), draw.choice(["", "/db", "/db?user=me", ":5432/db"])
        if draw.random() < 0.5:
            address = f"{scheme}://{draw.choice(['me', ''])}:{password}@host{end}"
        else:
            join = "&" if "?" in end else "?"
            address = f"{scheme}://host{end}{join}{draw.choice(PARAMETERS)}={quote(password)}"
        assert HIDE_ME not in without_secrets(address), address
        assert HIDE_ME not in text_without_secrets(f"no answer from {address} today"), address
        folder = tmp_path / str(number)
        try:
            storage = storage_for(folder, address)
        except UsageError as error:
            assert HIDE_ME not in str(error), address
            continue
        assert HIDE_ME not in storage.shown, address
        assert HIDE_ME not in repr(storage), address
        assert HIDE_ME not in str(storage.away(OSError(f"{storage.secret} is away"))), address
        storage.remember()
        stored = folder / "storage.json"
        assert HIDE_ME not in stored.read_text(), address
        assert stored.stat().st_mode & 0o777 == 0o600


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
