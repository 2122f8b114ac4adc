"""Files of our own: the page and the web component, read once at start and served from memory."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType

from aiohttp import web

from proxy.domain.outcome import Outcome
from proxy.web.conditional import matches
from proxy.web.headers import Header
from proxy.web.responses import BufferedResponse, whole

STATIC = Path(__file__).with_name("static")

_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml; charset=utf-8",
    }
)
_GZIP = re.compile(r"(?:^|,)\s*(?:x-)?gzip\s*(?:;\s*q=(?:1(?:\.0*)?|0?\.0*[1-9][0-9]*)\s*)?(?:,|$)")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it goes out, plain and packed, each with an ETag of its own."""

    media_type: str
    plain: bytes
    packed: bytes

    @classmethod
    def read(cls, path: Path) -> StaticFile:
        """Read it; equal bytes have equal ETags on every node."""
        body = path.read_bytes()
        return cls(_TYPES[path.suffix], body, gzip.compress(body, mtime=0))

    def answer(
        self, request: web.Request, headers: Sequence[Header], *, route: str
    ) -> BufferedResponse:
        """The answer to GET or HEAD: 200 or 304, packed where the client unpacks."""
        packed = _GZIP.search(request.headers.get("Accept-Encoding", "").lower()) is not None
        body = self.packed if packed else self.plain
        etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
        lines = [("ETag", etag), ("Vary", "Accept-Encoding"), *headers]
        outcome = Outcome(route)
        if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
            return whole(HTTPStatus.NOT_MODIFIED, lines, b"", outcome=outcome)
        encoding = [("Content-Encoding", "gzip")] if packed else []
        lines = [("Content-Type", self.media_type), *encoding, *lines]
        return whole(HTTPStatus.OK, lines, body, outcome=outcome)


def read_files(folder: Path = STATIC) -> dict[str, StaticFile]:
    """All files of a folder that have a type, by their names. Blocking: to be called at start."""
    return {
        path.name: StaticFile.read(path)
        for path in sorted(folder.iterdir())
        if path.suffix in _TYPES and path.is_file()
    }
