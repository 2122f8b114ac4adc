"""The JSON of ``GET /info/{id}``: an image's description with the URLs of its renditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.domain.analysis import Likelihood, SourceGamut
from proxy.domain.formats import Format
from proxy.domain.media import NO_CHOICES, Background, Media, MediaChoices, MediaFacts
from proxy.domain.render_plan import is_transparent
from proxy.domain.urls import (
    COMPONENT_PATH,
    OEMBED_PATH,
    Signer,
    image_url,
    info_url,
    srcset,
    srcset_widths,
    version_of,
)
from proxy.domain.variant import SizeSpec, plan_geometry
from proxy.serving.image_info import MAX_DATA_URI, ImageInfo

Stage = Literal["draft", "final"]
Side = Annotated[int, Field(ge=1, description="Pixels.")]
Path = Annotated[str, Field(pattern="^/")]
_DataUri = Field(pattern="^data:image/webp;base64,", max_length=MAX_DATA_URI)


@dataclass(frozen=True, slots=True)
class Placeholders:
    """Three placeholders to show until the image has loaded."""

    thumbhash: Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
    blurhash: Annotated[str, Field(min_length=6)]
    data_uri: Annotated[str, _DataUri, Field(description="A tiny WebP image.")]


Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class GamutReport:
    """Colours of the original that a rendition cannot represent, by its gamut."""

    outside_srgb: Annotated[Share, Field(description="Share of the pixels that sRGB clips.")]
    outside_p3: Annotated[Share, Field(description="Share of the pixels that Display P3 clips.")]
    gain_map: Annotated[bool, Field(description="A JPEG has the gain map of the original (HDR).")]


Named = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisDetails:
    """Values of an analysis that are returned wherever it is. Null: not determined."""

    subject: str | None = None
    detected_objects: Annotated[Named | None, Field(description="`name`, `confidence`, `box`.")] = (
        None
    )
    detected_text: str | None = None
    detected_logos: Annotated[
        Named | None, Field(description="Brands: `name`, `confidence`, `box`.")
    ] = None
    labels: Annotated[Named | None, Field(description="`name`, `confidence`.")] = None
    safe_search: Annotated[
        Mapping[str, Likelihood] | None, Field(description="Likelihood by kind of content.")
    ] = None
    confidence_score: float | None = None
    brand_colors: Annotated[Sequence[str] | None, Field(description="Of logos.")] = None
    site_context: Annotated[
        Mapping[str, Any] | None,
        Field(description="Of images of sites: `content_class`, `brand_colors`, `logo_media_id`."),
    ] = None
    embedding: Annotated[
        Mapping[str, Any] | None,
        Field(description="`model`, `dimensions`; the vector is used by the search only."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSummary(AnalysisDetails):
    """What the analysis found. Null: not determined."""

    kind: str
    style: str | None
    medium: str | None
    quality_score: Annotated[int, Field(ge=0, le=100)]
    mood_keywords: Sequence[str]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Width and height of a rendition."""

    width: Side
    height: Side


@dataclass(frozen=True, slots=True)
class ImageFormats:
    """The formats of an image: which are served, and which renditions exist already."""

    served: Sequence[Format]
    ready: Annotated[
        Mapping[str, Mapping[str, Stage]], Field(description="Stage by size and format.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDescription:
    """What a page needs to know about an image before it loads."""

    id: Annotated[int, Field(ge=0)]
    version: Annotated[str, Field(pattern="^[0-9a-f]{16}$", description="The value for `v`.")]
    width: Side
    height: Side
    ratio: Annotated[float, Field(gt=0, description="Width divided by height.")]
    animated: bool
    transparent: bool
    placeholders: Placeholders
    dominant_colors: Annotated[
        Sequence[Mapping[str, Any]], Field(description="`hex`, `percent`; most frequent first.")
    ]
    gamut: Annotated[GamutReport | None, Field(description="Null: not measured.")]
    alt: Annotated[
        str | None,
        Field(description="Text for the alt attribute: of a person, else of a model, else null."),
    ]
    alt_language: Annotated[
        str | None, Field(description="Language of `alt` (BCP 47); null: of a model, or no text.")
    ]
    alts: Annotated[
        Mapping[str, str], Field(description="Texts that people wrote, by language (BCP 47).")
    ]
    background: Annotated[Background, Field(description="`bg` of addresses without it.")]
    analysis: AnalysisSummary
    urls: Annotated[Mapping[str, Path], Field(description="URL by size.")]
    dimensions: Annotated[Mapping[str, Dimensions], Field(description="By size.")]
    srcset: Annotated[
        Mapping[str, Path], Field(description="For the srcset attribute, by format or `auto`.")
    ]
    sizes: Annotated[str, Field(description="For the sizes attribute.")]
    formats: ImageFormats
    links: Mapping[str, Path]


def dimensions(size: SizeSpec, facts: MediaFacts, choices: MediaChoices = NO_CHOICES) -> Dimensions:
    """Return the dimensions that a rendition of this size has."""
    geometry = plan_geometry(size, facts, choices)
    return Dimensions(geometry.width, geometry.height)


def sizes_advice(facts: MediaFacts) -> str:
    """Return a value for ``sizes``: as wide as the window, but never wider than the image."""
    # With `auto`, browsers that support it measure the layout box of a lazy image themselves.
    width = srcset_widths(facts)[-1][1]
    return f"auto, (min-width: {width}px) {width}px, 100vw"


def _gamut_report(found: SourceGamut) -> GamutReport:
    return GamutReport(found.outside_srgb, found.outside_p3, found.gain_map)


def describe_image(
    media: Media,
    info: ImageInfo,
    sizes: Mapping[str, SizeSpec],
    formats: tuple[Format, ...],
    ready: Mapping[str, Mapping[Format, bool]],
    *,
    language: str | None = None,
    signer: Signer | None = None,
) -> ImageDescription:
    """Return the description; ``ready`` says for each stored rendition whether it is final.

    ``language`` is that of the alternative text of a person; None: that of a model. ``signer``
    signs the addresses of a private image.
    """
    facts, pixels, analysis = info.facts, info.pixels, info.analysis
    media_id, version = media.id, version_of(facts, media.choices)
    return ImageDescription(
        id=media_id,
        version=version,
        width=facts.width,
        height=facts.height,
        ratio=round(facts.width / facts.height, 4),
        animated=facts.animated,
        transparent=is_transparent(media, facts),
        placeholders=Placeholders(pixels.thumbhash, pixels.blurhash, pixels.data_uri),
        dominant_colors=list(pixels.dominant_colours),
        gamut=None if pixels.gamut is None else _gamut_report(pixels.gamut),
        alt=analysis.alt if language is None else info.alt_texts[language],
        alt_language=language,
        alts=info.alt_texts,
        background=media.choices.background or Background.ORIGINAL,
        analysis=AnalysisSummary(
            kind=pixels.kind,
            style=analysis.style,
            medium=analysis.medium,
            quality_score=pixels.quality_score,
            # A vision model describes moods better than the colours do.
            mood_keywords=list(analysis.mood_keywords or pixels.mood_keywords),
            **analysis.details,
        ),
        urls={
            name: image_url(media_id, size=name, version=version, signer=signer) for name in sizes
        },
        dimensions={name: dimensions(size, facts, media.choices) for name, size in sizes.items()},
        srcset={
            # Without a format in its URLs: the Accept header decides.
            "auto": srcset(media_id, facts, version, signer=signer),
            **{fmt.value: srcset(media_id, facts, version, fmt, signer=signer) for fmt in formats},
        },
        sizes=sizes_advice(facts),
        formats=ImageFormats(
            formats,
            {
                size: {fmt.value: "final" if final else "draft" for fmt, final in stages.items()}
                for size, stages in ready.items()
            },
        ),
        links={
            "self": info_url(media_id),
            "picture": image_url(media_id, signer=signer),
            "component": COMPONENT_PATH,
            "oembed": OEMBED_PATH,
        },
    )
