"""The page at ``/`` and the web component that pages of any origin load from here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from aiohttp import web

from proxy.domain.formats import Format, explain
from proxy.domain.request import Outcome
from proxy.web.handlers.images import accept_header
from proxy.web.headers import NO_STORE, PRIVATE, SECURITY, Header
from proxy.web.json_response import cached_json
from proxy.web.responses import BufferedResponse, whole
from proxy.web.static_files import StaticFile

COMPONENT = "smart-image.js"

CSP = (
    "default-src 'none'; img-src 'self' data: blob:; script-src 'self'; style-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Of the page: no resources of other origins, no inline scripts or styles."""

_FILE: tuple[Header, ...] = (("Cache-Control", "no-cache"), *PRIVATE)
_PAGE: tuple[Header, ...] = (
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", CSP),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_COMPONENT: tuple[Header, ...] = (
    ("Cache-Control", "public, max-age=3600, stale-while-revalidate=86400"),
    *SECURITY,
)
_PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_MAX_ACCEPT = 2048
"""Characters of the Accept header that are returned, so that the response head stays small."""
_OUTCOME = Outcome("page")


@dataclass(frozen=True, slots=True)
class AcceptExplanation:
    """Which format an Accept header gets, and why."""

    accept: str
    chosen: Format
    formats: list[dict[str, Any]]
    why: str


@dataclass(frozen=True, slots=True)
class PageHandler:
    """Handles the page, its files, and its requests about the browser that shows it."""

    files: Mapping[str, StaticFile]
    order: Sequence[Format]
    """The server's preference among formats."""

    async def component(self, request: web.Request) -> BufferedResponse:
        """``/static/smart-image.js``: the web component, even if the page is disabled."""
        return self.files[COMPONENT].answer(request, _COMPONENT, route="component")

    async def index(self, request: web.Request) -> BufferedResponse:
        """``/``: the page itself."""
        return self.files["index.html"].answer(request, _PAGE, route="page")

    async def static(self, request: web.Request) -> BufferedResponse:
        """``/static/{name}``: scripts, styles and the icon of the page."""
        # A look-up by name in memory: no path of the client reaches the file system.
        file = self.files.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        return file.answer(request, _FILE, route="page")

    async def explain_accept(self, request: web.Request) -> BufferedResponse:
        """Explain which format the Accept header of this request gets."""
        explanation = explain(accept_header(request), self.order)
        return cached_json(
            request, explanation, lifetime=NO_STORE, outcome=_OUTCOME, security=PRIVATE
        )

    async def show_accept(self, request: web.Request) -> BufferedResponse:
        """Return a pixel, and the request's Accept header in Server-Timing.

        A script cannot read the headers of an image request or of its response. It can read
        Server-Timing in the browser's performance entry, so the value is returned there.
        """
        # Quoted, because the header is the client's text and could end the string.
        value = quote(accept_header(request)[:_MAX_ACCEPT], safe="")
        headers = [
            ("Content-Type", "image/gif"),
            ("Cache-Control", NO_STORE),
            ("Server-Timing", f'accept;desc="{value}"'),
            *PRIVATE,
        ]
        return whole(HTTPStatus.OK, headers, _PIXEL, outcome=_OUTCOME)
