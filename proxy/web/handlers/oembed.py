"""oEmbed: the data to embed an image, given only its URL (https://oembed.com, version 1.0)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from aiohttp import web
from pydantic import Field

from proxy.domain.errors import BadParameter, MediaNotFound, SmartserveError
from proxy.domain.language import best_language
from proxy.domain.media import Media, MediaFacts
from proxy.domain.request import Outcome
from proxy.domain.signature import OPEN_ACCESS, MediaAccess
from proxy.domain.urls import image_url, parse_image_path, srcset_widths, version_of
from proxy.domain.variant import SizeSpec
from proxy.serving.image_info import AltTexts, ImageInfoService
from proxy.settings import LifetimeSettings
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.web.handlers.info import find_servable, short_lifetime, wanted_language
from proxy.web.handlers.info_json import Dimensions, Side, dimensions
from proxy.web.headers import NO_STORE, SECURITY, media_tag, tag_headers
from proxy.web.json_response import Problem, cached_json, problem, render_problem
from proxy.web.responses import BufferedResponse

_SIDE = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_DEFAULT_MAX_WIDTH = 1200
_THUMBNAIL_WIDTH = 384
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~"

AbsoluteUrl = Annotated[str, Field(pattern="^https?://")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """An oEmbed response of type photo."""

    version: Literal["1.0"] = "1.0"
    type: Literal["photo"] = "photo"
    title: Annotated[str | None, Field(description="Alternative text. Absent: there is none.")] = (
        None
    )
    url: AbsoluteUrl
    width: Side
    height: Side
    thumbnail_url: AbsoluteUrl
    thumbnail_width: Side
    thumbnail_height: Side
    provider_name: str = "smartserve"
    provider_url: str
    cache_age: Annotated[int, Field(description="Seconds.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class OembedHandler:
    """Handles ``/oembed?url=``, for URLs of this server only."""

    database: CachedMediaRepository
    describer: ImageInfoService
    language: str
    """Of alternative texts, for requests that name none."""
    public_url: str
    """The server's URL as clients see it. If empty, only the Host header is compared."""
    lifetimes: LifetimeSettings
    access: MediaAccess = OPEN_ACCESS

    async def oembed(self, request: web.Request) -> BufferedResponse:
        """Return an image as a photo of oEmbed 1.0."""
        outcome = Outcome("oembed")
        # Not `last_values`, which ends a value at a question mark: `url` may have one. `&amp;` is
        # the `&` of an address that was copied from HTML.
        values = {name.lower().removeprefix("amp;"): value for name, value in request.query.items()}
        # oEmbed requires a 501 for a format that is not implemented, and a 404 for other URLs.
        fmt = values.get("format", "").lower()
        if fmt == "xml":
            detail = "only JSON is implemented: use format=json"
            return render_problem(Problem("Not implemented", 501, detail), outcome=outcome)
        try:
            if fmt not in ("", "json"):
                raise BadParameter("format", "json")
            base, media_id = self._parse(values.get("url", ""), request.headers.get("Host", ""))
            # Before the look-up: the access log names the image of an error too.
            outcome = outcome._replace(media_id=media_id)
            language, changes = wanted_language(values), self.database.changes
            # Private images for everyone: consumers show the answer to people of any kind.
            media = await find_servable(self.database, media_id, self.lifetimes, hidden=self.access)
            source = await self.describer.readable(media)
            texts = await self.describer.alt_texts(media_id)
            lasting = source.original and texts.complete
            seconds = short_lifetime(self.lifetimes, media, lasting=lasting)
            max_age = self.lifetimes.api_s if seconds is None else seconds
            # It may have become private meanwhile, and a CDN was purged before this response.
            changed = self.database.changed_since(media_id, changes)
            photo = _photo(base, media, source.facts, values, 0 if changed else max_age)
        except SmartserveError as error:
            return problem(error, outcome=outcome, not_found_s=self.lifetimes.not_found_s)
        lifetime = NO_STORE if changed else f"public, max-age={max_age}"
        title = self._title(texts, language)
        # oEmbed has no null: what is unknown is left out.
        members = asdict(replace(photo, title=title)).items()
        sent = {name: value for name, value in members if value is not None}
        security = (*SECURITY, *tag_headers([media_tag(media_id)]))
        return cached_json(request, sent, lifetime=lifetime, outcome=outcome, security=security)

    def _title(self, texts: AltTexts, wanted: str | None) -> str | None:
        language = best_language(texts.by_language, wanted, self.language)
        return texts.described if language is None else texts.by_language[language]

    def _parse(self, url: str, host: str) -> tuple[str, int]:
        """Return the server's base URL and the media id of an image's URL.

        Raises:
            BadParameter: it is not an absolute URL.
            MediaNotFound: it is a URL of another server, or not one of an image.
        """
        try:
            parts = urlsplit(url)
            netloc = parts.netloc.lower()
        except ValueError:
            netloc = ""
        if not netloc or parts.scheme not in ("http", "https"):
            raise BadParameter("url", f"the URL of an image: http://HOST{image_url(1)}")
        # Foreign URLs are never fetched, so this route cannot be used to probe other servers.
        known = {host.lower(), urlsplit(self.public_url).netloc.lower()}
        found = parse_image_path(parts.path)
        if netloc not in known or found is None:
            raise MediaNotFound("this is not the URL of an image of this server")
        prefix, media_id = found
        # The query was decoded: the prefix may have characters that no URL has.
        quoted = quote(prefix, safe=_PATH_CHARACTERS)
        return f"{parts.scheme}://{parts.netloc}{quoted}", media_id


def _limit(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name)
    if not text:
        return default
    if not _SIDE.fullmatch(text):
        raise BadParameter(name, "a whole number of pixels, 1 to 99999")
    return int(text)


def _photo(
    base: str, media: Media, facts: MediaFacts, values: Mapping[str, str], cache_age: int
) -> Photo:
    max_width = _limit(values, "maxwidth", _DEFAULT_MAX_WIDTH)
    max_height = _limit(values, "maxheight", sys.maxsize)
    version = version_of(facts, media.choices)

    def largest(max_width: int) -> tuple[str, Dimensions]:
        """Return the URL and the dimensions of the largest rendition within both limits."""
        for width, _ in reversed(srcset_widths(facts, min_width=1)):
            size = dimensions(SizeSpec("", width, None), facts)
            if size.width <= max_width and size.height <= max_height:
                break
        # If even the smallest one, which is the last here, exceeds them, it is used nevertheless.
        return image_url(media.id, base=base, width=width, version=version), size

    url, size = largest(max_width)
    thumbnail, thumbnail_size = largest(min(max_width, _THUMBNAIL_WIDTH))
    return Photo(
        url=url,
        width=size.width,
        height=size.height,
        thumbnail_url=thumbnail,
        thumbnail_width=thumbnail_size.width,
        thumbnail_height=thumbnail_size.height,
        provider_url=base,
        cache_age=cache_age,
    )
