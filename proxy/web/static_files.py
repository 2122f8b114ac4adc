"""The files of the page and the web component, read once at start and served from memory."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aiohttp import web

from proxy.domain.request import Outcome
from proxy.web.headers import Header
from proxy.web.json_response import with_etag
from proxy.web.responses import BufferedResponse

STATIC = Path(__file__).with_name("static")

_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml; charset=utf-8",
    }
)
# "gzip" with no weight or a weight above 0 (RFC 9110, 12.5.3).
_GZIP = re.compile(r"(?:^|,)\s*(?:x-)?gzip\s*(?:;\s*q=(?:1(?:\.0*)?|0?\.0*[1-9][0-9]*)\s*)?(?:,|$)")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file in memory, plain and compressed; each form has its own ETag."""

    media_type: str
    plain: bytes
    compressed: bytes

    def answer(
        self, request: web.Request, headers: Sequence[Header], *, route: str
    ) -> BufferedResponse:
        """Return 200 or 304, compressed if Accept-Encoding allows gzip."""
        gzipped = _GZIP.search(request.headers.get("Accept-Encoding", "").lower()) is not None
        content = [("Content-Type", self.media_type)]
        if gzipped:
            content.append(("Content-Encoding", "gzip"))
        body = self.compressed if gzipped else self.plain
        lines = [("Vary", "Accept-Encoding"), *headers]
        return with_etag(request, body, content, lines, outcome=Outcome(route))


def read_files(folder: Path = STATIC) -> dict[str, StaticFile]:
    """Return the folder's files of known types by name. Blocking: call it at start only."""
    contents = {
        path: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in _TYPES and path.is_file()
    }
    # Without mtime equal files compress to equal bytes, so nodes agree on the ETag.
    return {
        path.name: StaticFile(_TYPES[path.suffix], body, gzip.compress(body, mtime=0))
        for path, body in contents.items()
    }
