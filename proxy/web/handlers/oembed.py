"""oEmbed: a picture for who has only its address (https://oembed.com, version 1.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from proxy.domain.errors import BadParameter, MediaNotFound, SmartserveError
from proxy.domain.geometry import SizeSpec, plan_geometry
from proxy.domain.media import MAX_MEDIA_ID, Media, MediaFacts
from proxy.domain.outcome import Outcome
from proxy.domain.query import last_values
from proxy.domain.urls import image_url, parse_image_path, srcset_widths, version_of
from proxy.serving.source_facts import SourceFactsService
from proxy.settings import LifetimeSettings
from proxy.storage.database import MediaRepository
from proxy.web.handlers.images import servable
from proxy.web.handlers.info import answer_json
from proxy.web.problem_details import problem, render_problem
from proxy.web.responses import BufferedResponse

_ROUTE = "oembed"
_SIDE = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_WIDEST = 1200
"""What is embedded where the consumer names no width."""
_THUMBNAIL = 384

Json = dict[str, Any]


class OembedHandler:
    """Answers ``/oembed?url=``: photos, by addresses of this server alone."""

    def __init__(
        self,
        *,
        database: MediaRepository,
        inspector: SourceFactsService,
        public_url: str,
        lifetimes: LifetimeSettings,
    ) -> None:
        """``public_url`` is where the outside sees the server; empty: where it is asked."""
        self._database = database
        self._inspector = inspector
        self._public_url = public_url
        self._lifetimes = lifetimes

    async def get(self, request: web.Request) -> BufferedResponse:
        """The photo; 404 for addresses of others, 501 for XML, as the specification has it."""
        outcome = Outcome(_ROUTE)
        values = last_values(request.rel_url.raw_query_string)
        if values.get("format") == "xml":
            detail = "this server speaks of pictures in JSON: format=json"
            return render_problem(501, "Not implemented", detail, outcome=outcome)
        try:
            if values.get("format", "json") not in ("", "json"):
                raise BadParameter("format", "json")
            base, media_id = self._parse(values.get("url", ""), request.headers.get("Host", ""))
            outcome = outcome._replace(media_id=media_id)
            media = await self._media(media_id)
            facts = await self._inspector.facts(media)
            told = _photo(base, media, facts, _sides(values), self._lifetimes.api_s)
        except SmartserveError as error:
            return problem(error, outcome=outcome, not_found_s=self._lifetimes.not_found_s)
        kept = self._lifetimes.api_s if media.settled else self._lifetimes.unsettled_s
        return answer_json(request, told, lifetime=f"public, max-age={kept}", outcome=outcome)

    def _parse(self, url: str, host: str) -> tuple[str, int]:
        """The base and the id of a picture's address, where that is one of this server.

        Raises:
            BadParameter: it is no address.
            MediaNotFound: it is one of others, or of no picture.
        """
        try:
            parts = urlsplit(url)
            where = parts.netloc.lower()
        except ValueError:
            where = ""
        if not where or parts.scheme not in ("http", "https"):
            raise BadParameter("url", f"the address of an image: http://HOST{image_url(1)}")
        known = {host.lower(), urlsplit(self._public_url).netloc.lower()}
        found = parse_image_path(parts.path)
        if where not in known or found is None:
            raise MediaNotFound("this is no address of a picture of this server")
        prefix, media_id = found
        return f"{parts.scheme}://{parts.netloc}{prefix}", media_id

    async def _media(self, media_id: int) -> Media:
        media = await self._database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        return servable(media, retry_after_s=self._lifetimes.not_ready_retry_s)


def _sides(values: Mapping[str, str]) -> tuple[int, int]:
    """The largest width and height that the consumer takes."""
    sides = []
    for name, default in (("maxwidth", _WIDEST), ("maxheight", 0)):
        text = values.get(name) or str(default)
        if name in values and values[name] and not _SIDE.fullmatch(text):
            raise BadParameter(name, "a whole number of pixels, 1 to 99999")
        sides.append(int(text))
    return sides[0], sides[1]


def _photo(
    base: str, media: Media, facts: MediaFacts, sides: tuple[int, int], cache_age: int
) -> Json:
    large, small = (_fitting(facts, *one) for one in (sides, _less(sides)))
    return {
        "version": "1.0",
        "type": "photo",
        "url": _address(base, media, facts, large[0]),
        "width": large[1],
        "height": large[2],
        "thumbnail_url": _address(base, media, facts, small[0]),
        "thumbnail_width": small[1],
        "thumbnail_height": small[2],
        "provider_name": "smartserve",
        "provider_url": base,
        "cache_age": cache_age,
    }


def _less(sides: tuple[int, int]) -> tuple[int, int]:
    return min(sides[0], _THUMBNAIL), sides[1]


def _fitting(facts: MediaFacts, widest: int, highest: int) -> tuple[int, int, int]:
    """The largest rung within both sides, with the pixels that it gives; 0 for no limit.

    Where even the smallest is too large it goes out all the same.
    """
    found = []
    for rung, _ in srcset_widths(facts, min_width=1):
        geometry = plan_geometry(SizeSpec("", rung, None), facts)
        found.append((rung, geometry.width, geometry.height))
    within = [one for one in found if one[1] <= widest and (not highest or one[2] <= highest)]
    return within[-1] if within else found[0]


def _address(base: str, media: Media, facts: MediaFacts, rung: int) -> str:
    return image_url(media.id, base=base, width=rung, version=version_of(facts))
