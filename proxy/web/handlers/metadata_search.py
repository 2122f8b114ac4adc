"""``GET /api/metadata/search`` and ``/api/metadata/{media_id}``: stored metadata of images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from proxy.domain.errors import BadParameter, MediaNotFound
from proxy.domain.media import MAX_MEDIA_ID
from proxy.metadata.extraction import Extraction
from proxy.metadata.generation.finding import Source
from proxy.metadata.tiers import withhold
from proxy.storage.database.metadata_store import (
    MAX_TAGS,
    MetadataFilter,
    MetadataStore,
    StoredMetadata,
)
from proxy.web.json_response import json_route
from proxy.web.metadata_input import CallerGuard, query_values
from proxy.web.request_input import parse_id, path_id

GENERATORS = tuple(Source)
"""Values of ``aiGenerator``."""
MAX_VERSION = 32
QUALITY_PATTERN = r"[0-9]{1,4}(\.[0-9]{1,9})?"
LIMIT_PATTERN = "[1-9][0-9]?|100"
_DEFAULT_LIMIT = 50
_PARAMETERS = ("aiGenerator", "hasPrompt", "mjVersion", "minQuality", "tags", "cursor", "limit")
_FLAGS = {"true": True, "false": False, "": None}
_NO_METADATA = (
    "There is no metadata of such an image: it does not exist, it belongs to someone else, or its"
    " metadata has not been extracted."
)


@dataclass(frozen=True, slots=True)
class ImageTag:
    """A tag of an image, such as ``generator:midjourney``."""

    tag: str


@dataclass(frozen=True, slots=True)
class ImageUser:
    """The owner of an image; this server knows no names."""

    id: int
    name: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetadata:
    """What is stored of an image. Null: the file does not say it."""

    # The names are those of the requirements.
    id: int
    mediaId: int  # noqa: N815
    filename: str | None
    filesize: int | None
    width: int | None
    height: int | None
    createdAt: datetime | None  # noqa: N815
    userId: int  # noqa: N815
    isAiGenerated: bool  # noqa: N815
    aiGenerator: str  # noqa: N815
    prompt: str | None
    negativePrompt: str | None  # noqa: N815
    steps: int | None
    cfgScale: float | None  # noqa: N815
    sampler: str | None
    scheduler: str | None
    seed: str | None
    checkpointModel: str | None  # noqa: N815
    mjVersion: str | None  # noqa: N815
    mjAspectRatio: str | None  # noqa: N815
    mjChaos: int | None  # noqa: N815
    mjQuality: float | None  # noqa: N815
    mjStylize: int | None  # noqa: N815
    mjJobId: str | None  # noqa: N815
    mjExperimental: int | None  # noqa: N815
    mjWeirdness: int | None  # noqa: N815
    mjRaw: bool | None  # noqa: N815
    comfyNodeCount: int | None  # noqa: N815
    comfyWorkflowId: str | None  # noqa: N815
    engine: str
    extractedAt: datetime | None  # noqa: N815
    tags: list[ImageTag]
    user: ImageUser


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImageMetadata(ImageMetadata):
    """What is stored of an image, with everything that its file says."""

    rawMetadata: dict[str, Any]  # noqa: N815
    """What the caller's tier may not see is withheld."""


@dataclass(frozen=True, slots=True)
class MetadataSearchPage:
    """A page of a search, newest image first. It may have fewer images than the limit."""

    images: list[ImageMetadata]
    next: str | None
    """Value of ``cursor`` for the next page; null on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataSearchHandler:
    """Handles searches. A user finds their own images, MEDIA_API_KEY those of all users."""

    callers: CallerGuard
    store: MetadataStore

    @json_route("metadata_search", coded=True)
    async def search_metadata(self, request: web.Request) -> MetadataSearchPage:
        """Search the stored metadata of images; filters are combined with AND, tags with OR."""
        caller = self.callers.caller_of(request)
        values = query_values(request, _PARAMETERS)
        wanted = _filter(values, None if caller.is_admin else caller.user_id)
        cursor = values.get("cursor")
        before = min(parse_id("cursor", cursor), MAX_MEDIA_ID) if cursor else None
        page = await self.store.search(wanted, before=before, limit=_limit(values))
        return MetadataSearchPage(
            [ImageMetadata(**_members(one)) for one in page.images],
            None if page.next_before is None else str(page.next_before),
        )

    @json_route("metadata_stored", coded=True)
    async def stored_metadata(self, request: web.Request) -> StoredImageMetadata:
        """Return everything that is stored of an image."""
        caller = self.callers.caller_of(request)
        media_id = path_id(request, "media_id")
        found = await self.store.find(media_id) if media_id <= MAX_MEDIA_ID else None
        # One answer for all, so that nobody can find out which ids exist.
        if found is None or not (caller.is_admin or found.user_id == caller.user_id):
            raise MediaNotFound(_NO_METADATA)
        visible = withhold(Extraction(found.metadata or {}, {}, {}), caller.tier)
        return StoredImageMetadata(**_members(found), rawMetadata=dict(visible.metadata))


def _filter(values: Mapping[str, str], user_id: int | None) -> MetadataFilter:
    generator = values.get("aiGenerator", "")
    if generator and generator not in GENERATORS:
        raise BadParameter("aiGenerator", f"one of {', '.join(GENERATORS)}")
    flag = values.get("hasPrompt", "")
    if flag not in _FLAGS:
        raise BadParameter("hasPrompt", "true or false")
    version = values.get("mjVersion", "")
    if len(version) > MAX_VERSION:
        raise BadParameter("mjVersion", f"at most {MAX_VERSION} characters")
    quality = values.get("minQuality", "")
    if quality and not re.fullmatch(QUALITY_PATTERN, quality, re.ASCII):
        raise BadParameter("minQuality", "a number from 0 to 9999, such as 2 or 0.5")
    tags = values.get("tags", "").split(",")
    if len(tags) > MAX_TAGS:
        raise BadParameter("tags", f"at most {MAX_TAGS} tags, separated by commas")
    return MetadataFilter(
        user_id=user_id,
        ai_generator=generator,
        has_prompt=_FLAGS[flag],
        mj_version=version,
        min_quality=float(quality) if quality else None,
        tags=[one for one in tags if one.strip()],
    )


def _limit(values: Mapping[str, str]) -> int:
    text = values.get("limit") or str(_DEFAULT_LIMIT)
    if not re.fullmatch(LIMIT_PATTERN, text, re.ASCII):
        raise BadParameter("limit", "a whole number from 1 to 100")
    return int(text)


def _members(found: StoredMetadata) -> dict[str, Any]:
    columns = {_camel(name): value for name, value in found.columns.items()}
    return {
        **columns,
        "id": found.media_id,
        "mediaId": found.media_id,
        "userId": found.user_id,
        "tags": [ImageTag(one) for one in found.tags],
        "user": ImageUser(found.user_id),
    }


def _camel(column: str) -> str:
    first, *others = column.split("_")
    return first + "".join(map(str.capitalize, others))
