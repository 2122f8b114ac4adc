"""``POST /api/metadata/moderate``: flags for moderators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from proxy.domain.errors import NoFile, RequestError
from proxy.metadata.extraction import Extraction, ExtractOptions
from proxy.metadata.extractor import Extractor
from proxy.metadata.moderation import moderate
from proxy.web.json_response import json_route
from proxy.web.metadata_files import StoredFiles
from proxy.web.metadata_input import Caller, CallerGuard, FormReceiver
from proxy.web.request_input import read_json

_OPERATION = "moderate"
_MAX_JSON_BYTES = 4096
_ONE = 'Send a form with a file in the field "image", or a media_id.'


@dataclass(frozen=True, slots=True)
class ModerationAnswer:
    """What the metadata of an image says, by rules. It says nothing about what the image shows."""

    requiresReview: bool  # noqa: N815 - the name in the requirements
    flags: list[dict[str, Any]]
    confidence: float
    """The highest of the flags; 0 without one."""
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationHandler:
    """Handles the moderation of an image that is sent, or of one of this server."""

    callers: CallerGuard
    forms: FormReceiver
    extractor: Extractor
    files: StoredFiles
    terms: Sequence[str]

    @json_route("metadata_moderate", coded=True)
    async def moderate_image(self, request: web.Request) -> ModerationAnswer:
        """Return flags for moderators; without a token where settings allow it."""
        caller = self.callers.caller_of(request, anonymous=True)
        if request.content_type == "application/json":
            body = await read_json(request, max_bytes=_MAX_JSON_BYTES, stall_s=self.forms.stall_s)
            if "media_id" not in body:
                raise NoFile(_ONE)
            found = await self._stored(caller, body["media_id"])
        else:
            found = await self._sent(request, caller)
        return ModerationAnswer(
            **moderate(found.metadata, self.terms), metadata=dict(found.metadata)
        )

    async def _sent(self, request: web.Request, caller: Caller) -> Extraction:
        receiving = self.forms.receive(
            request, caller, field="image", texts=("media_id",), required=False
        )
        async with receiving as form:
            media_id = form.texts.get("media_id")
            if form.files and media_id is not None:
                raise RequestError("Send either an image or a media_id.")
            if form.files:
                one = form.only
                options = ExtractOptions(one.name, one.media_type, tier=form.tier)
                await self.extractor.charge(caller.user_id, _OPERATION)
                return await self.extractor.extract(one.file, options)
        if media_id is None:
            raise NoFile(_ONE)
        return await self._stored(caller, media_id)

    async def _stored(self, caller: Caller, media_id: object) -> Extraction:
        return await self.files.extract_media(caller, "media_id", media_id, operation=_OPERATION)
