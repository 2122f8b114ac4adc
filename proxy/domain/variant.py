"""A variant: one picture as it goes out, fully resolved, with its key and its ETag; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from proxy.domain.formats import EncoderProfile, EncodingStage, Format, QualitySearch
from proxy.domain.geometry import SHAPE_DIGITS, Geometry, plan_geometry
from proxy.domain.media import Media, MediaFacts
from proxy.domain.query import VariantRequest

_RECIPE = 2
"""Raised whenever the same variant would come out as other pixels: it is a part of every key."""


@dataclass(frozen=True)
class Variant:
    """One picture as it goes out, fully resolved; equal variants have equal keys."""

    media_id: int
    version: str
    """Content hash of the source."""
    geometry: Geometry
    profile: EncoderProfile
    background_removed: bool
    animated: bool
    recipe: str
    """Version of this code's own parameters and of libvips."""
    search: QualitySearch | None = None
    """How the quality is found, where the profile does not fix it."""
    alternative: EncodingStage | None = None
    """Another format that goes out in place of this one where it comes out smaller."""
    base: tuple[int, int] | None = None
    """The size whose pixels this one is made of; None where it is made of the source's own."""

    @property
    def stage(self) -> EncodingStage:
        """How it is encoded."""
        return EncodingStage(self.profile, self.search)

    @property
    def pixels(self) -> int:
        """Of one page."""
        return self.geometry.width * self.geometry.height

    @property
    def format(self) -> Format:
        """The format that goes out, unless the alternative is smaller."""
        return self.profile.format

    @cached_property
    def key(self) -> str:
        """Canonical text of the variant: a pure function of all that decides its bytes."""
        return "/".join(
            (
                str(self.media_id),
                self.version,
                self.geometry.text,
                *self._encoding(),
                "removed" if self.background_removed else "original",
                "animated" if self.animated else "still",
                self.recipe,
            )
        )

    def _encoding(self) -> Iterable[str]:
        yield self.stage.text
        if self.alternative is not None:
            yield f"or:{self.alternative.text}"
        if self.base is not None:
            yield f"of:{self.base[0]}x{self.base[1]}"

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the key: a file name, and the ETag's content.

        The first 8 are the shape: so a store finds what a medium has in one size, whatever the
        format, the stage and the release that made it.
        """
        return self.geometry.shape + blake2b(self.key.encode(), digest_size=12).hexdigest()

    @cached_property
    def etag(self) -> str:
        """Strong ETag (RFC 9110, 8.8.3), equal on every node."""
        return f'"{self.digest}"'


Shapes = Collection[str] | None
"""Of which shapes renditions are purged; None for all."""


def has_shape(digest: str, shapes: Shapes) -> bool:
    """Whether the digest of a variant is one of these shapes."""
    return shapes is None or digest[:SHAPE_DIGITS] in shapes


def recipe(libvips_version: str, *, copyright_notice: str | None = None) -> str:
    """The part of every key that stands for the code that made the pixels, and its mark on them."""
    code = f"r{_RECIPE}-vips{libvips_version}"
    if not copyright_notice:
        return code
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
    """Resolve a checked request against a picture and the encoding that was chosen for it.

    ``bg=removed`` on a picture without a flat background resolves to the original, so that the
    two share one rendition. What is as large as the ``base`` is made of the source itself.
    """
    animated = facts.animated and stage.profile.format in (Format.WEBP, Format.GIF)
    geometry = plan_geometry(request.box, facts)
    within = base is not None and geometry.scaled_width < base[0]
    return Variant(
        media_id=media.id,
        version=facts.content_hash,
        geometry=geometry,
        profile=stage.profile,
        background_removed=request.remove_background and facts.flat_background,
        animated=animated,
        recipe=recipe,
        search=stage.search,
        alternative=alternative,
        base=base if within and not animated else None,
    )
