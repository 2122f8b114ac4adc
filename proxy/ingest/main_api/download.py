"""Downloads a file over one or more connections (range requests: RFC 9110, 14)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial

import aiohttp

from proxy.domain.errors import (
    MainApiUnavailable,
    SmartserveError,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.ingest.main_api.responses import check_status
from proxy.runtime.tempfiles import write_all
from proxy.runtime.thread_pool import in_daemon_thread

_CHUNK_BYTES = 256 * 1024
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_BINARY = frozenset(("application/octet-stream", "binary/octet-stream"))
_HTML = frozenset(("text/html", "application/xhtml+xml"))
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)", re.ASCII)


class Download:
    """State of one download: how much was received, and of which version of the file."""

    def __init__(self, target: int, *, max_bytes: int) -> None:
        """``target`` is the descriptor of an empty file, open for writing; the caller closes it."""
        self._target = target
        self._max_bytes = max_bytes
        self.validator = ""
        """Value for If-Range; empty if the server sent none."""
        self.received = 0
        self.connections = 0
        self.doubt = ""
        """Why the bytes may not be those of the file; see `DownloadedFile`."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that request the rest, if the file is unchanged."""
        if not self.received or not self.validator:
            return {}
        return {"Range": f"bytes={self.received}-", "If-Range": self.validator}

    async def receive(self, response: aiohttp.ClientResponse) -> None:
        """Write the body after what was received, or from the beginning, as the status demands.

        Raises:
            SourceTooLarge: the file exceeds the limit, or Content-Length announces that it will.
            SourceUnavailable: the file cannot be written.
            MainApiUnavailable, MainApiRefused: the status means so.
        """
        self.connections += 1
        await self._seek(response)
        self.doubt = _doubt(response)
        # Reject by Content-Length before anything is stored. The bytes are counted too, because the
        # header may be absent or wrong.
        if self.received + (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            if self.received + len(chunk) > self._max_bytes:
                raise self._too_large()
            await _in_thread(partial(write_all, self._target, chunk))
            self.received += len(chunk)

    async def _seek(self, response: aiohttp.ClientResponse) -> None:
        if response.status == _UNSATISFIABLE and self.received:
            # The file is now shorter than what was received of it.
            await self._restart()
            raise MainApiUnavailable("The file of the upload was replaced during the download.")
        check_status(response.status, response.headers)
        # The validator matched (RFC 9110, 13.1.5): the body continues what was received.
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status == _PARTIAL and match and 0 < self.received == int(match[1]):
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
        self.validator = _validator(response)

    async def _restart(self) -> None:
        if self.received:
            await _in_thread(partial(os.ftruncate, self._target, 0))
            os.lseek(self._target, 0, os.SEEK_SET)
        self.received, self.validator = 0, ""

    def _too_large(self) -> SmartserveError:
        detail = f"The upload is larger than {self._max_bytes} bytes."
        if self.doubt:
            return MainApiUnavailable(f"{self.doubt} {detail}")
        return SourceTooLarge(detail)


async def _in_thread(work: Callable[[], object]) -> None:
    try:
        await in_daemon_thread(work)
    except OSError as error:
        raise SourceUnavailable(f"The upload cannot be stored: {error.strerror}.") from error


def _doubt(response: aiohttp.ClientResponse) -> str:
    """Return why a body that is no sound image may not be the file of the upload.

    A body with a wrong type that is an image is accepted: some servers send text/plain for a
    suffix that they do not know.
    """
    kind = response.content_type
    if not kind.startswith("image/") and kind not in _BINARY:
        return f"The main API sent the upload as {kind[:100]}, which is no type of an image."
    # aiohttp raises if a body with a length, or with chunks, ends early. Without both, the end of
    # the connection is the end of the file.
    if response.content_length is None and "chunked" not in response.headers.get(
        "Transfer-Encoding", ""
    ):
        return "The main API sent the upload without its length, so it may be truncated."
    return ""


def _validator(response: aiohttp.ClientResponse) -> str:
    """Return the value for If-Range: a strong ETag or a date. Empty if the body is encoded."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return ""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")
