"""The page at ``/``: its files, its requests, and trial uploads from this machine.

The web component, which pages of any origin load from here, is one of the files.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from proxy.domain.errors import BadParameter, PendingNotFound
from proxy.domain.formats import Format
from proxy.domain.negotiation import explain
from proxy.domain.request import Outcome, last_values
from proxy.domain.signature import OPEN_ACCESS, MediaAccess
from proxy.domain.upload import PendingStatus, media_id_of
from proxy.settings import TokenKey, UserSettings
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.upload_repository import UploadRepository
from proxy.web.auth import check_local, issue
from proxy.web.handlers.images import accept_header
from proxy.web.headers import NO_STORE, PRIVATE, SECURITY, Header
from proxy.web.json_response import cached_json, json_route, with_etag
from proxy.web.request_input import as_utf8, upload_id
from proxy.web.responses import BufferedResponse, whole

STATIC = Path(__file__).parents[1] / "static"
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
# Pages of any origin load the component: it needs CORS headers, and a lifetime.
_COMPONENT: tuple[Header, ...] = (
    ("Cache-Control", "public, max-age=3600, stale-while-revalidate=86400"),
    *SECURITY,
)
_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
# "gzip" with no weight or a weight above 0 (RFC 9110, 12.5.3).
_GZIP = re.compile(r"(?:^|,)\s*(?:x-)?gzip\s*(?:;\s*q=(?:1(?:\.0*)?|0?\.0*[1-9][0-9]*)\s*)?(?:,|$)")
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_MAX_ACCEPT = 2048
"""Characters of the Accept header that are returned, so that the response head stays small."""
_OUTCOME = Outcome("page")
_USER = 1
"""Uploads from the page belong to this user, as the samples do."""
_TTL_S = 900


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file in memory, plain and compressed."""

    media_type: str
    plain: bytes
    compressed: bytes

    def answer(
        self, request: web.Request, headers: Sequence[Header], *, route: str
    ) -> BufferedResponse:
        """Return 200 or 304, compressed if Accept-Encoding allows gzip."""
        body, content = self.plain, [("Content-Type", self.media_type)]
        if _GZIP.search(request.headers.get("Accept-Encoding", "").lower()):
            body = self.compressed
            content.append(("Content-Encoding", "gzip"))
        # Each form has its own ETag: they are different bytes (RFC 9110, 8.8.3.3).
        lines = [("Vary", "Accept-Encoding"), *headers]
        return with_etag(request, body, content, lines, outcome=Outcome(route))


def _read_files() -> dict[str, StaticFile]:
    """Return the page's files by name. Blocking: called at start only."""
    files: dict[str, StaticFile] = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in _TYPES:
            body = path.read_bytes()
            # Without mtime equal files compress to equal bytes, so nodes agree on the ETag.
            files[path.name] = StaticFile(_TYPES[path.suffix], body, gzip.compress(body, mtime=0))
    return files


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

    order: Sequence[Format]
    """The server's preference among formats."""
    client_hints: bool = False
    """Whether the page requests ECT, which browsers send only after a page of the origin did."""
    files: Mapping[str, StaticFile] = field(default_factory=_read_files)

    async def component(self, request: web.Request) -> BufferedResponse:
        """``/static/smart-image.js``: the web component, even if the page is disabled."""
        return self.files[COMPONENT].answer(request, _COMPONENT, route="component")

    async def index(self, request: web.Request) -> BufferedResponse:
        """``/``: the page itself."""
        headers = (*_PAGE, ("Accept-CH", "ECT")) if self.client_hints else _PAGE
        return self.files["index.html"].answer(request, headers, route="page")

    async def static(self, request: web.Request) -> BufferedResponse:
        """``/static/{name}``: scripts, styles and the icon of the page."""
        # A look-up by name in memory: no path of the client reaches the file system.
        file = self.files.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        return file.answer(request, _FILE, route="page")

    @json_route("page")
    async def explain_accept(self, request: web.Request) -> BufferedResponse:
        """Explain which format the Accept header of this request gets for a kind of image."""
        values = last_values(request.rel_url.raw_query_string)
        kind = {name: _flag(name, values.get(name)) for name in ("transparent", "animated")}
        # Not stored by caches: it is about the headers of this one request.
        explanation = explain(as_utf8(accept_header(request)), self.order, **kind)
        return cached_json(
            request, explanation, lifetime=NO_STORE, outcome=_OUTCOME, security=PRIVATE
        )

    async def show_accept(self, request: web.Request) -> BufferedResponse:
        """Return a pixel, and the request's Accept header in Server-Timing.

        A script cannot read the headers of an image request or of its response. It can read
        Server-Timing in the browser's performance entry, so the value is returned there.
        """
        # Quoted, because the header is the client's text and could end the string.
        value = quote(as_utf8(accept_header(request))[:_MAX_ACCEPT], safe="")
        headers = [
            ("Content-Type", "image/gif"),
            ("Cache-Control", NO_STORE),
            ("Server-Timing", f'accept;desc="{value}"'),
            *PRIVATE,
        ]
        return whole(HTTPStatus.OK, headers, _PIXEL, outcome=_OUTCOME)


def _flag(name: str, value: str | None) -> bool:
    # An empty value counts as not given.
    if value not in (None, "", "0", "1"):
        raise BadParameter(name, "0 or 1")
    return value == "1"


@dataclass(frozen=True, slots=True)
class UploadToken:
    """A token for ``PATCH /users/me``; ``expires_in`` is in seconds."""

    token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """The state of an upload; ``media_id`` is null until the image exists."""

    id: int
    status: PendingStatus
    media_id: int | None


@dataclass(frozen=True, slots=True)
class KnownImage:
    """The oldest image with the content of a file; nulls: there is none, or it has no name."""

    id: int | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPageHandler:
    """Handles requests from this machine and rejects all others."""

    key: TokenKey
    """A secret: tokens are signed with it."""
    users: UserSettings
    database: UploadRepository
    catalogue: SqlMediaRepository
    access: MediaAccess = OPEN_ACCESS

    @json_route("trial")
    async def known_file(self, request: web.Request) -> KnownImage:
        """Return the image that a file is already, so that the page need not upload it again.

        The ingest worker merges equal uploads of one user and type only. The page only has to
        show the file, so an image of an import or of another user is sufficient.
        """
        check_local(request)
        digest = last_values(request.rel_url.raw_query_string).get("sha256", "")
        if not _SHA256.fullmatch(digest):
            raise BadParameter("sha256", "64 hexadecimal digits in lower case")
        media = await self.catalogue.find_by_hash(digest)
        # The page could not show a private image.
        if media is None or self.access.is_private(media):
            return KnownImage(None, None)
        return KnownImage(media.id, media.original_name)

    @json_route("trial")
    async def trial_token(self, request: web.Request) -> UploadToken:
        """Return a token for uploads, valid for 15 minutes."""
        check_local(request)
        return UploadToken(issue(self.key, self.users, user_id=_USER, ttl_s=_TTL_S), _TTL_S)

    @json_route("trial")
    async def trial_upload(self, request: web.Request) -> UploadProgress:
        """Return the state of an upload of the page's user."""
        check_local(request)
        row = await self.database.find(upload_id(request))
        # Uploads of other users do not exist for the page, which has no token of theirs.
        if row is None or row.user_id != _USER:
            raise PendingNotFound("there is no upload with this id")
        media_id = media_id_of(row.permanent_url)
        return UploadProgress(row.id, row.status, None if media_id is None else int(media_id))
