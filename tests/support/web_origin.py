"""A web server with originals on 127.0.0.2, and one with secrets on 127.0.0.1 at the same port.

Tests allow the first address by `http.allow_private`. Names are those of `named`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from proxy.settings import HttpSettings

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
ALLOWED = f"{PUBLIC}/32"
SECRET = "SECRET"
_PORTS = 10
"""Ports to try."""


@dataclass
class WebOrigin:
    """What the server sends, and what it received."""

    port: int = 0
    body: bytes = b"x" * 200_000
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    received: list[web.BaseRequest] = field(default_factory=list)
    secrets: int = 0
    """Requests that reached the private address."""
    hold: asyncio.Event | None = None
    """Responses wait for it, and are what they were when the request arrived."""
    tls: ssl.SSLContext | None = None

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.received]

    def url(self, path: str = "/p.jpg", *, host: str = PUBLIC) -> str:
        return f"http://{host}:{self.port}{path}"

    def settings(self, **changed: Any) -> HttpSettings:
        values = {"hosts": [PUBLIC], "ports": [self.port], "allow_private": [ALLOWED]}
        return HttpSettings.model_validate({**values, "timeout_s": 60, **changed})

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is None or request.transport.get_extra_info("sockname")[0] == PRIVATE:
            self.secrets += 1
            return web.Response(text=SECRET)
        self.received.append(request)
        body, headers, status = self.body, self.headers, self.status
        if self.hold is not None:
            await self.hold.wait()
        special = {
            "/redirect": self._redirect,
            "/endless": self._endless,
            "/short": self._broken_off,
            "/unknown-length": self._until_closed,
        }
        if request.path in special:
            return await special[request.path](request)
        status = 404 if request.path == "/missing.jpg" else status
        etag = headers.get("ETag")
        if status == 200 and etag and request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(status=status, body=body, headers=headers)

    async def _redirect(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    async def _endless(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"y" * 65_536)

    async def _broken_off(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(2 * len(self.body))})
        await response.prepare(request)
        await response.write(self.body)
        assert request.transport is not None
        request.transport.close()
        return response

    async def _until_closed(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self.body)
        request.transport.close()
        return web.Response()


@asynccontextmanager
async def web_origin(**values: Any) -> AsyncIterator[WebOrigin]:
    """Run both servers."""
    origin = WebOrigin(**values)
    runner = web.ServerRunner(web.Server(origin.answer), shutdown_timeout=0)
    await runner.setup()
    try:
        origin.port = await _started(runner, origin.tls)
        yield origin
    finally:
        await runner.cleanup()


async def _started(runner: web.ServerRunner, tls: ssl.SSLContext | None) -> int:
    """Listen on both addresses; return the port, which is the same."""
    for _ in range(_PORTS):
        site = web.TCPSite(runner, PUBLIC, 0, ssl_context=tls)
        await site.start()
        port: int = runner.addresses[0][1]
        try:
            await web.TCPSite(runner, PRIVATE, port).start()
        except OSError:
            # Another test has this port at the other address.
            await site.stop()
        else:
            return port
    raise AssertionError("no port is free at both addresses")


Answers = Sequence[str] | Callable[[int], Sequence[str]]
"""Addresses of a name, or what returns those of the n-th look-up, from 1."""


def named(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Answers]) -> dict[str, int]:
    """Let the resolver give these answers; return the number of look-ups by name."""
    counts: dict[str, int] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        answers = names.get(host)
        if answers is None:
            return real(host, port, *arguments, **options)
        counts[host] = counts.get(host, 0) + 1
        found = answers(counts[host]) if callable(answers) else answers
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (one, port, 0, 0) if ":" in one else (one, port),
            )
            for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return counts
