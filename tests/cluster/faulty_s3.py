"""An HTTP proxy in front of an S3 server that injects the faults of a storage that answers."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum, auto
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.support.waiting import pause_between_pieces

_PER_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_MAX_BODY = 1024**3
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code></Error>'


class S3Fault(Enum):
    """How the storage answers."""

    NONE = auto()
    SLOW = auto()
    """Every answer is late by `FaultyS3.delay_s`."""
    DENIED = auto()
    """403 AccessDenied."""
    NO_BUCKET = auto()
    """404 NoSuchBucket."""
    TRUNCATED = auto()
    """Objects have only their first half, in answers that are complete."""
    BROKEN = auto()
    """The connection breaks in the middle of an object."""


class FaultyS3:
    """Forwards requests unchanged, so that their signatures stay valid; ``async with`` listens."""

    def __init__(self, target: int, host: str) -> None:
        """``target`` is the port of the S3 server on this machine."""
        self.fault = S3Fault.NONE
        self.delay_s = 0.7
        self.injected = 0
        """Requests for objects that were answered with the fault."""
        self.endpoint = ""
        self._target = f"http://127.0.0.1:{target}"
        self._host = host

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        self._client = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        )
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        self.endpoint = f"http://{self._host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop."""
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fault = self.fault
        # Of a list, a half would be no valid answer, and nothing that a storage sends.
        whole = request.method != "GET" or "list-type" in request.query
        if fault in {S3Fault.TRUNCATED, S3Fault.BROKEN} and whole:
            fault = S3Fault.NONE
        if fault not in {S3Fault.NONE, S3Fault.TRUNCATED, S3Fault.BROKEN}:
            self.injected += not whole
        if fault is S3Fault.DENIED:
            return web.Response(status=403, text=_ERROR.format("AccessDenied"))
        if fault is S3Fault.NO_BUCKET:
            return web.Response(status=404, text=_ERROR.format("NoSuchBucket"))
        if fault is S3Fault.SLOW:
            await pause_between_pieces(self.delay_s)
        return await self._forwarded(request, fault)

    async def _forwarded(self, request: web.Request, fault: S3Fault) -> web.StreamResponse:
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        headers = [
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in _PER_CONNECTION
        ]
        try:
            async with self._client.request(
                request.method,
                url,
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
        except aiohttp.ClientError:
            # As if there were no proxy: the connection ends without an answer.
            _abort(request)
            return web.Response()
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _PER_CONNECTION:
                response.headers.add(name, value)
        # Only what exists can be truncated.
        found = answer.status == 200
        self.injected += found and fault in {S3Fault.TRUNCATED, S3Fault.BROKEN}
        if fault is S3Fault.TRUNCATED and found:
            content = content[: len(content) // 2]
        response.content_length = (
            answer.content_length if request.method == "HEAD" else len(content)
        )
        # The server may have closed the connection meanwhile, as its time limit has passed.
        with suppress(ConnectionError):
            await response.prepare(request)
            if fault is S3Fault.BROKEN and found:
                await response.write(content[: len(content) // 2])
                _abort(request)
            else:
                await response.write(content)
                await response.write_eof()
        return response


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
