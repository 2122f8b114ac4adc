"""Who may see a medium: ``PUT`` and ``DELETE /api/media/{id}/visibility``, with the admin key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aiohttp import web
from pydantic import Field

from proxy.domain.errors import BadParameter, MediaNotFound
from proxy.domain.media import MAX_MEDIA_ID, Visibility
from proxy.domain.signature import MediaAccess
from proxy.serving.purge import PurgeService
from proxy.storage.database import MediaRepository
from proxy.storage.database.choices import ChoicesRepository
from proxy.web.auth import KeyGuard
from proxy.web.json_response import json_route
from proxy.web.request_input import path_id, read_json, require_json

_MAX_JSON_BYTES = 1024
_NOT_FOUND = "there is no image with this id"


@dataclass(frozen=True, slots=True)
class NewVisibility:
    """The body of ``PUT``; other members are ignored."""

    visibility: Annotated[Visibility, Field(description="Who may see the image.")]


@dataclass(frozen=True, slots=True)
class MediaVisibility:
    """Who may see an image now."""

    id: int
    visibility: Annotated[
        Visibility | None, Field(description="Null: the default of its data type applies.")
    ]
    private: Annotated[bool, Field(description="Whether its URLs must be signed.")]
    dropped: Annotated[int, Field(ge=0, description="Renditions that were deleted here.")]
    tag: Annotated[str, Field(description="To purge it from a CDN: a value of Cache-Tag.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibilityHandler:
    """Changes who may see a medium. The key is checked before anything else."""

    guard: KeyGuard
    choices: ChoicesRepository
    purger: PurgeService
    database: MediaRepository
    access: MediaAccess
    stall_s: float
    """A request body must arrive completely within this time."""

    @json_route("visibility")
    async def set_visibility(self, request: web.Request) -> MediaVisibility:
        """Make an image public or private, on all servers within 2 s. Idempotent."""
        self.guard.check(request)
        media_id = path_id(request)
        require_json(request)
        body = await read_json(request, max_bytes=_MAX_JSON_BYTES, stall_s=self.stall_s)
        try:
            visibility = Visibility(str(body.get("visibility")))
        except ValueError:
            raise BadParameter("visibility", "public or private") from None
        return await self._set(media_id, visibility)

    @json_route("visibility")
    async def reset_visibility(self, request: web.Request) -> MediaVisibility:
        """Let the default of the data type decide again who may see an image. Idempotent."""
        self.guard.check(request)
        return await self._set(path_id(request), None)

    async def _set(self, media_id: int, visibility: Visibility | None) -> MediaVisibility:
        # The database driver rejects larger numbers.
        if media_id > MAX_MEDIA_ID:
            raise MediaNotFound(_NOT_FOUND)
        if await self.choices.set_visibility(media_id, visibility) is None:
            raise MediaNotFound(_NOT_FOUND)
        # Drops the row from the cache too, so that it is read with the new value.
        purged = await self.purger.apply_recorded(media_id)
        media = await self.database.find(media_id)
        if media is None:
            raise MediaNotFound(_NOT_FOUND)
        private = self.access.is_private(media)
        return MediaVisibility(media_id, visibility, private, purged.dropped, f"m-{media_id}")
