"""HTTP client of the media server, to which the main server of two machines forwards requests.

Its address is set by the operator, so it may be private. Its errors become those of this server.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from multidict import istr
from yarl import URL

from proxy.domain.errors import (
    CapacityError,
    ForwardLoop,
    MediaNotFound,
    MediaNotReady,
    MediaServerUnavailable,
    RangeNotSatisfiable,
    RequestError,
    SmartserveError,
    SourceTimeout,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.formats import TRAITS
from proxy.domain.request import Origin
from proxy.domain.urls import SERVE_ROUTE
from proxy.runtime.http_client import open_session, read_bounded, retry_after_s

FORWARDED = istr("Smartserve-Forwarded")
"""Header of requests that were forwarded. A server that forwards itself rejects them."""

OK, PARTIAL, NOT_MODIFIED = 200, 206, 304

_PASSED = (
    *("Content-Type", "Content-Disposition", "Content-Range", "ETag", "Last-Modified", "Vary"),
    *("Cache-Control", "Cache-Tag", "Surrogate-Key", "Smartserve-Background"),
)
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_IMAGES = frozenset(traits.media_type for traits in TRAITS.values())
_MAX_AGE = re.compile(r"(?:^|[, ])max-age=([0-9]{1,9})(?:,|\s|$)")
_UNSTORABLE = re.compile(r"(?:^|[, ])(?:no-store|no-cache|private)(?:[,= ]|$)")
_LENGTH = re.compile(r"bytes \*/([0-9]{1,18})", re.ASCII)
_CHUNK_BYTES = 64 * 1024
_MAX_ANALYSIS_BYTES = 1024 * 1024
_ERRORS: Mapping[int, tuple[type[SmartserveError], str]] = {
    400: (RequestError, "the media server does not accept these parameters"),
    404: (MediaNotFound, "the media server has no such image"),
    410: (MediaNotFound, "the media server has no such image any more"),
    415: (UnsupportedSource, "the media server does not support the type of the image"),
    422: (UndecodableSource, "the media server cannot decode the image"),
    429: (CapacityError, "the media server is busy"),
    503: (CapacityError, "the media server is busy"),
    504: (SourceTimeout, "the media server did not render the image in time"),
    508: (ForwardLoop, "the media server leads back to this server"),
}
"""By status of the media server: the error of this server that has the same meaning."""


@dataclass(frozen=True, slots=True)
class ForwardedResponse:
    """A response of the media server: its body is complete, or arrives in chunks."""

    status: int
    headers: Mapping[str, str]
    """Those that describe the image, by their usual names."""
    origin: Origin = Origin.RENDER
    received_at: float = 0.0
    """Seconds since 1970."""
    body: bytes | None = None
    chunks: AsyncGenerator[bytes, None] | None = None
    length: int | None = None
    stale: bool = False
    """Whether it is sent because the media server failed."""
    release: Callable[[], None] = field(default=lambda: None)

    @property
    def etag(self) -> str:
        """The entity tag; empty if there is none."""
        return self.headers.get("ETag", "")

    @property
    def max_age_s(self) -> int:
        """Seconds for which a shared cache may use it after it was received; 0 if it may not."""
        control = self.headers.get("Cache-Control", "")
        found = None if _UNSTORABLE.search(control) else _MAX_AGE.search(control)
        return int(found[1]) if found else 0


class MediaServer:
    """Requests images and analyses. `aclose` closes the connections."""

    def __init__(
        self,
        target: str,
        *,
        key: str,
        timeout_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``target`` is its address without a trailing slash, ``key`` that of its media API.

        ``timeout_s`` limits the connection and each pause; an image may have ``max_bytes``.
        """
        self.target = target
        self._key = key
        self._timeout = aiohttp.ClientTimeout(sock_connect=timeout_s, sock_read=timeout_s)
        self._max_bytes = max_bytes
        self._clock = clock
        # Byte positions of a compressed body would not be those of the image.
        self._session = open_session({FORWARDED: "1", "Accept-Encoding": "identity"})

    async def stream(self, method: str, path: str, headers: Mapping[str, str]) -> ForwardedResponse:
        """Return the response to a request for an image as soon as its head has arrived.

        The caller reads `ForwardedResponse.chunks`, then calls its ``release``.

        Raises:
            SmartserveError: the media server failed, or its response is an error.
        """
        response = await self._open(method, path, headers)
        try:
            head = self._head(response)
        except SmartserveError:
            response.close()
            raise
        # Of a response whose body was not read, `release` closes the connection.
        return replace(head, chunks=self._chunks(response), release=response.release)

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        received = 0
        with _translated():
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                received += len(chunk)
                if received > self._max_bytes:
                    raise MediaServerUnavailable("the image of the media server is too large")
                yield chunk

    async def analysis(self, media_id: int) -> Mapping[str, Any]:
        """Return the analysis of an image.

        Raises:
            MediaNotFound, MediaNotReady: there is none, or none yet.
            MediaServerUnavailable, CapacityError, SourceTimeout: it cannot be had now.
        """
        headers = {"Authorization": f"Bearer {self._key}"}
        async with self._request("GET", f"/api/media/analysis/{media_id}", headers) as response:
            with _translated():
                body = await read_bounded(response, _MAX_ANALYSIS_BYTES)
        found: Any = None
        with suppress(orjson.JSONDecodeError):
            found = orjson.loads(body or b"")
        analysis = found.get("analysis") if isinstance(found, dict) else None
        if not isinstance(analysis, dict):
            raise MediaServerUnavailable("the media server sent no analysis")
        return analysis

    async def check(self) -> None:
        """Request anything; raises as `stream` does."""
        async with self._request("HEAD", SERVE_ROUTE.format(name=0), {}):
            pass

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _head(self, response: aiohttp.ClientResponse) -> ForwardedResponse:
        """Return a response without its body.

        Raises:
            MediaServerUnavailable: it is no image.
        """
        status = response.status
        # A page for people, for example of a proxy, would run scripts in this origin.
        if status != NOT_MODIFIED and response.content_type not in _IMAGES:
            raise MediaServerUnavailable("the media server sent something else than an image")
        headers = {
            name: value
            for name in _PASSED
            if (value := response.headers.get(name)) and _PRINTABLE.fullmatch(value)
        }
        return ForwardedResponse(
            status, headers, received_at=self._clock(), length=response.content_length
        )

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._open(method, path, headers)
        try:
            yield response
        finally:
            # Back to the pool if the body was read; else the connection is closed.
            response.release()

    async def _open(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        # As it is: quoting the client's query again would change it.
        url = URL(f"{self.target}{path}", encoded=True)
        with _translated():
            response = await self._session.request(
                method, url, headers=headers, timeout=self._timeout, allow_redirects=False
            )
        if response.status in (OK, PARTIAL, NOT_MODIFIED):
            return response
        response.close()
        raise _error(response.status, response.headers)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of aiohttp as errors of the media server."""
    try:
        yield
    except TimeoutError as error:
        raise SourceTimeout("the media server did not answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise MediaServerUnavailable("the media server cannot be reached") from error


def _error(status: int, headers: Mapping[str, str]) -> SmartserveError:
    """Return the error of this server that a status of the media server means."""
    wait = retry_after_s(headers)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        length = _LENGTH.fullmatch(headers.get("Content-Range", ""))
        return RangeNotSatisfiable(int(length[1]) if length else 0)
    unknown = MediaServerUnavailable, f"the media server answered {status}"
    kind, detail = _ERRORS.get(status, unknown)
    if kind is MediaNotFound and wait is not None:
        return MediaNotReady("the image is still being processed", retry_after_s=wait)
    return kind(detail, retry_after_s=wait)
