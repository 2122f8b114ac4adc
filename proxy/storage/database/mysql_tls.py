"""TLS to MySQL and MariaDB, by options of the URL."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from functools import cache
from typing import Any

from sqlalchemy import URL

from proxy.domain.errors import ConfigurationError

_SWITCHES = {"true": True, "1": True, "false": False, "0": False}
_QUIT = b"\x01\0\0\0\x01"
"""The packet COM_QUIT: its length in three bytes, its number, the command."""
_CLOSE_S = 1.0
_OPTIONS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")


def split_tls(url: URL, *, setting: str) -> tuple[URL, ssl.SSLContext | None]:
    """Return a URL without its options for TLS, and the context that they describe, or None.

    ``ssl=true`` verifies the server by the certificates of this machine, ``ssl_ca`` by those in a
    file. ``ssl_cert`` and ``ssl_key`` are the client's own. Blocking.

    Raises:
        ConfigurationError: an option is not valid, or a file cannot be used.
    """
    options = {key: url.query[key] for key in _OPTIONS if key in url.query}
    rest = url.difference_update_query(_OPTIONS)
    if repeated := [key for key, value in options.items() if not isinstance(value, str)]:
        raise ConfigurationError([f"{setting}: {repeated[0]} occurs more than once"])
    texts = {key: str(value) for key, value in options.items()}
    wanted = _switch(texts.pop("ssl", None), "ssl", setting, default=bool(texts))
    check_hostname = _switch(
        texts.pop("ssl_check_hostname", None), "ssl_check_hostname", setting, default=True
    )
    if not wanted:
        if options and texts:
            raise ConfigurationError([f"{setting}: ssl=false contradicts {', '.join(texts)}"])
        return rest, None
    try:
        context = ssl.create_default_context(cafile=texts.get("ssl_ca"))
        if certificate := texts.get("ssl_cert"):
            # Without a password: a prompt would block the server.
            context.load_cert_chain(certificate, texts.get("ssl_key"), password="")
        elif "ssl_key" in texts:
            raise ConfigurationError([f"{setting}: ssl_key needs ssl_cert"])
    except OSError as error:
        # Also ssl.SSLError, which is an OSError. Neither error names the file.
        files = ", ".join(f"{key}={value}" for key, value in texts.items())
        raise ConfigurationError([f"{setting}: {files}: {error.strerror or error}"]) from error
    context.check_hostname = check_hostname
    return rest, context


def _switch(text: str | None, name: str, setting: str, *, default: bool) -> bool:
    if text is None:
        return default
    if text not in _SWITCHES:
        raise ConfigurationError([f"{setting}: {name} must be true or false"])
    return _SWITCHES[text]


async def connect_tls(**arguments: Any) -> Any:
    """Connect as ``aiomysql.connect`` does, but fail if the server does not support TLS."""
    connection = _connection_class()(**arguments)
    # What aiomysql.connect calls; it has no parameter for the class.
    await connection._connect()  # noqa: SLF001
    return connection


@cache
def _connection_class() -> type[Any]:
    # Imported by the first connection: with SQLite the driver would take 8 MB for nothing.
    from aiomysql.connection import Connection  # noqa: PLC0415
    from pymysql.constants import CLIENT, CR  # noqa: PLC0415
    from pymysql.err import OperationalError  # noqa: PLC0415

    # aiomysql has no types.
    class TlsConnection(Connection):  # type: ignore[misc]
        async def _request_authentication(self) -> None:
            # If the server does not support TLS, the driver itself connects without, and others
            # could read the password.
            if not self.server_capabilities & CLIENT.SSL:
                raise OperationalError(
                    CR.CR_SSL_CONNECTION_ERROR, "the server does not support TLS"
                )
            await super()._request_authentication()

        def close(self) -> None:
            # Closing TLS takes a message from each side. `close` cannot wait for them, and an event
            # loop that is closed before they arrive raises an error (uvloop: EBUSY).
            if self._writer is not None:
                self._writer.transport.abort()
            super().close()

        async def ensure_closed(self) -> None:
            writer = self._writer
            if writer is None:
                return
            writer.write(_QUIT)
            # The server closes the connection when it has read this.
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._reader.read()
            self.close()

    return TlsConnection
