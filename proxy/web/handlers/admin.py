"""The admin routes, with the admin key: purging renditions, and near duplicates of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from aiohttp import web
from pydantic import Field

from proxy.domain.errors import BadParameter, MediaNotFound, StorageError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.request import last_values, parse_boxes
from proxy.domain.variant import SizeSpec
from proxy.serving.near_duplicates import NearDuplicates, NearDuplicateSearch
from proxy.serving.purge import PurgeResult, PurgeService
from proxy.storage.database import MediaRepository
from proxy.web.auth import KeyGuard
from proxy.web.json_response import json_route
from proxy.web.request_input import parse_id, path_id

_USER_LIMIT_S = 5.0
"""After this time a purge of a user is answered, although files are left to delete."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class PurgedMedia:
    """The result of purging one image."""

    dropped: Annotated[Count, Field(description="Renditions that were deleted.")]
    recorded: Annotated[
        bool,
        Field(
            description="False if the database did not accept the purge. This server is purged;"
            " the other servers are as soon as the database accepts it, which is retried."
        ),
    ]


@dataclass(frozen=True, slots=True)
class PurgedUser:
    """The result of purging all images of a user."""

    media: Annotated[Count, Field(description="Images that were purged.")]
    dropped: Annotated[Count, Field(description="Renditions that were deleted.")]
    recorded: Annotated[
        bool,
        Field(
            description="False if the database did not accept all purges, or did not list the"
            " images. The cached images of the user are purged here; the rest is retried."
        ),
    ]
    complete: Annotated[
        bool,
        Field(
            description="False if files are still being deleted; none of them is served any more."
        ),
    ]


@dataclass(frozen=True, slots=True)
class PurgedAll:
    """The result of purging all images."""

    recorded: Annotated[
        bool,
        Field(
            description="False if the database did not accept the purge. This server is purged;"
            " the other servers are as soon as the database accepts it, which is retried."
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminHandler:
    """Handles the admin routes. The key is checked before anything else."""

    guard: KeyGuard
    purger: PurgeService
    sizes: Mapping[str, SizeSpec]
    database: MediaRepository
    duplicates: NearDuplicateSearch

    @json_route("purge_media")
    async def purge_media(self, request: web.Request) -> PurgedMedia:
        """Delete an image's renditions, on all servers within 2 s. Idempotent."""
        self.guard.check(request)
        # An unknown id succeeds too: the row may be gone while its renditions still exist.
        media_id, boxes = path_id(request), self._boxes(request)
        purged = await self.purger.medium(media_id, boxes)
        return PurgedMedia(purged.dropped, purged.recorded)

    @json_route("purge_user")
    async def purge_user(self, request: web.Request) -> PurgedUser:
        """Delete the renditions of all of a user's images. Idempotent."""
        self.guard.check(request)
        user_id, boxes = path_id(request), self._boxes(request)
        results: Sequence[PurgeResult] = ()
        complete = True
        # No row can have an id above MAX_MEDIA_ID, and the database driver rejects it.
        if user_id <= MAX_MEDIA_ID:
            if boxes:
                results = [one async for one in self.purger.user(user_id, boxes)]
            else:
                results, complete = await self.purger.user_within(user_id, _USER_LIMIT_S)
        media = sum(one.media_id is not None for one in results)
        # All others are purged, and the client has to repeat this.
        if failed := [one.error for one in results if one.error is not None]:
            raise StorageError(f"{len(failed)} of {media} images: {failed[0].detail}")
        return PurgedUser(
            media,
            dropped=sum(one.dropped for one in results),
            recorded=all(one.recorded for one in results),
            complete=complete,
        )

    @json_route("purge_all")
    async def purge_all(self, request: web.Request) -> PurgedAll:
        """Purge all images, on all servers within 2 s; the files are deleted in the background."""
        self.guard.check(request)
        # A size or an id would be meant to limit what is purged.
        if request.rel_url.raw_query_string:
            raise BadParameter("query", "empty: this purges all images in all sizes")
        return PurgedAll(await self.purger.everything())

    @json_route("near_duplicates")
    async def near_duplicates(self, request: web.Request) -> NearDuplicates:
        """List images that look like this one, also mirrored, rotated or smaller."""
        self.guard.check(request)
        media_id = path_id(request)
        values = last_values(request.rel_url.raw_query_string)
        text = values.get("before", str(MAX_MEDIA_ID))
        before = parse_id("before", text)
        media = await self.database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        if media is None:
            raise MediaNotFound(f"there is no image with id {media_id}")
        return await self.duplicates.find(media, before=min(before, MAX_MEDIA_ID))

    def _boxes(self, request: web.Request) -> tuple[SizeSpec, ...]:
        return parse_boxes(request.rel_url.raw_query_string, sizes=self.sizes)
