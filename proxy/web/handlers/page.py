"""The page at ``/``, and the web component that other pages load from here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import quote

from aiohttp import web

from proxy.domain.formats import Format
from proxy.domain.negotiation_explained import explain
from proxy.domain.outcome import Outcome
from proxy.web.cache_headers import NO_STORE
from proxy.web.handlers.images import accept_header
from proxy.web.handlers.info import answer_json
from proxy.web.headers import PRIVATE, SECURITY, Header
from proxy.web.responses import BufferedResponse, whole
from proxy.web.static_files import StaticFile

COMPONENT = "smart-image.js"

CSP = (
    "default-src 'none'; img-src 'self' data: blob:; script-src 'self'; style-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Of the page: nothing from elsewhere, and nothing written into it."""

_OWN: tuple[Header, ...] = (("Cache-Control", "no-cache"), *PRIVATE)
_PAGE: tuple[Header, ...] = (
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", CSP),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_SHARED: tuple[Header, ...] = (
    ("Cache-Control", "public, max-age=3600, stale-while-revalidate=86400"),
    *SECURITY,
)
_PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_LONGEST = 2048


class ComponentHandler:
    """Answers ``/static/smart-image.js``, which pages of any origin may load."""

    def __init__(self, file: StaticFile) -> None:
        self._file = file

    async def get(self, request: web.Request) -> BufferedResponse:
        """The web component."""
        return self._file.answer(request, _SHARED, route="component")


class PageHandler:
    """Answers the page, its files, and what it asks about the browser that shows it."""

    def __init__(self, files: dict[str, StaticFile], *, order: Sequence[Format]) -> None:
        """``files`` by their names; ``order`` is the server's preference among formats."""
        self._files = files
        self._order = order

    async def index(self, request: web.Request) -> BufferedResponse:
        """``/``: the page itself."""
        return self._files["index.html"].answer(request, _PAGE, route="page")

    async def static(self, request: web.Request) -> BufferedResponse:
        """``/static/{name}``: what the page is made of."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        return file.answer(request, _OWN, route="page")

    async def accept(self, request: web.Request) -> BufferedResponse:
        """``/api/page/accept``: which format the Accept header of this request gets, and why."""
        told = explain(accept_header(request), self._order)
        return answer_json(
            request, told, lifetime=NO_STORE, outcome=Outcome("page"), security=PRIVATE
        )

    async def pixel(self, request: web.Request) -> BufferedResponse:
        """``/api/page/accept.gif``: a pixel, to see with what Accept the browser asks for pictures.

        Scripts cannot read the headers of such a request, nor that of its answer; but they can
        read Server-Timing, in the entry that the browser keeps of each.
        """
        told = quote(accept_header(request)[:_LONGEST], safe="")
        headers = [
            ("Content-Type", "image/gif"),
            ("Cache-Control", NO_STORE),
            ("Server-Timing", f'accept;desc="{told}"'),
            *PRIVATE,
        ]
        return whole(HTTPStatus.OK, headers, _PIXEL, outcome=Outcome("page"))
