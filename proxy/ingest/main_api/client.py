"""`HttpMainApi`: the main API of another server, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson

from proxy.domain.errors import MainApiRefused, MainApiUnavailable, UploadGone
from proxy.domain.upload import PendingPage
from proxy.domain.urls import tempfile_url
from proxy.ingest.main_api import DownloadedFile
from proxy.ingest.main_api.download import Download
from proxy.ingest.main_api.responses import check_status, read_json, read_uploads
from proxy.runtime.http_client import open_session, read_bounded
from proxy.runtime.tempfiles import scratch_file

_MAX_LIST_BYTES = 64 * 1024 * 1024
"""About 200,000 uploads."""
_MAX_ANSWER_BYTES = 64 * 1024
_TOTAL_FACTOR = 20
"""Total time of a download, in units of its read time-out: ends connections that only trickle."""
_MAX_CONNECTIONS = 5
"""Connections per download. Each must bring at least one byte, or the download fails."""
_CONFIRMATIONS = 3
"""A proxy may send a truncated file with its own length. With the default back-off the fourth
download is seven minutes after the first."""


@dataclass(slots=True, kw_only=True)
class HttpMainApi:
    """A `proxy.ingest.main_api.MainApi` over HTTP; ``async with`` closes its connections."""

    base: str
    """Its address, without a trailing slash."""
    key: str = field(repr=False)
    timeout_s: float
    """Limits a whole answer, or the silence during a download."""
    max_bytes: int
    """Size limit of a download."""
    storage_root: Path
    """Downloads go to nameless files below it, so that they can become originals without a copy."""
    confirmations: int = _CONFIRMATIONS
    _session: aiohttp.ClientSession | None = field(default=None, init=False)

    async def __aenter__(self) -> Self:
        """Open the session; connections are made on demand."""
        headers = {"Authorization": f"Bearer {self.key}", "User-Agent": "smartserve-ingest"}
        self._session = open_session(headers)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def pending(self, after: int = 0) -> PendingPage:
        """Return the uploads with ids above ``after`` that no worker has completed."""
        # The first page without a query: another main API may reject parameters it does not know.
        path = "/api/media/pending/all" + (f"?after={after}" if after else "")
        try:
            body = await self._fetch("GET", path, max_bytes=_MAX_LIST_BYTES)
        except UploadGone as error:
            # 404 here does not concern one upload: the whole API is missing at this address.
            raise MainApiRefused(
                "There is no main API at ingest.main_api_url: it answered 404."
            ) from error
        # In a thread: parsing the longest list takes seconds.
        return await asyncio.to_thread(lambda: read_uploads(read_json(body)))

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Report the medium of an upload."""
        body = orjson.dumps(payload)
        read_json(await self._fetch("POST", f"/api/media/complete/{main_api_id}", body=body))

    async def cleanup(self, main_api_id: int) -> None:
        """Report that an upload failed permanently."""
        read_json(await self._fetch("DELETE", f"/api/media/cleanup/{main_api_id}"))

    @asynccontextmanager
    async def download(self, image_path: str) -> AsyncIterator[DownloadedFile]:
        """Download a temporary file and yield it.

        A broken connection is resumed with a range request if the file is still the same.
        """
        url = tempfile_url(self.base, image_path)
        if url is None:
            raise MainApiRefused(
                "The main API returned an unsafe path for the temporary file of the upload. It must"
                " be absolute and without empty or dot segments."
            )
        async with scratch_file(self.storage_root) as file:
            download = Download(file.fileno(), max_bytes=self.max_bytes)
            # Each pass is one connection; the number of passes is limited in `_received`.
            while not await self._received(download, url):
                pass
            yield DownloadedFile(file.fileno(), download.doubt)

    async def _received(self, download: Download, url: str) -> bool:
        """Receive over one connection, and return whether the file is complete."""
        before = download.received
        timeout = aiohttp.ClientTimeout(
            total=_TOTAL_FACTOR * self.timeout_s,
            sock_connect=self.timeout_s,
            sock_read=self.timeout_s,
        )
        # Byte positions of a compressed body would not be those of the file.
        headers = {"Accept-Encoding": "identity", **download.headers()}
        try:
            async with self._request("GET", url, timeout, headers=headers) as response:
                await download.receive(response)
        except MainApiUnavailable:
            # A connection without progress would be repeated for ever; without a validator the rest
            # could belong to another version of the file.
            last = download.connections >= _MAX_CONNECTIONS
            if last or download.received <= before or not download.validator:
                raise
            return False
        return True

    async def _fetch(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        max_bytes: int = _MAX_ANSWER_BYTES,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self.base}{path}"
        async with self._request(method, url, timeout, headers=headers, body=body) as response:
            check_status(response.status, response.headers)
            answer = await read_bounded(response, max_bytes)
        if answer is None:
            raise MainApiRefused(f"The answer of the main API exceeds {max_bytes} bytes.")
        return answer

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own type, with several limits
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and translate every error of aiohttp. Redirects are not followed."""
        # Not an assertion: a step may still run while the worker closes.
        if self._session is None:
            raise MainApiUnavailable("The connection to the main API is closed.")
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                yield response
        except TimeoutError as error:
            raise MainApiUnavailable("The main API did not answer in time.") from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise MainApiRefused("ingest.main_api_url is not a valid URL.") from error
        except aiohttp.ClientError as error:
            # The message names the host and the cause: DNS, TLS, refused, truncated.
            raise MainApiUnavailable(f"The request to the main API failed: {error}.") from error
