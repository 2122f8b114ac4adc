"""Downloads of originals, for callers with a key or a URL that was signed for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from proxy.domain.errors import BadParameter, MediaNotFound, RenderFault, SourceMissing
from proxy.domain.formats import SOURCE_MEDIA_TYPES, sniff
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.request import Outcome, last_values
from proxy.domain.signature import MediaAccess, Scope, original_text, read_signature
from proxy.domain.worker_protocol import KeptRange, RemovalJob
from proxy.serving.job_dispatch import JobDispatcher, source_key
from proxy.settings import LifetimeSettings
from proxy.storage.database import MediaRepository
from proxy.storage.originals import Originals
from proxy.storage.originals.local_store import ReadableOriginal
from proxy.web.auth import KeyGuard, KeyHolders
from proxy.web.conditional import ByteRange, check_preconditions, matches, requested_range
from proxy.web.handlers.images import servable
from proxy.web.headers import NO_STORE, Header, disposition
from proxy.web.json_response import json_route
from proxy.web.request_input import path_id
from proxy.web.responses import Answer, StreamedResponse, bodiless, whole

METADATA = ("kept", "stripped")
"""Values of the parameter ``metadata``; the first is the default."""
_SUFFIXES = {"jpeg": "jpg"}
_OUTCOME = Outcome("original")
_PROTECTED: tuple[Header, ...] = (
    # A signed URL may be in a history or a log by then; and a shared cache would serve it after
    # its expiry.
    ("Cache-Control", NO_STORE),
    ("Accept-Ranges", "bytes"),
    ("X-Content-Type-Options", "nosniff"),
    # The file is a stranger's: it is never displayed in this origin, whatever it contains.
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class _OriginalDownload:
    """A file to send: ranges of the original, and new bytes between them."""

    original: ReadableOriginal
    kept: Sequence[KeptRange]
    length: int

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the result from ``start`` up to ``stop`` in pieces."""
        at = 0
        for one in self.kept:
            new = one.new[max(0, start - at) : max(0, stop - at)]
            if new:
                yield new
            at += len(one.new)
            first, last = one.start + max(0, start - at), one.start + max(0, stop - at)
            async for piece in self.original.chunks(first, min(last, one.stop)):
                yield piece
            at += one.stop - one.start


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalHandler:
    """Handles ``GET /api/media/{id}/original``."""

    guard: KeyGuard
    """Of the media API."""
    viewers: KeyHolders
    """Callers with this key or the admin key."""
    access: MediaAccess
    database: MediaRepository
    originals: Originals
    dispatcher: JobDispatcher
    lifetimes: LifetimeSettings

    @json_route("original")
    async def original(self, request: web.Request) -> Answer:
        """Return the file as it was uploaded, or without its metadata, as an attachment.

        Requires the key of the media API, the admin key, or a URL that was signed for it. One range
        can be requested; several are answered with the whole file.
        """
        media_id = path_id(request)
        raw_query = request.rel_url.raw_query_string
        values = last_values(raw_query)
        metadata = (values.get("metadata") or METADATA[0]).lower()
        if metadata not in METADATA:
            raise BadParameter("metadata", "kept or stripped")
        signature = read_signature(values, raw_query, original_text(metadata=metadata))
        # HTTP clients may add Authorization to a signed URL.
        if not self.viewers.include(request):
            if signature is None:
                self.guard.check(request)
            # As for an unknown id, before the database knows of it.
            elif not self.access.admit(Scope.ORIGINAL, media_id, signature):
                raise MediaNotFound("there is no image with this id")
        media = await self.database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        media = servable(media, retry_after_s=self.lifetimes.not_ready_retry_s)
        original = await self._open(media)
        try:
            return await self._answer(request, media, original, stripped=metadata == METADATA[1])
        except BaseException:
            # Including cancellation: no response closes the file then.
            original.file.close()
            raise

    async def _open(self, media: Media) -> ReadableOriginal:
        missing = SourceMissing("the image has no file")
        for path in media.source_paths:
            try:
                return await self.originals.open_file(path)
            except SourceMissing as error:
                missing = error
        raise missing

    async def _answer(
        self, request: web.Request, media: Media, original: ReadableOriginal, *, stripped: bool
    ) -> Answer:
        """Return the response, which closes the file when it has been sent."""
        file = original.file
        # The ETag does not depend on the plan, so a 304 needs no worker.
        etag = f'"{original.version}{"-stripped" if stripped else ""}"'
        headers: list[Header] = [("ETag", etag), *_PROTECTED]
        outcome = _OUTCOME._replace(media_id=media.id)
        # RFC 9110, 13.2.2: If-Match precedes If-None-Match, and that Range.
        check_preconditions(request.headers, etag)
        if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
            file.close()
            return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=outcome)
        download = _OriginalDownload(original, [KeptRange(0, file.length)], file.length)
        if stripped:
            download = await self._without_metadata(media, original)
        # By the first bytes: a declared type cannot be trusted. SVG gets no type that a browser
        # displays.
        kind = sniff(file.head) or "bin"
        media_type = SOURCE_MEDIA_TYPES.get(kind, "")
        headers += [
            (
                "Content-Type",
                "application/octet-stream" if kind == "svg" or not media_type else media_type,
            ),
            (
                "Content-Disposition",
                disposition("attachment", media, f".{_SUFFIXES.get(kind, kind)}"),
            ),
        ]
        # Range is defined for GET only (RFC 9110, 14.2).
        if request.method == "HEAD":
            file.close()
            return bodiless(HTTPStatus.OK, headers, outcome=outcome, length=download.length)
        part = requested_range(request.headers, length=download.length, etag=etag)
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        if part is not None:
            headers.append(("Content-Range", part.content_range(download.length)))
        part = part or ByteRange(0, download.length)
        return StreamedResponse(
            status,
            headers,
            download.chunks(part.start, part.stop),
            outcome=outcome,
            length=part.stop - part.start,
            release=file.close,
        )

    async def _without_metadata(
        self, media: Media, original: ReadableOriginal
    ) -> _OriginalDownload:
        # A worker finds the metadata: the server parses no bytes of strangers.
        key = f"metadata/{source_key(media)}"
        plan = await self.dispatcher.run_file(key, original.file.descriptor, RemovalJob())
        try:
            plan.check(original.file.length)
        except ValueError as error:
            raise RenderFault("the metadata of the image cannot be removed") from error
        return _OriginalDownload(original, plan.kept, plan.length)
