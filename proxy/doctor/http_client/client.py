"""`AiohttpProbe`: a `HttpProbe` over real connections; errors are translated here."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.doctor.http_client import Headers, ProbeResponse
from proxy.domain.errors import NoAnswer

_AGENT = "smartserve-doctor"
_MAX_BYTES = 32 * 1024 * 1024
_CHUNK = 256 * 1024
_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r)")
_PACKINGS = "gzip, deflate, br, zstd"
"""What browsers send: a proxy that packs pictures is found out by it."""
_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "its name has no address"),
    (socket.gaierror, "its name has no address"),
    (aiohttp.InvalidURL, "is no address"),
)
"""For errors whose own text says less."""


class AiohttpProbe:
    """Implements `proxy.doctor.http_client.HttpProbe`; ``async with`` closes its connections."""

    def __init__(self, base: str, *, timeout_s: float) -> None:
        """``timeout_s`` bounds each answer."""
        self.base = base.rstrip("/")
        self._timeout_s = timeout_s
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Connects nothing yet."""
        self._opened = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": _PACKINGS},
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.close()

    async def ask(
        self, target: str, *, method: str = "GET", headers: Headers | None = None
    ) -> ProbeResponse:
        """The answer to a request without a body; the target goes out as it is."""
        if self._opened is None:
            raise NoAnswer("the connection is closed")
        began = time.monotonic()
        try:
            url = URL(f"{self.base}{target}", encoded=True)
            async with self._opened.request(
                method, url, headers=headers, allow_redirects=False
            ) as response:
                body = await _read(response)
                spent = time.monotonic() - began
                return ProbeResponse(response.status, _joined(response.headers), body, spent)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoAnswer(self._reason(error)) from error

    async def announce(self, target: str, *, method: str, byte_size: int) -> int:
        """The first status that a body of so many bytes meets, of which none is sent."""
        try:
            url = URL(f"{self.base}{target}", encoded=True)
            async with asyncio.timeout(self._timeout_s):
                return await _announced(url, method, byte_size)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            raise NoAnswer(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        """Why nothing came back, in words that say which part of the way failed."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        fixed = (text for kind, text in _WORDS if isinstance(error, kind))
        if text := next(fixed, None):
            return text
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
            return f"TLS: {error}"
        system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(system, OSError):
            return _system_text(system)
        return f"{type(error).__name__}: {error}".rstrip(": ")


def _system_text(error: OSError) -> str:
    """The system's own words; event loops put others around them."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, which is bounded before it is held in memory."""
    raw = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        raw += chunk
        if len(raw) > _MAX_BYTES:
            raise NoAnswer(f"gave more than {_MAX_BYTES} bytes")
    return bytes(raw)


def _joined(lines: CIMultiDictProxy[str]) -> Mapping[str, str]:
    """One value for each name; its lines joined as RFC 9110, 5.2 has it."""
    joined: CIMultiDict[str] = CIMultiDict()
    for name in dict.fromkeys(lines):
        joined[name] = ", ".join(lines.getall(name))
    return CIMultiDictProxy(joined)


async def _announced(url: URL, method: str, byte_size: int) -> int:
    """Send the head of a request that asks whether its body is wanted; read the status line."""
    context = ssl.create_default_context() if url.scheme == "https" else None
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    try:
        writer.write(_head(url, method, byte_size).encode("latin-1"))
        line = (await reader.readuntil(b"\r\n")).decode("latin-1")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    status = _STATUS.match(line)
    if status is None:
        raise ValueError("that was no HTTP")
    return int(status[1])


def _head(url: URL, method: str, byte_size: int) -> str:
    fields: dict[str, Any] = {
        "Host": url.raw_authority,
        "User-Agent": _AGENT,
        "Content-Type": "multipart/form-data; boundary=smartserve",
        "Content-Length": byte_size,
        "Expect": "100-continue",
        "Connection": "close",
    }
    lines = [
        f"{method} {url.raw_path_qs} HTTP/1.1",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return "\r\n".join([*lines, "", ""])
