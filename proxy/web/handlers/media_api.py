"""The media API, with its key: the queue of uploads for ingest workers, and stored analyses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from proxy.domain.analysis import Analysis
from proxy.domain.errors import (
    BadParameter,
    MediaNotFound,
    MediaNotReady,
    PendingConflict,
)
from proxy.domain.formats import SOURCE_MEDIA_TYPES, TRAITS, sniff
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.request import Outcome, last_values
from proxy.domain.signature import MediaAccess
from proxy.domain.upload import PendingStatus, media_id_of
from proxy.domain.urls import image_url, profile_image_url
from proxy.ingest.uploads.preview import UploadPreviews
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.ingest.uploads.url_replacement import UrlReplacer
from proxy.serving.image_info import ImageInfoService
from proxy.storage.database import MediaRepository
from proxy.storage.database.embeddings import MAX_SIMILAR, EmbeddingRepository
from proxy.storage.database.media_repository import AnalysisRepository
from proxy.storage.database.metadata_store import MetadataStore
from proxy.storage.upload_files import OpenUpload, TempName
from proxy.web.auth import KeyGuard
from proxy.web.conditional import ByteRange, check_preconditions, matches, requested_range
from proxy.web.forward import MediaForwarder
from proxy.web.handlers.info_json import AnalysisDetails
from proxy.web.headers import NO_STORE, PRIVATE, SECURITY, Header, ignored_header
from proxy.web.json_response import json_route
from proxy.web.request_input import path_id, read_json, upload_id, whole_number
from proxy.web.responses import Answer, BufferedResponse, StreamedResponse, bodiless, whole
from proxy.web.server.response_cache import ParseQuery

_MAX_JSON_BYTES = 256 * 1024
_MAX_LEVELS = 31
"""Nested objects and lists that MariaDB accepts in a JSON column."""
_MAX_REASON = 200
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
MAX_LISTED = 1000
"""Pending uploads in one list. The rest follows with ``after``, or once these are completed."""
_OUTCOME = Outcome("temp_image")

_DigitText = Annotated[str, Field(pattern="^[1-9][0-9]{0,17}$")]
_Number = Annotated[int, Field(ge=1, le=2**53 - 1)]
_ImageUrl = Annotated[str, Field(pattern="^https?://[a-z0-9.:/-]+/[1-9][0-9]{0,17}$")]


@dataclass(frozen=True, slots=True)
class QueuedUpload:
    """A row of ``pending_images``."""

    id: int
    user_id: int
    image_path: str
    original_name: str | None
    mime_type: str | None
    status: PendingStatus
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PendingUploads:
    """The uploads to process, oldest first."""

    images: list[QueuedUpload]
    total: Annotated[int, Field(description="Pending uploads, including those not listed.")]
    next_after: Annotated[
        int | None, Field(description="Value of `after` for the next page; null on the last one.")
    ] = None


@dataclass(frozen=True, slots=True)
class CompletedUpload:
    """The body of ``POST /api/media/complete/{id}``: one of the two, or both if they agree."""

    __pydantic_config__ = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["media_id"]}, {"required": ["permanent_url"]}]}
    )
    media_id: _DigitText | _Number | SkipJsonSchema[None] = None
    permanent_url: _ImageUrl | SkipJsonSchema[None] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResponse:
    """The upload is recorded as processed."""

    success: Literal[True] = True
    imageId: int  # noqa: N815 - the main API's name
    media_id: str
    status: Literal["processed"] = "processed"
    smart_url_preview: Annotated[str, Field(description="The URL that profiles will have.")]


@dataclass(frozen=True, slots=True)
class CleanupResponse:
    """The upload is recorded as failed, and its temporary file is deleted."""

    success: Literal[True] = True
    message: str = "Image marked as failed and temp file cleaned up"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaApiHandler:
    """Handles requests of ingest workers. The key is checked before anything else."""

    guard: KeyGuard
    queue: UploadQueue
    replacer: UrlReplacer
    previews: UploadPreviews
    parse_query: ParseQuery
    preview_s: int
    """Seconds for which a browser may show an upload without a request. Until then it does not
    notice that the upload has ended."""
    stall_s: float
    """A request body must arrive completely within this time."""

    @json_route("pending")
    async def pending(self, request: web.Request) -> PendingUploads:
        """List the uploads to process, oldest first."""
        self.guard.check(request)
        after = _query_number(request, "after", default=0, lowest=0, highest=MAX_MEDIA_ID)
        limit = _query_number(request, "limit", default=MAX_LISTED, lowest=1, highest=MAX_LISTED)
        rows, next_after = await self.queue.list_pending(after=after, limit=limit)
        names = [one.name for one in fields(QueuedUpload)]
        images = [QueuedUpload(**{name: getattr(row, name) for name in names}) for row in rows]
        # A first page that is not full is the whole queue, so no COUNT is needed.
        whole_queue = not after and next_after is None
        total = len(rows) if whole_queue else await self.queue.database.count_pending()
        return PendingUploads(images, total, next_after)

    @json_route("complete")
    async def complete(self, request: web.Request) -> CompletionResponse:
        """Record which image an upload has become. Idempotent."""
        self.guard.check(request)
        pending_id = upload_id(request)
        body = await read_json(request, max_bytes=_MAX_JSON_BYTES, stall_s=self.stall_s)
        media_id = _media_id(body)
        # Before the row is changed: the whole body is stored after it.
        if _levels(body) > _MAX_LEVELS:
            raise BadParameter("the body", f"nested in at most {_MAX_LEVELS} objects and lists")
        await self.queue.complete(pending_id, media_id, body)
        preview = profile_image_url(self.replacer.base_url, media_id)
        return CompletionResponse(imageId=pending_id, media_id=media_id, smart_url_preview=preview)

    @json_route("cleanup")
    async def cleanup(self, request: web.Request) -> CleanupResponse:
        """Record that an upload has failed, and delete its file. Idempotent."""
        self.guard.check(request)
        # The reason is the client's text: without line breaks it cannot forge log lines.
        reason = _UNPRINTABLE.sub("?", _parameters(request).get("reason", ""))[:_MAX_REASON]
        await self.queue.fail(upload_id(request), reason=reason)
        return CleanupResponse()

    @json_route("temp_image")
    async def temp_image(self, request: web.Request) -> Answer:
        """Return the file of an upload; without the key, an image that is rendered from it.

        Range and If-Range resume the download of the file. Image: as under ``/serve``, with the
        same parameters. The profile page shows it until the upload is processed.
        """
        name = TempName(request.match_info["folder"], request.match_info["name"])
        # The name is the permission. A guess of it fails like a request without the key.
        if name.is_secret and "Authorization" not in request.headers:
            return await self._preview(request, name)
        self.guard.check(request)
        opened = await self.queue.open(name.image_path)
        try:
            return await _file_answer(request, opened, name.name)
        except BaseException:
            # Including cancellation: no response closes the file then.
            opened.file.close()
            raise

    async def _preview(self, request: web.Request, name: TempName) -> BufferedResponse:
        wanted = self.parse_query(request.rel_url.raw_query_string, extension=None)
        accept = ", ".join(request.headers.getall("Accept", ()))
        preview = await self.previews.render(name.image_path, wanted, accept)
        # Private: a shared cache would go on serving an upload that was deleted.
        headers: list[Header] = [
            ("Cache-Control", f"private, max-age={self.preview_s}"),
            ("ETag", preview.variant.etag),
            *ignored_header(request.rel_url.raw_query_string),
            *SECURITY,
        ]
        if wanted.negotiated:
            headers.append(("Vary", "Accept"))
        outcome = _OUTCOME._replace(size=wanted.box.name, format=preview.format)
        check_preconditions(request.headers, preview.variant.etag)
        known = ", ".join(request.headers.getall("If-None-Match", ()))
        if matches(known, preview.variant.etag):
            return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=outcome)
        headers += [
            ("Content-Type", TRAITS[preview.format].media_type),
            ("Content-Disposition", "inline"),
        ]
        if request.method == "HEAD":
            return bodiless(HTTPStatus.OK, headers, outcome=outcome, length=len(preview.body))
        return whole(HTTPStatus.OK, headers, preview.body, outcome=outcome)


@dataclass(frozen=True, slots=True)
class GenerationSummary:
    """What the file says about its generation. `unknown` does not mean "not generated"."""

    source: str
    confidence: float | None
    """Strength of the best evidence; not a probability."""
    evidence: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisFields(AnalysisDetails):
    """The documented members of an analysis; more may be present. Null: not determined."""

    style: str | None
    medium: str | None
    quality_score: Annotated[int, Field(ge=0, le=100)] | None
    mood_keywords: list[str] | None
    dominant_colors: list[dict[str, Any]] | None
    ai_generation: GenerationSummary | None
    reasons: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class AnalysisResponse:
    """The stored analysis of an image."""

    success: Literal[True]
    analysis: AnalysisFields


@dataclass(frozen=True, slots=True)
class SimilarImage:
    """An image that is similar to another one."""

    media_id: int
    similarity: Annotated[float, Field(ge=-1, le=1, description="1: equal.")]
    url: str


@dataclass(frozen=True, slots=True)
class SimilarImages:
    """Similar images, the most similar first."""

    similar: list[SimilarImage]
    success: Literal[True] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisHandler:
    """Handles ``GET /api/media/analysis/{media_id}`` and ``similar``. The key is checked first."""

    guard: KeyGuard
    database: MediaRepository
    analyses: AnalysisRepository
    describer: ImageInfoService
    embeddings: EmbeddingRepository
    metadata: MetadataStore
    access: MediaAccess
    retry_after_s: int
    """Sent as Retry-After while the image is being processed."""
    forwarder: MediaForwarder | None = None
    """Answers for the media server, if there is one."""

    @json_route("analysis")
    async def analysis(self, request: web.Request) -> Mapping[str, object]:
        """Return the analysis of an image. Null: not determined; a reason is given.

        Its members are those of section 12 of the requirements document, and more.
        """
        self.guard.check(request)
        media_id = path_id(request, "media_id")
        if self.forwarder is not None:
            self.forwarder.check(request.headers)
            if await self.forwarder.applies(media_id):
                analysis = await self.forwarder.analysis(media_id)
                return {"success": True, "analysis": analysis}
        media = await self.database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        if media is None:
            raise MediaNotFound(f"there is no image with id {media_id}")
        # A stored analysis is returned while the image is processed anew, too.
        stored = await self.analyses.find(media_id)
        if stored is not None:
            current = await self.describer.current(media, stored)
            return {"success": True, "analysis": await self._with_generation(media_id, current)}
        if media.in_progress:
            detail = "the image has not been analysed yet"
            raise MediaNotReady(detail, retry_after_s=self.retry_after_s)
        raise MediaNotFound("the image has not been analysed")

    async def _with_generation(self, media_id: int, analysis: Analysis) -> dict[str, Any]:
        found, members = await self.metadata.find_generation(media_id), analysis.public()
        if found is None:
            reason = "The metadata of the image has not been extracted"
            members["reasons"] = {**members.get("reasons", {}), "ai_generation": reason}
        return {**members, "ai_generation": found}

    @json_route("similar")
    async def similar(self, request: web.Request) -> SimilarImages:
        """Return the images of this server that are similar to one, by their embeddings.

        The newest 50,000 with an embedding of the same model are compared.
        """
        self.guard.check(request)
        media_id = path_id(request, "media_id")
        limit = _query_number(request, "limit", default=20, lowest=1, highest=MAX_SIMILAR)
        found = None
        if media_id <= MAX_MEDIA_ID:
            found = await self.embeddings.similar(media_id, limit=limit)
        if found is None:
            raise MediaNotFound(
                "there is no such image, or it has no embedding: vision.embedding must have been"
                " configured when it was uploaded"
            )
        rows = await self.database.find_many(list(found))
        private = {one for one, media in rows.items() if self.access.is_private(media)}
        return SimilarImages(
            [
                SimilarImage(
                    one,
                    round(value, 4),
                    image_url(one, signer=self.access.sign_rendition if one in private else None),
                )
                for one, value in found.items()
            ]
        )


def _parameters(request: web.Request) -> dict[str, str]:
    return last_values(request.rel_url.raw_query_string)


def _query_number(
    request: web.Request, name: str, *, default: int, lowest: int, highest: int
) -> int:
    text = _parameters(request).get(name, str(default))
    # `int` of longer text takes quadratic time, and of other digits succeeds.
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if not lowest <= number <= highest:
        raise BadParameter(name, f"a whole number from {lowest} to {highest}")
    return number


async def _file_answer(request: web.Request, opened: OpenUpload, name: str) -> Answer:
    """Return the response for an open file. It closes the file when it has been sent."""
    etag, length = f'"{opened.version}"', opened.file.length
    headers: list[Header] = [
        ("Cache-Control", NO_STORE),
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        *PRIVATE,
    ]
    # RFC 9110, 13.2.2: If-Match precedes If-None-Match, and that Range.
    check_preconditions(request.headers, etag)
    if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
        opened.file.close()
        return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=_OUTCOME)
    # By the first bytes: the type that the uploading client declared cannot be trusted. As an
    # attachment no browser renders the file in this origin.
    kind = SOURCE_MEDIA_TYPES.get(sniff(opened.file.head) or "", "application/octet-stream")
    if kind == SOURCE_MEDIA_TYPES["svg"]:
        # It may have scripts, which a viewer would run.
        kind = "application/octet-stream"
    headers += [
        ("Content-Type", kind),
        ("Content-Disposition", f'attachment; filename="{name}"'),
    ]
    # Range is defined for GET only (RFC 9110, 14.2).
    if request.method == "HEAD":
        opened.file.close()
        return bodiless(HTTPStatus.OK, headers, outcome=_OUTCOME, length=length)
    part = requested_range(request.headers, length=length, etag=etag)
    status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
    if part is not None:
        headers.append(("Content-Range", part.content_range(length)))
    part = part or ByteRange(0, length)
    return StreamedResponse(
        status,
        headers,
        opened.chunks(part.start, part.stop),
        outcome=_OUTCOME,
        length=part.stop - part.start,
        release=opened.file.close,
    )


def _levels(value: object) -> int:
    """Return the number of nested containers; at most 1024 in a body that orjson has parsed."""
    levels, inner = 0, [value]
    while inner := [one for one in inner if isinstance(one, (dict, list))]:
        levels += 1
        inner = [
            child for one in inner for child in (one.values() if isinstance(one, dict) else one)
        ]
    return levels


def _media_id(body: Mapping[str, Any]) -> str:
    """Return the media id from ``media_id``, ``permanent_url``, or both.

    Raises:
        BadParameter: neither has a valid id.
        PendingConflict: they name two different images.
    """
    plain, url = body.get("media_id"), body.get("permanent_url")
    # Workers of different versions send one member, the other, or both.
    found = set()
    if plain is not None:
        text = plain if isinstance(plain, str) else str(whole_number(plain))
        found.add(media_id_of(text) if "/" not in text else None)
    if url is not None:
        found.add(media_id_of(url) if isinstance(url, str) else None)
    media_id = found.pop() if len(found) == 1 else None
    if found and None not in found:
        raise PendingConflict("media_id and permanent_url name two different images")
    if media_id is None or not 0 < int(media_id) <= MAX_MEDIA_ID:
        allowed = "a media id of 1 to 19 digits, or the last part of permanent_url"
        raise BadParameter("media_id", allowed)
    return media_id
