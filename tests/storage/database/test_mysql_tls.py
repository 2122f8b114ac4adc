"""TLS to a real MariaDB, with certificates of a private authority."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import uvloop
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from proxy.domain.errors import ConfigurationError
from proxy.settings import DatabaseSettings
from proxy.storage.database.driver_errors import driver_error
from proxy.storage.database.engine import open_engine
from proxy.storage.database.mysql_tls import split_tls
from tests.support.mariadb import MariaDB, private_mariadb

_SETTINGS = DatabaseSettings(connect_timeout_s=60, query_timeout_s=60)


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """A folder with two authorities, and a certificate of the first one for 127.0.0.1."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new = ("req", "-newkey", "rsa:2048", "-nodes")
        for authority in ("ca", "other"):
            files = ("-keyout", f"{authority}.key", "-out", f"{authority}.pem")
            # Python 3.13 and later refuse an authority without this.
            usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
            subject = ("-subj", f"/CN={authority}")
            _openssl(folder, *new, *files, "-x509", "-days", "30", *subject, *usage)
        names = "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid"
        (folder / "names").write_text(names)
        _openssl(folder, *new, "-keyout", "db.key", "-out", "db.csr", "-subj", "/CN=db")
        signed = ("x509", "-req", "-in", "db.csr", "-CA", "ca.pem", "-CAkey", "ca.key")
        _openssl(folder, *signed, "-CAcreateserial", "-out", "db.pem", "-extfile", "names")
        yield folder


@pytest.fixture(scope="module")
def encrypted(certificates: Path) -> Iterator[MariaDB]:
    """A server that supports TLS."""
    files = {"ca": "ca.pem", "cert": "db.pem", "key": "db.key"}
    options = [f"--ssl-{name}={certificates / file}" for name, file in files.items()]
    with private_mariadb(*options) as server:
        yield server


async def cipher(url: str) -> str:
    """Return the cipher of a connection, empty without TLS."""
    engine = open_engine(url, _SETTINGS)
    try:
        async with engine.connect() as connection:
            (row,) = await connection.execute(sa.text("SHOW STATUS LIKE 'Ssl_cipher'"))
            return str(row[1])
    finally:
        await engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_is_encrypted_by_the_options_of_the_url(
    run: object, encrypted: MariaDB, certificates: Path
) -> None:
    assert callable(run)
    url = encrypted.url(encrypted.create_database())
    assert run(cipher(url)) == ""
    for options in (
        f"ssl_ca={certificates}/ca.pem",
        f"ssl=true&ssl_ca={certificates}/ca.pem",
        f"ssl_ca={certificates}/ca.pem&ssl_cert={certificates}/db.pem&ssl_key={certificates}/db.key",
    ):
        assert run(cipher(f"{url}?{options}")).startswith("TLS_"), options


@pytest.mark.slow
async def test_a_certificate_of_another_authority_or_name_is_refused(
    encrypted: MariaDB, certificates: Path
) -> None:
    url = encrypted.url(encrypted.create_database())
    named = url.replace("127.0.0.1", "localhost")
    for refused in (
        f"{url}?ssl=true",
        f"{url}?ssl_ca={certificates}/other.pem",
        f"{named}?ssl_ca={certificates}/ca.pem",
    ):
        with pytest.raises(DBAPIError, match="Can't connect") as caught:
            await cipher(refused)
        assert "certificate" in str(driver_error(caught.value).__cause__), refused
    assert await cipher(f"{named}?ssl_ca={certificates}/ca.pem&ssl_check_hostname=false")


async def test_a_server_without_tls_is_refused(mariadb: MariaDB, certificates: Path) -> None:
    """The driver alone would connect without encryption."""
    url = mariadb.url(mariadb.create_database())
    with pytest.raises(DBAPIError, match="the server does not support TLS"):
        await cipher(f"{url}?ssl_ca={certificates}/ca.pem")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("ssl=yes", "database.url: ssl must be true or false"),
        ("ssl_ca=/absent", "database.url: ssl_ca=/absent: No such file or directory"),
        ("ssl=true&ssl_cert=/absent", "database.url: ssl_cert=/absent: No such file or directory"),
        ("ssl=true&ssl_key=/a", "database.url: ssl_key needs ssl_cert"),
        ("ssl=false&ssl_ca=/a", "database.url: ssl=false contradicts ssl_ca"),
        ("ssl_ca=/a&ssl_ca=/b", "database.url: ssl_ca occurs more than once"),
        ("ssl=true&ssl_check_hostname=2", "database.url: ssl_check_hostname must be true or false"),
    ],
)
def test_options_that_are_not_valid_are_named(options: str, fault: str) -> None:
    url = make_url(f"mysql+aiomysql://user:secret@db/media?{options}")
    with pytest.raises(ConfigurationError) as caught:
        split_tls(url, setting="database.url")
    assert caught.value.faults == (fault,)


def test_other_options_stay_and_without_options_there_is_no_tls() -> None:
    url = make_url("mysql+aiomysql://user@db/media?unix_socket=/run/a.sock&ssl=false")
    rest, context = split_tls(url, setting="database.url")
    assert rest.query == {"unix_socket": "/run/a.sock"}
    assert context is None
