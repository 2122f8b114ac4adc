"""What editors decide about an image: crops, background, alternative texts, and who may see it.

Positions are fractions of the upright image, as it is shown: they stay valid for every size.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import structlog
from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.domain.errors import BadParameter, MediaNotFound
from proxy.domain.language import LANGUAGE_ADVICE, canonical_tag
from proxy.domain.media import (
    MAX_MEDIA_ID,
    MIN_CROP,
    Background,
    CropBox,
    Focus,
    MediaChoices,
    Visibility,
    is_crop,
    is_fraction,
)
from proxy.domain.request import last_values
from proxy.domain.signature import MediaAccess
from proxy.domain.urls import version_of
from proxy.domain.variant import Fit, SizeSpec
from proxy.serving.purge import PurgeService
from proxy.storage.database import MediaRepository
from proxy.storage.database.choices import MAX_TEXTS, AltTextRepository, ChoicesRepository
from proxy.web.auth import KeyGuard, caller_of
from proxy.web.headers import media_tag
from proxy.web.json_response import json_route
from proxy.web.request_input import path_id, read_json, require_json

MAX_ALT = 1000
"""Characters of an alternative text."""
_MAX_BYTES = 512 * 1024
"""`MAX_TEXTS` of the longest texts, each character escaped, take a little more than this."""

log = structlog.get_logger(__name__)

# A misspelt member would be ignored otherwise.
_STRICT = ConfigDict(extra="forbid")
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=MIN_CROP, le=1)]


@dataclass(frozen=True, slots=True)
class FocalPoint:
    """The point that crops keep, as fractions of the upright image's width and height."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    x: Fraction
    y: Fraction


@dataclass(frozen=True, slots=True)
class CropRegion:
    """The region that a size keeps, as fractions of the upright image's width and height.

    `x` and `y` are its left upper corner. It is kept as a whole: the crop grows around it to the
    aspect ratio of the size.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    x: Fraction
    y: Fraction
    width: Share
    height: Share


@dataclass(frozen=True, slots=True)
class BackgroundDefault:
    """The value of `bg` for addresses without one."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    value: Background


@dataclass(frozen=True, slots=True)
class NewVisibility:
    """Who may see an image."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    visibility: Visibility


@dataclass(frozen=True, slots=True)
class EditorChoices:
    """What editors have set for an image. Null: decided automatically."""

    media_id: int
    focus: FocalPoint | None
    crops: Annotated[Mapping[str, CropRegion], Field(description="By name of the size.")]
    background: Background | None
    visibility: Annotated[
        Visibility | None, Field(description="Null: the default of its data type applies.")
    ]
    private: Annotated[bool, Field(description="Whether its addresses must be signed.")]
    alt: Annotated[Mapping[str, str], Field(description="Alternative text by language (BCP 47).")]
    version: Annotated[
        str | None, Field(description="The value for `v` now; null: the image is not known yet.")
    ]
    cache_tag: Annotated[
        str, Field(description="Purge this tag at the CDN (Cache-Tag, Surrogate-Key).")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoicesHandler:
    """Handles what editors set. The key is checked before anything else.

    Each value has its own last writer, who wins. A change purges the image on all servers.
    """

    guard: KeyGuard
    database: MediaRepository
    choices: ChoicesRepository
    alts: AltTextRepository
    purger: PurgeService
    access: MediaAccess
    sizes: Mapping[str, SizeSpec]
    stall_s: float
    """A request body must arrive completely within this time."""

    @json_route("choices")
    async def get_choices(self, request: web.Request) -> EditorChoices:
        """Return what editors have set for an image."""
        return await self._shown(self._media_id(request))

    @json_route("choices")
    async def get_focus(self, request: web.Request) -> EditorChoices:
        """Return the focal point of an image among all that editors have set."""
        return await self._shown(self._media_id(request))

    @json_route("choices")
    async def set_focus(self, request: web.Request) -> EditorChoices:
        """Set the point that crops keep in place of the detected one."""
        media_id = self._media_id(request)
        focus = Focus(*_fractions(await self._body(request), "x", "y"))
        changed = self.choices.set_focus(media_id, focus)
        return await self._changed(request, media_id, changed, focus=[focus.x, focus.y])

    @json_route("choices")
    async def delete_focus(self, request: web.Request) -> EditorChoices:
        """Return to the detected focal point. Idempotent."""
        media_id = self._media_id(request)
        return await self._changed(
            request, media_id, self.choices.set_focus(media_id, None), focus=None
        )

    @json_route("choices")
    async def get_crop(self, request: web.Request) -> EditorChoices:
        """Return the crop of a size among all that editors have set."""
        media_id = self._media_id(request)
        await self._size(request, media_id)
        return await self._shown(media_id)

    @json_route("choices")
    async def set_crop(self, request: web.Request) -> EditorChoices:
        """Set the region that a size keeps; it comes before the focal point."""
        media_id = self._media_id(request)
        size = self._cropped_size(request)
        box = CropBox(*_fractions(await self._body(request), "x", "y", "width", "height"))
        for name in ("width", "height"):
            if getattr(box, name) < MIN_CROP:
                raise BadParameter(name, f"at least {MIN_CROP:g}: a smaller region has few pixels")
        if not is_crop(box):
            raise BadParameter(
                "x + width and y + height", "at most 1: the region must lie within the image"
            )
        changed = self.choices.set_crop(media_id, size, box)
        return await self._changed(request, media_id, changed, size=size, crop=list(box))

    @json_route("choices")
    async def delete_crop(self, request: web.Request) -> EditorChoices:
        """Return a size to the automatic crop. Idempotent."""
        media_id = self._media_id(request)
        size = await self._size(request, media_id)
        changed = self.choices.set_crop(media_id, size, None)
        return await self._changed(request, media_id, changed, size=size, crop=None)

    @json_route("choices")
    async def get_background(self, request: web.Request) -> EditorChoices:
        """Return the default of `bg` of an image among all that editors have set."""
        return await self._shown(self._media_id(request))

    @json_route("choices")
    async def set_background(self, request: web.Request) -> EditorChoices:
        """Set the value of `bg` for addresses of an image without one."""
        media_id = self._media_id(request)
        body = await self._body(request)
        if set(body) != {"value"} or body["value"] not in [*Background]:
            raise BadParameter("value", " or ".join(f'"{one}"' for one in Background))
        background = Background(body["value"])
        changed = self.choices.set_background(media_id, background)
        return await self._changed(request, media_id, changed, background=background)

    @json_route("choices")
    async def delete_background(self, request: web.Request) -> EditorChoices:
        """Delete the default: addresses without `bg` show the background again. Idempotent."""
        media_id = self._media_id(request)
        changed = self.choices.set_background(media_id, None)
        return await self._changed(request, media_id, changed, background=None)

    @json_route("choices")
    async def get_visibility(self, request: web.Request) -> EditorChoices:
        """Return who may see an image among all that editors have set."""
        return await self._shown(self._media_id(request))

    @json_route("choices")
    async def set_visibility(self, request: web.Request) -> EditorChoices:
        """Make an image public or private, on all servers within 2 s. Idempotent."""
        media_id = self._media_id(request)
        body = await self._body(request)
        if set(body) != {"visibility"} or body["visibility"] not in [*Visibility]:
            raise BadParameter("visibility", " or ".join(Visibility))
        visibility = Visibility(body["visibility"])
        changed = self.choices.set_visibility(media_id, visibility)
        return await self._changed(request, media_id, changed, visibility=visibility)

    @json_route("choices")
    async def delete_visibility(self, request: web.Request) -> EditorChoices:
        """Let the default of the data type decide again who may see an image. Idempotent."""
        media_id = self._media_id(request)
        changed = self.choices.set_visibility(media_id, None)
        return await self._changed(request, media_id, changed, visibility=None)

    @json_route("choices")
    async def get_alt(self, request: web.Request) -> EditorChoices:
        """Return the alternative texts of an image among all that editors have set."""
        return await self._shown(self._media_id(request))

    @json_route("choices")
    async def set_alt(self, request: web.Request) -> EditorChoices:
        """Set alternative texts by language; texts in other languages stay."""
        media_id = self._media_id(request)
        texts = _texts(await self._body(request))
        write = self.alts.set_texts(media_id, texts)
        written = await self.purger.after_write(media_id, write, renditions=False)
        return await self._written(request, media_id, written, languages=sorted(texts))

    @json_route("choices")
    async def delete_alt(self, request: web.Request) -> EditorChoices:
        """Delete the alternative text in one language, or in all. Idempotent."""
        media_id = self._media_id(request)
        text = last_values(request.rel_url.raw_query_string).get("lang")
        language = None if text is None else canonical_tag(text)
        if text is not None and language is None:
            raise BadParameter("lang", LANGUAGE_ADVICE)
        write = self.alts.delete(media_id, language)
        written = await self.purger.after_write(media_id, write, renditions=False)
        return await self._written(request, media_id, written, deleted=language or "all")

    def _media_id(self, request: web.Request) -> int:
        self.guard.check(request)
        media_id = path_id(request)
        if media_id > MAX_MEDIA_ID:
            raise _not_found(media_id)
        return media_id

    def _cropped_size(self, request: web.Request) -> str:
        """Return the size in the path if it crops."""
        size, names = request.match_info["size"], cropping_sizes(self.sizes)
        if size in names:
            return size
        listed = ", ".join(names) or "there is none in [sizes]"
        why = "the others show the whole image" if size in self.sizes else "no other size crops"
        raise BadParameter("size", f'one with fit = "cover" ({listed}): {why}')

    async def _size(self, request: web.Request, media_id: int) -> str:
        """Return the size in the path if it crops, or if it did when its crop was set."""
        media = await self.database.find(media_id)
        size = request.match_info["size"]
        if media is None or media.choices.crop(size) is None:
            return self._cropped_size(request)
        return size

    async def _body(self, request: web.Request) -> dict[str, Any]:
        require_json(request)
        return await read_json(request, max_bytes=_MAX_BYTES, stall_s=self.stall_s)

    async def _changed(
        self,
        request: web.Request,
        media_id: int,
        change: Coroutine[Any, Any, MediaChoices | None],
        **what: object,
    ) -> EditorChoices:
        choices = await self.purger.after_write(media_id, change)
        return await self._written(request, media_id, choices is not None, **what)

    async def _written(
        self, request: web.Request, media_id: int, found: object, **what: object
    ) -> EditorChoices:
        if not found:
            raise _not_found(media_id)
        # The audit log. The key is shared, so the network is all that is known of the editor.
        log.info(
            "image_choice_changed",
            media_id=media_id,
            cache_tag=media_tag(media_id),
            client=caller_of(request),
            **what,
        )
        return await self._shown(media_id)

    async def _shown(self, media_id: int) -> EditorChoices:
        media = await self.database.find(media_id)
        if media is None:
            raise _not_found(media_id)
        choices, facts = media.choices, media.known_facts
        return EditorChoices(
            media_id,
            focus=None if choices.focus is None else FocalPoint(choices.focus.x, choices.focus.y),
            crops={name: CropRegion(*box) for name, box in choices.crops},
            background=choices.background,
            visibility=choices.visibility,
            private=self.access.is_private(media),
            alt=await self.alts.find(media_id),
            version=None if facts is None else version_of(facts, choices),
            cache_tag=media_tag(media_id),
        )


def cropping_sizes(sizes: Mapping[str, SizeSpec]) -> list[str]:
    """Return the names of the sizes that crop: those that cover a box of two sides."""
    return [
        name
        for name, box in sizes.items()
        if box.fit is Fit.COVER and box.width is not None and box.height is not None
    ]


def _not_found(media_id: int) -> MediaNotFound:
    return MediaNotFound(f"there is no image with id {media_id}")


_SIDES = {"x": "width", "y": "height", "width": "width", "height": "height"}


def _fractions(body: Mapping[str, Any], *names: str) -> list[float]:
    if set(body) != set(names):
        raise BadParameter("the body", f"an object with {', '.join(names)} and nothing else")
    for name in names:
        if not is_fraction(body[name]):
            side = _SIDES[name]
            allowed = f"a number from 0 to 1: a fraction of the image's {side}, not pixels"
            raise BadParameter(name, allowed)
    # Without -0.0.
    return [float(body[name]) + 0.0 for name in names]


def _texts(body: Mapping[str, Any]) -> dict[str, str]:
    """Return alternative texts by canonical language."""
    if not 0 < len(body) <= MAX_TEXTS:
        raise BadParameter("the body", f"an object with 1 to {MAX_TEXTS} texts by language")
    texts: dict[str, str] = {}
    for key, text in body.items():
        language = canonical_tag(key)
        if language is None:
            raise BadParameter("each member", LANGUAGE_ADVICE)
        if language in texts:
            raise BadParameter("each language", f"named once; {language} is named twice")
        if not isinstance(text, str) or len(text) > MAX_ALT:
            allowed = f"a text of at most {MAX_ALT} characters; an empty one marks a decoration"
            raise BadParameter(f"the text in {language}", allowed)
        # Screen readers read one line.
        texts[language] = " ".join(text.split())
    return texts
