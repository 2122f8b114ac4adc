"""`HttpMainApi`: the main API over HTTP; errors are translated here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, Self

import aiohttp
import orjson

from proxy.domain.errors import MainApiRefused, MainApiUnavailable, UploadGone
from proxy.domain.ingest_item import Upload
from proxy.domain.urls import tempfile_url
from proxy.ingest.main_api.download import Download
from proxy.ingest.main_api.responses import check_status, check_success, read_json, read_uploads

_MAX_LIST = 64 * 1024 * 1024
"""Bytes of a list: some 200,000 uploads."""
_MAX_ANSWER = 64 * 1024
_CHUNK = 256 * 1024
_WHOLE = 20
"""A download may take so many times what may pass without a byte: who drips is cut off."""
_RESUMES = 5
"""Times that a download is taken up again; each has to have brought something."""


class HttpMainApi:
    """Implements `proxy.ingest.main_api.MainApi`; ``async with`` closes its connections."""

    def __init__(self, base: str, key: str, *, timeout_s: float, max_bytes: int) -> None:
        """``timeout_s`` bounds an answer, and a download's time without a byte."""
        self._base = base.rstrip("/")
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "smartserve-ingest"}
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Connects nothing yet."""
        self._opened = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, headers=self._headers
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.close()

    async def pending(self) -> Sequence[Upload]:
        """All uploads that wait for a worker."""
        try:
            answer = await self._ask("GET", "/api/media/pending/all", max_bytes=_MAX_LIST)
        except UploadGone as error:
            told = "there is no main API at ingest.main_api_url: it answered 404"
            raise MainApiRefused(told) from error
        return await asyncio.to_thread(lambda: read_uploads(read_json(answer)))

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Tell that a medium is there."""
        body = orjson.dumps(payload)
        answer = await self._ask("POST", f"/api/media/complete/{main_api_id}", body=body)
        check_success(read_json(answer))

    async def cleanup(self, main_api_id: int) -> None:
        """Tell that there will be no medium."""
        answer = await self._ask("DELETE", f"/api/media/cleanup/{main_api_id}")
        check_success(read_json(answer))

    async def download(self, image_path: str, target: BinaryIO) -> int:
        """Write a temporary file into an empty one of ours; gives its bytes.

        A connection that breaks is taken up where it broke, if the file is still the same.
        """
        download = Download(target, max_bytes=self._max_bytes)
        address = tempfile_url(self._base, image_path)
        if address is None:
            raise MainApiRefused(
                "The main API returned an unsafe path for the temporary file of the upload. It must"
                " be absolute and without empty or dot segments."
            )
        timeout = aiohttp.ClientTimeout(
            total=_WHOLE * self._timeout_s,
            sock_connect=self._timeout_s,
            sock_read=self._timeout_s,
        )
        for left in reversed(range(_RESUMES)):
            before = download.received
            try:
                # What is compressed on the way cannot be taken up in the middle.
                headers = {"Accept-Encoding": "identity", **download.headers()}
                async with self._asked("GET", address, timeout, headers=headers) as response:
                    await download.take(response)
            except MainApiUnavailable:
                if not left or download.received <= before or not download.resumable:
                    raise
            else:
                return download.received
        raise AssertionError("unreachable: the last turn returns or raises")

    async def _ask(
        self, method: str, path: str, *, body: bytes | None = None, max_bytes: int = _MAX_ANSWER
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self._base}{path}"
        async with self._asked(method, url, timeout, headers=headers, body=body) as response:
            check_status(response.status, response.headers)
            return await _read(response, max_bytes)

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own, with its parts
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The edge: whatever aiohttp raises leaves as ours. No redirect is followed."""
        if self._opened is None:
            raise MainApiUnavailable("the connection to the main API is closed")
        try:
            async with self._opened.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                yield response
        except TimeoutError as error:
            raise MainApiUnavailable("the main API did not answer in time") from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise MainApiRefused("ingest.main_api_url is no address") from error
        except aiohttp.ClientError as error:
            raise MainApiUnavailable("the main API cannot be reached") from error


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The whole answer, which is bounded before it is held in memory."""
    raw = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        raw += chunk
        if len(raw) > max_bytes:
            raise MainApiRefused("the main API gave a larger answer than is read")
    return bytes(raw)
