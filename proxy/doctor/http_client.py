"""HTTP requests of the doctor: responses are returned as they are on the wire."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.domain.errors import NoAnswer

_AGENT = "smartserve-doctor"
_ENCODINGS = "gzip, deflate, br, zstd"
"""As browsers send it, so that a proxy that compresses images is detected."""


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """A response; its body is not decompressed."""

    status: int
    headers: CIMultiDict[str] | CIMultiDictProxy[str]
    body: bytes
    seconds: float
    """From sending the request to the last byte of the response."""

    def header(self, name: str) -> str:
        """Return the lines of a header joined by commas (RFC 9110, 5.2); empty if it is absent."""
        return ", ".join(self.headers.getall(name, ()))

    @property
    def media_type(self) -> str:
        """The media type in lower case, without its parameters."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    def json(self) -> Mapping[str, object]:
        """Return the JSON object in the body; empty if it is something else."""
        with suppress(ValueError):
            found = json.loads(self.body)
            return found if isinstance(found, dict) else {}
        return {}


class HttpProbe:
    """Sends requests to one server; ``async with`` closes its connections.

    Every method raises NoAnswer if there is no response within ``timeout_s``.
    """

    def __init__(self, base: str, *, timeout_s: float) -> None:
        """Connections are opened by the first request to ``base``."""
        self.base = base.rstrip("/")
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Create the session, which connects later."""
        self._session = aiohttp.ClientSession(
            # No cookies, proxies or decompression: responses must be unchanged.
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": _ENCODINGS},
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def request(
        self, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> ProbeResponse:
        """Send a request without a body; follow no redirect, and leave ``target`` as it is."""
        if self._session is None:
            raise NoAnswer("the connection is closed")
        started = time.monotonic()
        try:
            # encoded=True: yarl would normalise the query, which is part of cache keys.
            url = URL(f"{self.base}{target}", encoded=True)
            async with self._session.request(
                method, url, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                seconds = time.monotonic() - started
                return ProbeResponse(response.status, response.headers, body, seconds)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoAnswer(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        """Return which part of the connection failed."""
        # The order matters: DNS and TLS errors are also OSErrors.
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "the host name has no address"
        if isinstance(error, aiohttp.InvalidURL):
            return "the address is not a URL"
        if isinstance(error, aiohttp.ClientSSLError):
            return f"TLS: {error}"
        # aiohttp wraps the error of the socket.
        system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(system, OSError):
            # Event loops put words of their own around the system's text.
            number = system.errno or 0
            return os.strerror(number) if number > 0 else system.strerror or str(system)
        return f"{type(error).__name__}: {error}".rstrip(": ")
