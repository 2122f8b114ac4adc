"""Downloading: bytes into a file, taken up where they broke off (RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

import aiohttp

from proxy.domain.errors import MainApiUnavailable, SourceTooLarge, SourceUnavailable
from proxy.ingest.main_api.responses import check_status
from proxy.runtime.daemon_thread import aside

_CHUNK = 256 * 1024
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_PAGES = frozenset(("text/html", "application/xhtml+xml"))
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)", re.ASCII)


class Download:
    """A file that comes in, over one connection or several."""

    def __init__(self, target: BinaryIO, *, max_bytes: int) -> None:
        """``target`` is empty, open for writing, and stays the caller's."""
        self._target = target
        self._max_bytes = max_bytes
        self._validator = ""
        self.received = 0

    @property
    def resumable(self) -> bool:
        """Whether the file told by what it is known again."""
        return bool(self._validator)

    def headers(self) -> Mapping[str, str]:
        """What to ask with: for the rest, unless the file is another by now."""
        if not self.received or not self._validator:
            return {}
        return {"Range": f"bytes={self.received}-", "If-Range": self._validator}

    async def take(self, response: aiohttp.ClientResponse) -> None:
        """Write what comes, behind what is there or from the beginning, as the answer says.

        Raises:
            SourceTooLarge: it is, or says that it will be, longer than is allowed.
            SourceUnavailable: it cannot be written.
            MainApiUnavailable, MainApiRefused: as the status says.
        """
        await self._place(response)
        if self.received + (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        async for chunk in response.content.iter_chunked(_CHUNK):
            if self.received + len(chunk) > self._max_bytes:
                raise self._too_large()
            await self._write(chunk)
        await self._flush()

    async def _place(self, response: aiohttp.ClientResponse) -> None:
        if response.status == _UNSATISFIABLE and self.received:
            await self._restart()
            raise MainApiUnavailable("the upload is another file than before")
        check_status(response.status, response.headers)
        if response.status == _PARTIAL and self._continues(response):
            return
        if response.status != _OK:
            await self._restart()
            raise MainApiUnavailable("the main API gave another part of the upload than asked for")
        if response.content_type in _PAGES:
            # A proxy's page that all is being mended, with a 200: no upload is one.
            raise MainApiUnavailable("the main API answered with a page in place of the upload")
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

    async def _flush(self) -> None:
        await _in_thread(self._target.flush)

    def _too_large(self) -> SourceTooLarge:
        return SourceTooLarge(f"the upload is larger than {self._max_bytes} bytes")


def _write_all(target: BinaryIO, chunk: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[target.write(rest) :]


async def _in_thread(work: Callable[[], object]) -> None:
    """Write in a thread; one that is cancelled meanwhile waits for the piece under way."""
    try:
        await aside(work)
    except OSError as error:
        raise SourceUnavailable(f"the upload cannot be kept: {error.strerror}") from error


def _validator(response: aiohttp.ClientResponse) -> str:
    """What If-Range may hold: a strong ETag, or a date; empty where a part could not be asked."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")
