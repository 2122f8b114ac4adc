"""Input of the metadata routes: who calls, and the files of a form, stored while they arrive."""

from __future__ import annotations

import asyncio
import math
import unicodedata
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from proxy.domain.errors import (
    AccessDisabled,
    AccessError,
    BadParameter,
    BodyTooSlow,
    EmptyFile,
    FileTooLarge,
    NoFile,
    SmartserveError,
    TierInsufficient,
    TooManyRequests,
    UnknownImageFormat,
)
from proxy.metadata.extractor import Extractor
from proxy.metadata.formats import declared_media_type
from proxy.metadata.temp_folder import ReceivedFile
from proxy.metadata.tiers import Tier, check_allowed, lowered, parse_tier, too_large
from proxy.settings import MetadataSettings
from proxy.web.auth import (
    SESSION_COOKIE,
    AuthFailure,
    KeyGuard,
    RequestLimit,
    TokenVerifier,
    caller_of,
    check_local,
)
from proxy.web.json_response import TIER
from proxy.web.multipart import OVERHEAD_BYTES, Form, FormFile

MAX_BATCH = 50
"""Maximum number of files in a form of several files."""
_MAX_NAME = 255
_ANONYMOUS_REQUESTS, _ANONYMOUS_WINDOW_S = 100, 900.0


def query_values(request: web.BaseRequest, names: Collection[str]) -> dict[str, str]:
    """Return the values of these parameters by name; in a query a name may have any case.

    Raises:
        BadParameter: a parameter occurs twice, so that it is not known which value is meant.
    """
    known = {name.lower(): name for name in names}
    values: dict[str, str] = {}
    # Not `last_values`, which ends a value at a question mark: tags may have one.
    for given, value in request.query.items():
        name = known.get(given.lower())
        if name is None:
            continue
        if name in values:
            raise BadParameter(name, "given once; separate the values of a list by commas")
        values[name] = value
    return values


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    user_id: int | None
    """None for MEDIA_API_KEY and without a token."""
    tier: Tier
    is_admin: bool = False
    """Has MEDIA_API_KEY, and may read what belongs to any user."""
    anonymous: bool = False


class CallerGuard:
    """Identifies callers of the metadata routes."""

    def __init__(
        self,
        settings: MetadataSettings,
        *,
        users: TokenVerifier,
        media_key: KeyGuard,
        public_url: str = "",
        limit: RequestLimit | None = None,
    ) -> None:
        """``public_url`` is that of the server, ``limit`` that of requests without a token."""
        self._users = users
        self._media_key = media_key
        self._default_tier = Tier(settings.default_tier)
        self._anonymous = settings.anonymous
        parts = urlsplit(public_url)
        self._origin = f"{parts.scheme}://{parts.netloc}".lower() if public_url else ""
        self._limit = limit or RequestLimit(
            max_requests=_ANONYMOUS_REQUESTS, window_s=_ANONYMOUS_WINDOW_S
        )

    def caller_of(self, request: web.BaseRequest, *, anonymous: bool = False) -> Caller:
        """Return who sent a request; ``anonymous`` routes need no token where settings allow it.

        A token is that of a user, or MEDIA_API_KEY, in Authorization; or that of a user in the
        cookie, if the request comes from a page of this server.

        Raises:
            AccessError: there is no valid token.
            TooManyRequests: the address has sent too many requests without one.
        """
        caller = self._identify(request, anonymous=anonymous)
        # Metrics have the tier also if an error follows.
        request[TIER] = caller.tier.value
        return caller

    def _identify(self, request: web.BaseRequest, *, anonymous: bool) -> Caller:
        session = request.cookies.get(SESSION_COOKIE)
        if "Authorization" in request.headers:
            token = self._users.token(request)
            if self._media_key.matches(token):
                return Caller(None, Tier.ENTERPRISE, is_admin=True)
            return self._user(request, token)
        if session:
            self.check_origin(request)
            return self._user(request, session)
        if anonymous and self._anonymous != "never":
            return self._without_token(request)
        # Raises the error of a missing token.
        return self._user(request, self._users.token(request))

    def _user(self, request: web.BaseRequest, token: str) -> Caller:
        user = self._users.verify(request, token)
        if user.tier is None:
            return Caller(user.user_id, self._default_tier)
        try:
            return Caller(user.user_id, parse_tier(user.tier))
        except BadParameter as error:
            detail = f"the claim tier of the token must be {error.allowed}"
            raise self._users.unauthorized(AuthFailure.MALFORMED, detail) from None

    def _without_token(self, request: web.BaseRequest) -> Caller:
        if self._anonymous == "local":
            try:
                check_local(request)
            except AccessDisabled:
                # Raises the error of a missing token: that of `check_local` would not help here.
                self._users.token(request)
        wait_s = self._limit.add(caller_of(request))
        if wait_s > 0:
            raise TooManyRequests(
                f"Your address has sent {_ANONYMOUS_REQUESTS} requests without a token in"
                f" {_ANONYMOUS_WINDOW_S / 60:.0f} minutes. Retry later, or send a token.",
                retry_after_s=math.ceil(wait_s),
            )
        return Caller(None, Tier.FREE, anonymous=True)

    def check_origin(self, request: web.BaseRequest) -> None:
        """Check that a request comes from a page of this server.

        Browsers send the cookie with requests of any page; those of other pages are forged (CSRF).

        Raises:
            Unauthorized: it does not.
        """
        # Without Origin: GET of the page itself, of which browsers say so.
        same = request.headers.get("Sec-Fetch-Site") == "same-origin"
        if not (same if "Origin" not in request.headers else self._is_own_origin(request)):
            detail = (
                "the session cookie is accepted from pages of this server only; send the token in"
                " Authorization"
            )
            raise self._users.unauthorized(AuthFailure.MALFORMED, detail)

    def check_page(self, request: web.BaseRequest) -> None:
        """Reject a WebSocket that a page of another server opens, which browsers allow.

        Raises:
            AccessError: the page is of another server. Clients that are no pages send no Origin.
        """
        if "Origin" in request.headers and not self._is_own_origin(request):
            raise AccessError(
                "Only pages of this server may open its WebSockets. If this is one, set"
                " server.public_url, or have the proxy forward the Host header with its port."
            )

    def _is_own_origin(self, request: web.BaseRequest) -> bool:
        host = request.headers.get("Host", "").lower()
        ours = {self._origin} if self._origin else {f"http://{host}", f"https://{host}"}
        return request.headers["Origin"].lower() in ours


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A received file."""

    name: str
    """As the client declared it, without control characters. It is no path."""
    file: ReceivedFile
    media_type: str = ""
    """As the client declared it; see `formats.declared_media_type`."""


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file of several that was not stored."""

    name: str
    error: SmartserveError


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    """A form whose files are stored."""

    files: list[NamedFile | RefusedFile]
    """At least one, if one is required."""
    texts: Mapping[str, str]
    """Values of the text fields that were requested."""
    tier: Tier
    """That of the caller, or a lower one that the form requests."""

    @property
    def only(self) -> NamedFile:
        """The file of a form that may have one."""
        [one] = self.files
        if isinstance(one, RefusedFile):
            raise one.error
        return one


@dataclass(frozen=True, slots=True, kw_only=True)
class FormReceiver:
    """Receives the forms of the metadata routes."""

    extractor: Extractor
    stall_s: float
    """The next bytes must arrive within this time."""
    timeout_s: float
    """The whole form must arrive within this time."""

    @asynccontextmanager
    async def receive(
        self,
        request: web.BaseRequest,
        caller: Caller,
        *,
        field: str,
        texts: tuple[str, ...] = (),
        max_files: int = 1,
        advanced: bool = False,
        required: bool = True,
        on_refusal: Callable[[Mapping[str, str], SmartserveError], None] = lambda _, __: None,
    ) -> AsyncIterator[ReceivedForm]:
        """Store the files of ``field`` while they arrive; they are deleted after the block.

        A form without a file is an error if one is ``required``. The form may have the text fields
        ``texts`` and ``tier``. Several files together may have as many bytes as one file of the
        highest tier; those that are refused are listed. ``on_refusal`` gets the error of a form
        that is refused, and the text fields before it.

        Raises:
            RequestError: the form is malformed, too large or too slow, or has no file.
            TierInsufficient: the caller's tier, or the one that is requested, is too low.
            CapacityError: too many uploads arrive or wait, or the server is stopping.
            MetadataError: the file is of no supported format, or the engines cannot be started.
            UploadStorageError: the disk is full or failed.
        """
        if not request.body_exists:
            raise NoFile(f'Send a form with a file in the field "{field}".')
        limits = self.extractor.limits
        check_allowed(caller.tier, limits, byte_size=0, advanced=advanced)
        own = limits[caller.tier].max_bytes
        # The length includes boundaries and headers: a file of the limit must pass.
        expected = max(0, (request.content_length or 0) - OVERHEAD_BYTES)
        if max_files > 1:
            expected = 0
        if expected > own:
            raise too_large(limits, expected)
        with self.extractor.admitted():
            form = Form(
                request,
                max_file_bytes=own,
                stall_s=self.stall_s,
                fields=None,
                texts=(*texts, "tier"),
                max_files=max_files,
                max_bytes=min(max_files * own, limits[Tier.ENTERPRISE].max_bytes),
            )
            async with AsyncExitStack() as stack:
                try:
                    files = await self._files(form, stack, field, caller.tier, expected)
                    if required and not files:
                        raise _no_file(field)
                    tier = lowered(caller.tier, form.texts.get("tier"))
                    request[TIER] = tier.value
                    check_allowed(tier, limits, byte_size=0, advanced=advanced)
                except SmartserveError as error:
                    on_refusal(form.texts, error)
                    raise
                yield ReceivedForm(files, form.texts, tier)

    async def _files(
        self, form: Form, stack: AsyncExitStack, field: str, tier: Tier, expected: int
    ) -> list[NamedFile | RefusedFile]:
        """Store all files of a form; ``stack`` deletes them."""
        files: list[NamedFile | RefusedFile] = []
        try:
            async with asyncio.timeout(self.timeout_s):
                async for sent in form.files():
                    if sent.field != field:
                        raise _no_file(field)
                    receiving = self.extractor.receive(
                        sent.chunks, tier=tier, expected_bytes=expected
                    )
                    files.append(one := await _received(stack, receiving, sent))
                    if isinstance(one, RefusedFile):
                        if form.max_files == 1:
                            raise one.error
                        # The next file is behind the rest of this one.
                        async for _ in sent.chunks:
                            pass
        except TimeoutError as error:
            raise BodyTooSlow(
                f"the upload did not arrive within {self.timeout_s:g} s; send fewer or smaller"
                " files at once"
            ) from error
        return files


def _no_file(field: str) -> NoFile:
    return NoFile(f'Send the file in the form field "{field}".')


async def _received(
    stack: AsyncExitStack, receiving: AbstractAsyncContextManager[ReceivedFile], sent: FormFile
) -> NamedFile | RefusedFile:
    name = clean_name(sent.name)
    try:
        file = await stack.enter_async_context(receiving)
        return NamedFile(name, file, declared_media_type(sent.content_type, name))
    except (EmptyFile, FileTooLarge, TierInsufficient, UnknownImageFormat) as error:
        return RefusedFile(name, error)


def clean_name(file_name: str) -> str:
    """Return a client's file name as it can be shown: without control characters, and not long."""
    # A name may contain half a character, which JSON cannot represent.
    text = file_name.encode("utf-8", "replace").decode()
    return "".join(one for one in text if unicodedata.category(one) != "Cc")[:_MAX_NAME]
