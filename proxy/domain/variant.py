"""Variants: fully resolved requests for one rendition, with key, digest and ETag. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b

from proxy.domain.formats import EncoderProfile, EncodingStage, Format, QualitySearch
from proxy.domain.geometry import SHAPE_DIGITS, Geometry, plan_geometry
from proxy.domain.media import Media, MediaFacts
from proxy.domain.query import VariantRequest

_RECIPE = 2
"""Version of the rendering code, a part of every key. Increase it if a change of the code gives
different pixels for the same variant."""


@dataclass(frozen=True)
class Variant:
    """Everything that determines the bytes of one rendition. Equal variants have equal keys."""

    media_id: int
    version: str
    """Content hash of the source."""
    geometry: Geometry
    profile: EncoderProfile
    background_removed: bool
    animated: bool
    recipe: str
    """From `recipe`: versions of the rendering code and of libvips."""
    search: QualitySearch | None = None
    """The quality search; None if the profile fixes the quality."""
    alternative: EncodingStage | None = None
    """Another format that is sent instead if its file is smaller."""
    base: tuple[int, int] | None = None
    """Width and height of the intermediate image that this one is scaled from; None: the source."""

    @property
    def stage(self) -> EncodingStage:
        """Profile and search."""
        return EncodingStage(self.profile, self.search)

    @cached_property
    def pixels(self) -> int:
        """Pixels of one page."""
        return self.geometry.width * self.geometry.height

    @cached_property
    def format(self) -> Format:
        """The format of the profile; the alternative is sent instead if its file is smaller."""
        return self.profile.format

    @cached_property
    def key(self) -> str:
        """Canonical text of everything that determines the bytes."""
        return "/".join(
            (
                str(self.media_id),
                self.version,
                _geometry_text(self.geometry)[0],
                *self._encoding(),
                "removed" if self.background_removed else "original",
                "animated" if self.animated else "still",
                self.recipe,
            )
        )

    def _encoding(self) -> Iterable[str]:
        yield stage_text(self.profile, self.search)
        if self.alternative is not None:
            yield f"or:{stage_text(self.alternative.profile, self.alternative.search)}"
        if self.base is not None:
            yield f"of:{self.base[0]}x{self.base[1]}"

    @cached_property
    def digest(self) -> str:
        """Hash of the key in 32 hexadecimal digits: the file name and the content of the ETag."""
        # The first 8 digits are the shape. A store finds the renditions of one size by them,
        # whatever their format, stage and release.
        shape = _geometry_text(self.geometry)[1]
        return shape + blake2b(self.key.encode(), digest_size=12).hexdigest()

    @cached_property
    def etag(self) -> str:
        """Strong ETag (RFC 9110, 8.8.3), equal on every node."""
        return f'"{self.digest}"'


@lru_cache(maxsize=1024)
def _geometry_text(geometry: Geometry) -> tuple[str, str]:
    """Return the text and the shape of a geometry, which draft and final share."""
    return geometry.text, geometry.shape


@lru_cache(maxsize=64)
def stage_text(profile: EncoderProfile, search: QualitySearch | None) -> str:
    """Return the text of `EncodingStage`. Cached: each key contains it, and there are few."""
    return EncodingStage(profile, search).text


Shapes = Collection[str] | None
"""Shapes whose renditions are purged; None: all."""


def has_shape(digest: str, shapes: Shapes) -> bool:
    """Return whether the digest of a variant has one of these shapes."""
    return shapes is None or digest[:SHAPE_DIGITS] in shapes


def recipe(libvips_version: str, *, copyright_notice: str | None = None) -> str:
    """Return the part of a key that identifies the rendering code and the copyright notice."""
    code = f"r{_RECIPE}-vips{libvips_version}"
    if not copyright_notice:
        return code
    # The hash keeps the key short and free of characters from the notice.
    return f"{code}-c{blake2b(copyright_notice.encode(), digest_size=8).hexdigest()}"


def resolve(
    request: VariantRequest,
    media: Media,
    facts: MediaFacts,
    *,
    stage: EncodingStage,
    recipe: str,
    alternative: EncodingStage | None = None,
    base: tuple[int, int] | None = None,
) -> Variant:
    """Resolve a validated request for an image and the encoding chosen for it."""
    # Other formats show the first page of an animation.
    animated = facts.animated and stage.profile.format in (Format.WEBP, Format.GIF)
    geometry = plan_geometry(request.box, facts)
    # An image as large as the base gains nothing from it and is scaled from the source.
    within = base is not None and geometry.scaled_width < base[0]
    return Variant(
        media_id=media.id,
        version=facts.content_hash,
        geometry=geometry,
        profile=stage.profile,
        # Without a flat background nothing is removed: both values of bg share one rendition.
        background_removed=request.remove_background and facts.flat_background,
        animated=animated,
        recipe=recipe,
        search=stage.search,
        alternative=alternative,
        # An animation is always scaled from its source, page by page.
        base=base if within and not animated else None,
    )
