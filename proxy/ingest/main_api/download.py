"""Downloads a file over one or more connections (range requests: RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

import aiohttp

from proxy.domain.errors import MainApiUnavailable, SourceTooLarge, SourceUnavailable
from proxy.ingest.main_api.responses import check_status
from proxy.runtime.thread_pool import in_daemon_thread

_CHUNK_BYTES = 256 * 1024
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_HTML = frozenset(("text/html", "application/xhtml+xml"))
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)", re.ASCII)


class Download:
    """State of one download: how much was received, and of which version of the file."""

    def __init__(self, target: BinaryIO, *, max_bytes: int) -> None:
        """``target`` is an empty file, open for writing; the caller closes it."""
        self._target = target
        self._max_bytes = max_bytes
        self._validator = ""
        self.received = 0
        self.connections = 0

    @property
    def resumable(self) -> bool:
        """Return whether the server sent a validator for If-Range."""
        return bool(self._validator)

    def headers(self) -> Mapping[str, str]:
        """Return the headers that request the rest, if the file is unchanged."""
        if not self.received or not self._validator:
            return {}
        return {"Range": f"bytes={self.received}-", "If-Range": self._validator}

    async def receive(self, response: aiohttp.ClientResponse) -> None:
        """Write the body after what was received, or from the beginning, as the status demands.

        Raises:
            SourceTooLarge: the file exceeds the limit, or Content-Length announces that it will.
            SourceUnavailable: the file cannot be written.
            MainApiUnavailable, MainApiRefused: the status means so.
        """
        self.connections += 1
        await self._seek(response)
        # Reject by Content-Length before anything is stored. The bytes are counted too, because the
        # header may be absent or wrong.
        if self.received + (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            if self.received + len(chunk) > self._max_bytes:
                raise self._too_large()
            await self._write(chunk)

    async def _seek(self, response: aiohttp.ClientResponse) -> None:
        if response.status == _UNSATISFIABLE and self.received:
            # The file is now shorter than what was received of it.
            await self._restart()
            raise MainApiUnavailable("The file of the upload was replaced during the download.")
        check_status(response.status, response.headers)
        # The validator matched (RFC 9110, 13.1.5): the body continues what was received.
        if response.status == _PARTIAL and self._continues(response):
            return
        if response.status != _OK:
            await self._restart()
            raise MainApiUnavailable("The main API sent another byte range than requested.")
        if response.content_type in _HTML:
            # A maintenance page of a proxy, sent with status 200. No upload is HTML, and its bytes
            # must not be rejected as a damaged image.
            raise MainApiUnavailable("The main API sent an HTML page instead of the upload.")
        # 200 to a range request: the file has changed, and is sent from its beginning.
        await self._restart()
        self._validator = _validator(response)

    def _continues(self, response: aiohttp.ClientResponse) -> bool:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return match is not None and self.received > 0 and int(match[1]) == self.received

    async def _restart(self) -> None:
        self.received, self._validator = 0, ""
        await _in_thread(lambda: (self._target.seek(0), self._target.truncate()))

    async def _write(self, chunk: bytes) -> None:
        await _in_thread(lambda: _write_all(self._target, chunk))
        self.received += len(chunk)

    def _too_large(self) -> SourceTooLarge:
        return SourceTooLarge(f"The upload is larger than {self._max_bytes} bytes.")


def _write_all(target: BinaryIO, chunk: bytes) -> None:
    # An unbuffered file may write less than it is given.
    rest = memoryview(chunk)
    while rest:
        rest = rest[target.write(rest) :]


async def _in_thread(work: Callable[[], object]) -> None:
    try:
        await in_daemon_thread(work)
    except OSError as error:
        raise SourceUnavailable(f"The upload cannot be stored: {error.strerror}.") from error


def _validator(response: aiohttp.ClientResponse) -> str:
    """Return the value for If-Range: a strong ETag or a date. Empty if the body is encoded."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")
