"""Image descriptions: ``/info/{id}``, ``/info`` for many ids, and the gallery's listing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from aiohttp import web
from pydantic import Field

from proxy.domain.errors import AccessDisabled, BadParameter, SmartserveError
from proxy.domain.language import LANGUAGE_ADVICE, best_language, canonical_tag
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.render_plan import RenderPlanner
from proxy.domain.request import Outcome, last_values
from proxy.domain.signature import OPEN_ACCESS, MediaAccess
from proxy.domain.urls import version_of
from proxy.runtime.supervised_task import cancel
from proxy.serving.delivery import Delivery
from proxy.serving.image_info import ImageInfoService
from proxy.settings import LifetimeSettings
from proxy.storage.database import MediaRepository
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.web.auth import NOBODY, KeyHolders, names_loopback
from proxy.web.handlers.images import servable
from proxy.web.handlers.info_json import ImageDescription, describe_image
from proxy.web.headers import NO_STORE, PRIVATE, SECURITY, Header, media_tag, tag_headers
from proxy.web.json_response import cached_json, json_route, problem, uncached_json
from proxy.web.request_input import DIGITS, ID, parse_id, read_json, require_json, whole_number
from proxy.web.responses import Answer, BufferedResponse

MAX_IDS = 100
"""By GET and by POST. The first description of so many takes 14 s of two cores, later ones
0.06 s."""
_PATIENCE_S = 5.0
"""A list is answered after this time at the latest; images that are not described yet are listed
as missing, with status 503, and are described meanwhile."""
_RETRY_AFTER_S = 2
MAX_BODY_BYTES = 16 * 1024
"""`MAX_IDS` of the longest ids, each on its own line, take a fifth of this."""
_DEFAULT_LIMIT, _MAX_LIMIT = 40, 100
_MAX_READS = 25
"""Queries for one page of the gallery: rows of private images are read and left out."""
_LIMIT = re.compile(r"[1-9][0-9]?|100", re.ASCII)

_BY_CALLER: Header = ("Vary", "Authorization")
"""A shared cache must not answer a caller who may see a private image with the 404 of others."""
_PENDING = "the image is still being described; retry later"


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An id that cannot be described, with the status that ``/info/{id}`` would have."""

    id: int
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str


@dataclass(frozen=True, slots=True)
class ImageDescriptions:
    """The descriptions of many images, in the order of their ids."""

    pictures: list[ImageDescription]
    missing: list[MissingImage]


@dataclass(frozen=True, slots=True)
class InfoQuery:
    """The body of ``POST /info``; other members are ignored."""

    ids: Annotated[
        list[Annotated[int, Field(ge=0, le=10**DIGITS - 1)]],
        Field(min_length=1, max_length=MAX_IDS, examples=[[1, 2]]),
    ]


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of the gallery. Null: not known yet."""

    id: int
    name: Annotated[str | None, Field(description="The file name at upload.")]
    settled: Annotated[bool, Field(description="False while it is being processed.")]
    version: str | None
    width: int | None
    height: int | None
    thumbhash: str | None


@dataclass(frozen=True, slots=True)
class GalleryPage:
    """The newest images."""

    pictures: list[ListedImage]
    next: Annotated[
        int | None,
        Field(description="Value of `before` for the next page, even if this one is empty."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoHandler:
    """Handles GET, HEAD and POST of image descriptions."""

    database: CachedMediaRepository
    listing: SqlMediaRepository
    delivery: Delivery
    describer: ImageInfoService
    planner: RenderPlanner
    lifetimes: LifetimeSettings
    language: str
    """Of alternative texts, for requests that name none."""
    stall_s: float
    """A request body must arrive completely within this time."""
    access: MediaAccess = OPEN_ACCESS
    viewers: KeyHolders = NOBODY
    """Who may see private images: for all others they do not exist."""
    local: bool = False
    """Whether the gallery is for this machine only, because the page is enabled by default."""

    async def info(self, request: web.Request) -> BufferedResponse:
        """Return dimensions, placeholders, colours and URLs of an image."""
        outcome = Outcome("info")
        try:
            media_id = parse_id("media_id", request.match_info["id"])
            # Before the look-up: the access log names the image of an error too.
            outcome = outcome._replace(media_id=media_id)
            language, changes = wanted_language(_parameters(request)), self.database.changes
            media = await find_servable(
                self.database, media_id, self.lifetimes, hidden=self._hidden(request)
            )
            description, seconds = await self._describe(media, language)
        except SmartserveError as error:
            not_found_s = self.lifetimes.not_found_s
            return problem(
                error, outcome=outcome, not_found_s=not_found_s, security=(*SECURITY, _BY_CALLER)
            )
        # An image that was changed during its description may be private now. The CDN has been
        # purged already, so it would keep this response.
        if self.access.is_private(media) or self.database.changed_since(media_id, changes):
            return cached_json(request, description, lifetime=NO_STORE, outcome=outcome)
        return cached_json(
            request,
            description,
            lifetime=self._lifetime(seconds),
            outcome=outcome,
            security=_tagged(media_id),
        )

    @json_route("info_many", security=SECURITY)
    async def info_many(self, request: web.Request) -> Answer:
        """Describe many images; ids that fail are listed with the reason."""
        values = _parameters(request)
        texts = values.get("ids", "").split(",")
        # Duplicates do not count: a page may show one image several times.
        allowed = f"1 to {MAX_IDS} media ids without leading zeros, separated by commas"
        ids, hidden = _ids(list(dict.fromkeys(texts)), allowed), self._hidden(request)
        changes = self.database.changes
        found, seconds = await self._describe_all(ids, wanted_language(values), hidden=hidden)
        changed = any(self.database.changed_since(media_id, changes) for media_id in ids)
        # It may have images that are private, or have become so since they were looked up.
        cacheable = hidden is not None and not changed
        # A server-side failure may be over at the next request.
        cacheable &= all(one.status == HTTPStatus.NOT_FOUND for one in found.missing)
        return cached_json(
            request,
            found,
            lifetime=self._lifetime(seconds) if cacheable else NO_STORE,
            outcome=Outcome("info_many"),
            security=(*_tagged(*ids), _BY_CALLER, *_retry_after(found.missing)),
        )

    @json_route("info_many", security=SECURITY)
    async def info_posted(self, request: web.Request) -> Answer:
        """Describe many images, with the ids in the body; never cached."""
        require_json(request)
        body = await read_json(request, max_bytes=MAX_BODY_BYTES, stall_s=self.stall_s)
        # As text, ids pass the same check as those of a query; what is no number becomes "None".
        listed = body.get("ids")
        texts = [str(whole_number(one)) for one in listed] if isinstance(listed, list) else []
        allowed = f"a list of 1 to {MAX_IDS} media ids, whole numbers of 1 to {DIGITS} digits"
        ids, hidden = _ids(texts, allowed), self._hidden(request)
        language = wanted_language(_parameters(request))
        found, _ = await self._describe_all(ids, language, hidden=hidden)
        headers = (*SECURITY, *_retry_after(found.missing))
        return uncached_json(found, outcome=Outcome("info_many"), security=headers)

    @json_route("gallery")
    async def gallery(self, request: web.Request) -> Answer:
        """List the newest images, with what is known without rendering."""
        if self.local and not names_loopback(request):
            raise AccessDisabled(
                "the gallery is for this machine only: use localhost, or set page.enabled = true"
            )
        before, limit = _parse_page(_parameters(request))
        shown, older = await self._newest(before, limit)
        hashes = await self.describer.thumbhashes(shown)
        page = GalleryPage([_listed(one, hashes.get(one.id)) for one in shown], older)
        outcome = Outcome("gallery")
        return cached_json(request, page, lifetime="no-cache", outcome=outcome, security=PRIVATE)

    async def _newest(self, before: int, limit: int) -> tuple[Sequence[Media], int | None]:
        """Return the newest public images, and the id below which there may be more, or None.

        The page has no key: it could not show a private image, so it does not list it either.
        """
        shown: list[Media] = []
        for _ in range(_MAX_READS):
            media = await self.listing.newest(before=before, limit=limit)
            shown += [one for one in media if not self.access.is_private(one)]
            if len(media) < limit and len(shown) <= limit:
                return shown, None
            if len(shown) >= limit:
                return shown[:limit], shown[limit - 1].id
            before = media[-1].id
        # Nearly all of these images are private: the client continues below them.
        return shown, before

    def _hidden(self, request: web.Request) -> MediaAccess | None:
        """Return what hides private images from a caller; None: nothing does."""
        return None if self.viewers.include(request) else self.access

    async def _describe_all(
        self, ids: Sequence[int], language: str | None, *, hidden: MediaAccess | None
    ) -> tuple[ImageDescriptions, int | None]:
        """Return the descriptions, and their max-age as `_describe` does."""

        async def describe(media_id: int) -> tuple[ImageDescription | MissingImage, int | None]:
            try:
                media = rows.get(media_id)
                # Raises the reason: there is no such row, or it could not be read.
                if media is None or (hidden is not None and hidden.is_private(media)):
                    media = await find_servable(
                        self.database, media_id, self.lifetimes, hidden=hidden
                    )
                retry_after_s = self.lifetimes.not_ready_retry_s
                media = servable(media, retry_after_s=retry_after_s)
                return await self._describe(media, language)
            # One image that fails costs only itself, never the list.
            except SmartserveError as error:
                # As the 404 of a single image: an image that is not ready will soon be.
                longest = self.lifetimes.not_found_s
                seconds = min(longest, error.retry_after_s or longest)
                return MissingImage(media_id, error.status, error.detail), seconds

        known = [media_id for media_id in ids if media_id <= MAX_MEDIA_ID]
        rows = await self.database.find_many(known)
        await self.describer.preload(known)
        # All at once: they share queries and look-ups, and `describer` limits the workers in use.
        # So a slow image delays no other one.
        tasks = [asyncio.create_task(describe(media_id)) for media_id in ids]
        try:
            await asyncio.wait(tasks, timeout=_PATIENCE_S)
        finally:
            # What was computed for them so far goes on, and the next request finds its result.
            await cancel(*(task for task in tasks if not task.done()))
        found = [
            (MissingImage(media_id, HTTPStatus.SERVICE_UNAVAILABLE, _PENDING), None)
            if task.cancelled()
            else task.result()
            for media_id, task in zip(ids, tasks, strict=True)
        ]
        descriptions = ImageDescriptions(
            [one for one, _ in found if isinstance(one, ImageDescription)],
            [one for one, _ in found if isinstance(one, MissingImage)],
        )
        return descriptions, min((one for _, one in found if one is not None), default=None)

    async def _describe(
        self, media: Media, wanted: str | None
    ) -> tuple[ImageDescription, int | None]:
        """Return the description, and its max-age in seconds; None: the usual one."""
        # None during a render of the image; then no format is reported as ready. First, because
        # all images of a list come here together and share one look-up.
        stored = await self.delivery.stored(media.id) or ()
        info = await self.describer.describe(media)
        ready = self.planner.available(media, info.facts, frozenset(stored))
        formats = self.planner.formats(media, info.facts)
        language = best_language(info.alt_texts, wanted, self.language)
        signer = self.access.sign_rendition if self.access.is_private(media) else None
        description = describe_image(
            media,
            info,
            self.planner.rules.sizes,
            formats,
            ready,
            language=language,
            signer=signer,
        )
        return description, short_lifetime(self.lifetimes, media, lasting=info.lasting)

    def _lifetime(self, seconds: int | None) -> str:
        if seconds is not None:
            return f"public, max-age={seconds}"
        stale = self.lifetimes.api_stale_s
        return f"public, max-age={self.lifetimes.api_s}, stale-while-revalidate={stale}"


async def find_servable(
    database: MediaRepository,
    media_id: int,
    lifetimes: LifetimeSettings,
    *,
    hidden: MediaAccess | None,
) -> Media:
    """Return the row of an image that can be served.

    Private images do not exist for a caller from whom they are ``hidden``.

    Raises:
        MediaNotFound: there is no such row, or it is not served.
        MediaNotReady: the image is still being processed.
    """
    media = await database.find(media_id) if media_id <= MAX_MEDIA_ID else None
    # Checked before the state: the answer "is being processed" would confirm that the image exists.
    if media is not None and hidden is not None and hidden.is_private(media):
        media = None
    return servable(media, retry_after_s=lifetimes.not_ready_retry_s)


def short_lifetime(lifetimes: LifetimeSettings, media: Media, *, lasting: bool) -> int | None:
    """Return the max-age of a description that will soon be another, in seconds; else None.

    One that is not ``lasting`` was made without the original, or without texts of the database.
    """
    limits = [] if lasting else [lifetimes.fallback_s]
    # The size may change while the image is being processed.
    if not media.completed:
        limits.append(lifetimes.processing_s)
    return min(limits, default=None)


def _parameters(request: web.Request) -> Mapping[str, str]:
    return last_values(request.rel_url.raw_query_string)


def wanted_language(values: Mapping[str, str]) -> str | None:
    """Return the parameter ``lang`` in canonical case; None if it is absent or empty.

    Accept-Language does not count: one address would have a response for each of its values, which
    caches would have to keep apart.
    """
    text = values.get("lang")
    if not text:
        return None
    language = canonical_tag(text)
    if language is None:
        raise BadParameter("lang", LANGUAGE_ADVICE)
    return language


def _tagged(*media_ids: int) -> Sequence[Header]:
    return (*SECURITY, *tag_headers([media_tag(media_id) for media_id in media_ids]))


def _retry_after(missing: Sequence[MissingImage]) -> Sequence[Header]:
    """Return Retry-After if a later request may describe more images."""
    later = any(one.status == HTTPStatus.SERVICE_UNAVAILABLE for one in missing)
    return [("Retry-After", str(_RETRY_AFTER_S))] if later else []


def _listed(media: Media, thumbhash: str | None) -> ListedImage:
    facts = media.known_facts
    return ListedImage(
        media.id,
        media.original_name,
        media.completed,
        version=None if facts is None else version_of(facts, media.choices),
        width=None if facts is None else facts.width,
        height=None if facts is None else facts.height,
        thumbhash=thumbhash,
    )


def _ids(texts: Sequence[str], allowed: str) -> list[int]:
    """Return each id once, in their order."""
    if not 0 < len(texts) <= MAX_IDS or not all(map(ID.fullmatch, texts)):
        raise BadParameter("ids", allowed)
    return list(dict.fromkeys(map(int, texts)))


def _parse_page(values: Mapping[str, str]) -> tuple[int, int]:
    # An empty value counts as not given.
    before = parse_id("before", values.get("before") or str(MAX_MEDIA_ID))
    limit = values.get("limit") or str(_DEFAULT_LIMIT)
    if not _LIMIT.fullmatch(limit):
        raise BadParameter("limit", f"a whole number from 1 to {_MAX_LIMIT}")
    # The database driver rejects larger numbers.
    return min(before, MAX_MEDIA_ID), int(limit)
