"""The media API: the queue of uploads, for the workers that empty it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from aiohttp import web

from proxy.domain.errors import BadParameter, PendingConflict, PendingNotFound, SmartserveError
from proxy.domain.formats import SNIFF_BYTES, SOURCE_MEDIA_TYPES, sniff
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.outcome import Outcome
from proxy.domain.pending_image import TEMP_PREFIX, PendingImage, PendingStatus, media_id_of
from proxy.domain.urls import profile_image_url
from proxy.ingest.uploads.upload_queue import MAX_LISTED, UploadQueue
from proxy.ingest.uploads.url_replacement import UrlReplacer
from proxy.storage.upload_files.store import OpenTemp
from proxy.web.auth.api_key import KeyGuard
from proxy.web.cache_headers import NO_STORE
from proxy.web.conditional import ByteRange, matches, requested_range
from proxy.web.headers import PRIVATE, Header
from proxy.web.id_params import parse_id, whole_number
from proxy.web.json_response import guarded
from proxy.web.problem_details import problem
from proxy.web.request_body import read_json
from proxy.web.responses import BufferedResponse, StreamedResponse, bodiless, whole

Answer = BufferedResponse | StreamedResponse

_MAX_JSON_BYTES = 256 * 1024
_MAX_REASON = 200
_UNREADABLE = re.compile(r"[^\x20-\x7e]")


class MediaApiHandler:
    """Answers workers; nothing is done, or told, before the guard has let one pass."""

    def __init__(
        self,
        *,
        guard: KeyGuard,
        queue: UploadQueue,
        replacer: UrlReplacer,
        stall_s: float,
    ) -> None:
        """``stall_s`` is for a body to come in whole."""
        self._guard = guard
        self._queue = queue
        self._replacer = replacer
        self._stall_s = stall_s

    async def pending(self, request: web.Request) -> Answer:
        """``GET /api/media/pending/all``: what waits to be processed, the oldest first."""
        return await guarded(request, self._guard, Outcome("pending"), self._pending)

    async def complete(self, request: web.Request) -> Answer:
        """``POST /api/media/complete/{id}``: which medium an upload has become."""
        return await guarded(request, self._guard, Outcome("complete"), self._complete)

    async def cleanup(self, request: web.Request) -> Answer:
        """``DELETE /api/media/cleanup/{id}``: an upload has failed."""
        return await guarded(request, self._guard, Outcome("cleanup"), self._cleanup)

    async def temp_image(self, request: web.Request) -> Answer:
        """``GET /temp_images/{folder}/{name}``: the bytes of an upload, or a part of them."""
        outcome = Outcome("temp_image")
        try:
            self._guard.check(request)
            return await self._temp_image(request, outcome)
        except SmartserveError as error:
            return problem(error, outcome=outcome, security=PRIVATE)

    async def _pending(self, _request: web.Request) -> Mapping[str, Any]:
        rows, total = await self._queue.database.list_pending(MAX_LISTED)
        return {"images": [_public(row) for row in rows], "total": total}

    async def _complete(self, request: web.Request) -> Mapping[str, Any]:
        pending_id = _id(request)
        told = await read_json(request, max_bytes=_MAX_JSON_BYTES, stall_s=self._stall_s)
        media_id = _media_id(told)
        await self._queue.complete(pending_id, media_id)
        return {
            "success": True,
            "imageId": pending_id,
            "media_id": media_id,
            "status": PendingStatus.PROCESSED,
            "smart_url_preview": profile_image_url(self._replacer.base_url, media_id),
        }

    async def _cleanup(self, request: web.Request) -> Mapping[str, Any]:
        reason = _UNREADABLE.sub("?", request.query.get("reason", ""))[:_MAX_REASON]
        await self._queue.fail(_id(request), reason=reason)
        return {"success": True, "message": "Image marked as failed and temp file cleaned up"}

    async def _temp_image(self, request: web.Request, outcome: Outcome) -> Answer:
        found = request.match_info
        opened = await self._queue.open(f"{TEMP_PREFIX}{found['folder']}/{found['name']}")
        try:
            return await _file_answer(request, opened, found["name"], outcome)
        except BaseException:
            opened.close()
            raise


async def _file_answer(
    request: web.Request, opened: OpenTemp, name: str, outcome: Outcome
) -> Answer:
    """The answer that an open file gives, which is closed behind it."""
    etag, length = f'"{opened.version}"', opened.byte_size
    headers: list[Header] = [
        ("Cache-Control", NO_STORE),
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        *PRIVATE,
    ]
    if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
        opened.close()
        return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=outcome)
    headers += [
        ("Content-Type", await _media_type(opened)),
        ("Content-Disposition", f'attachment; filename="{name}"'),
    ]
    if request.method == "HEAD":
        opened.close()
        return bodiless(HTTPStatus.OK, headers, outcome=outcome, length=length)
    part = requested_range(request.headers, length=length, etag=etag)
    status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
    if part is not None:
        headers.append(("Content-Range", part.content_range(length)))
    part = part or ByteRange(0, length)
    return StreamedResponse(
        status,
        headers,
        opened.chunks(part.start, part.stop),
        outcome=outcome,
        length=part.stop - part.start,
        release=opened.close,
    )


async def _media_type(opened: OpenTemp) -> str:
    """By its bytes; what is none of ours is only bytes."""
    head = b"".join([piece async for piece in opened.chunks(0, min(opened.byte_size, SNIFF_BYTES))])
    return SOURCE_MEDIA_TYPES.get(sniff(head) or "", "application/octet-stream")


def _public(row: PendingImage) -> Mapping[str, Any]:
    return {
        "id": row.id,
        "user_id": row.user_id,
        "image_path": row.image_path,
        "original_name": row.original_name,
        "mime_type": row.mime_type,
        "status": row.status,
        "created_at": _iso(row.created_at),
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _id(request: web.Request) -> int:
    number = parse_id("id", request.match_info["id"])
    if number > MAX_MEDIA_ID:
        raise PendingNotFound("there is no upload with this id")
    return number


def _media_id(told: Mapping[str, Any]) -> str:
    """From the simple body, the rich one, or both, which then have to agree.

    Raises:
        BadParameter: there is none that can be.
        PendingConflict: there are two.
    """
    plain, address = told.get("media_id"), told.get("permanent_url")
    found = set()
    if plain is not None:
        text = plain if isinstance(plain, str) else str(whole_number(plain))
        found.add(media_id_of(text) if "/" not in text else None)
    if address is not None:
        found.add(media_id_of(address) if isinstance(address, str) else None)
    media_id = found.pop() if len(found) == 1 else None
    if found and None not in found:
        raise PendingConflict("media_id and permanent_url name two media")
    if media_id is None or not 0 < int(media_id) <= MAX_MEDIA_ID:
        allowed = "the number of a medium, 1 to 19 digits, or the last step of permanent_url"
        raise BadParameter("media_id", allowed)
    return media_id
