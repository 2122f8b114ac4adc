"""Analysis of an image: results of its statistics, the providers and text recognition, merged.

A value that nobody could determine is null and has a reason; no value is invented.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Literal, get_args

from proxy.domain.embedding import Embedding
from proxy.domain.media import DataType, Focus
from proxy.domain.perceptual_hash import PerceptualHash


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour and its share of the image."""

    hex: str
    """sRGB as ``#RRGGBB``."""
    percent: float
    """Percentage of the opaque pixels."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Technical quality; each figure is 0 (poor) to 100 (best), or None: it does not count.

    A figure does not count if it has no meaning for the kind of image, as the exposure of a
    drawing, or cannot be measured, as the sharpness of a single colour.
    """

    score: float
    """Mean of the figures that count; bad figures have most weight."""
    sharpness: float | None
    exposure: float | None
    contrast: float | None
    noise: float | None
    """100: no noise."""
    resolution: float | None
    blockiness: float | None
    """100: no visible JPEG blocks."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of image by statistics, with the reason."""

    name: str
    """``photo``, ``logo``, ``graphic``, ``document`` or ``plain``. A graphic on a transparent or
    flat background is a logo; an image of one colour is plain."""
    reason: str


@dataclass(frozen=True, slots=True)
class ContentClass:
    """What an image of a web site is for, with the reason."""

    name: str
    """``banner``, ``background``, ``content`` or ``interface``."""
    reason: str


@dataclass(frozen=True, slots=True)
class SourceGamut:
    """What the file of an image has besides 8-bit sRGB.

    A colour counts as outside of a gamut if it changes noticeably (CIE76 above 2.3) when it is
    converted to it.
    """

    outside_srgb: float = 0.0
    """Share of the pixels, 0 to 1, whose colour sRGB cannot represent."""
    outside_p3: float = 0.0
    """The same for Display P3."""
    gain_map: bool = False
    """Whether it has a gain map that a JPEG can keep."""

    @classmethod
    def parse(cls, stored: object) -> SourceGamut | None:
        """Return a stored value, or None if it is not one."""
        if not isinstance(stored, dict):
            return None
        srgb, p3 = stored.get("outside_srgb"), stored.get("outside_p3")
        if not isinstance(srgb, (int, float)) or not isinstance(p3, (int, float)):
            return None
        if not (0 <= srgb <= 1 and 0 <= p3 <= 1):
            return None
        return cls(float(srgb), float(p3), bool(stored.get("gain_map")))


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """Analysis of the pixels of a source's first page; width and height are upright."""

    width: int
    height: int
    dominant_colours: tuple[Colour, ...]
    """Sorted by frequency, highest first."""
    brand_colours: tuple[Colour, ...]
    """Colours that identify a logo; greys only if there are no other colours."""
    quality: Quality
    mood_keywords: tuple[str, ...]
    """Derived from the colours alone."""
    kind: Kind
    content_class: ContentClass
    """Published for images of web sites only, in ``site_context``."""
    thumbhash: str
    """Base64."""
    blurhash: str
    phash: str
    """64 bits as 16 hexadecimal digits; see `proxy.domain.perceptual_hash`."""
    phash_mask: str
    """The bits of ``phash`` that are distinct, likewise."""
    focus: Focus | None
    gamut: SourceGamut = SourceGamut()
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of processor time for each measure."""


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """An object that a provider detected."""

    name: str
    confidence: float
    """0 to 1."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom as fractions of width and height; None if not located."""


@dataclass(frozen=True, slots=True)
class VisionResult:
    """Answer of a provider. Fields that it does not cover are None or empty."""

    provider: str
    raw: Mapping[str, Any]
    """The unchanged answer, without the image."""
    sent_size: tuple[int, int] | None = None
    """Width and height of the image that was sent; positions in ``raw`` may be in its pixels."""
    style: str | None = None
    medium: str | None = None
    subject: str | None = None
    mood_keywords: tuple[str, ...] = ()
    objects: tuple[DetectedObject, ...] | None = None
    """None if the provider did not search for objects; the same for labels and logos."""
    labels: tuple[DetectedObject, ...] | None = None
    """What the image shows as a whole, without positions."""
    logos: tuple[DetectedObject, ...] | None = None
    """Brands whose logo the image contains."""
    safe_search: Mapping[str, str] | None = None
    """The likelihood (`LIKELIHOODS`) of each kind of content in `SAFE_SEARCH`; None if unknown."""
    embedding: tuple[float, ...] | None = None
    text: str | None = None
    """Empty if the image contains no text; None if the provider did not search for text."""
    confidence: float | None = None
    """0 to 1."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reasons for missing values, by field."""


@dataclass(frozen=True, slots=True)
class ProviderGap:
    """Reason why a provider, or text recognition, gave no answer."""

    provider: str
    reason: str
    temporary: bool = False
    """Whether a later request may succeed."""


SAFE_SEARCH = ("adult", "spoof", "medical", "violence", "racy")
"""Kinds of unsafe content, by the names of Google Vision."""
Likelihood = Literal["UNKNOWN", "VERY_UNLIKELY", "UNLIKELY", "POSSIBLE", "LIKELY", "VERY_LIKELY"]
LIKELIHOODS = get_args(Likelihood)

NO_MODEL = "needs a vision model; none is configured"
_NO_SITE = "only site images have a site context"
_NO_BRAND = "only logos have brand colors"
_NO_EMBEDDING = "needs an embedding model; none is configured"
_NO_LOGO = "the user has no logo with distinct colors"
_NO_FOCUS = "nothing stands out"
_NO_TEXT = "needs a vision model or tesseract; there is neither"
_GOOGLE, _OPENAI = "google", "openai"
ANALYSIS_VERSION = 2
"""Version of the values that are computed from pixels. Raise it if any of them changes: stored ones
of another version are computed again when they are read."""
# Keys in `Analysis.own` that are not published: the providers to retry, the size of the image that
# each provider was sent, and `ANALYSIS_VERSION`.
_PENDING, _SENT, _VERSION = "awaited", "sent", "version"
_UNPUBLISHED = (_PENDING, _SENT, _VERSION)
# Columns of ``media_ai_analysis`` by the name under which they are published.
_PUBLIC_COLUMNS = {
    "style": "style_classification",
    "medium": "medium_detected",
    "subject": "subject_matter",
    "quality_score": "quality_score",
    "mood_keywords": "mood_keywords",
    "dominant_colors": "dominant_colors",
    "detected_objects": "detected_objects",
    "detected_text": "detected_text",
    "confidence_score": "confidence_score",
}


PUBLIC_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "subject": str,
    "detected_objects": list,
    "detected_text": str,
    "detected_logos": list,
    "labels": list,
    "safe_search": dict,
    "confidence_score": (int, float),
    "brand_colors": list,
    "site_context": dict,
    "embedding": dict,
}
"""Published values that are returned wherever an analysis is, with their types."""
_MAX_TEXT = 16_000
"""Characters of a text: its column has 65,535 bytes, and the callback 256 KiB."""

# Published values that only a provider can determine.
_BY_MODEL = (
    *("style", "medium", "subject", "confidence_score", "detected_objects"),
    *("labels", "detected_logos", "safe_search"),
)
# Reasons of null values of the pixels.
_PIXEL_REASONS = {"brand_colors": _NO_BRAND, "focus": _NO_FOCUS}
_PROVIDED = frozenset({"labels", "detected_logos", "safe_search"})
_HASHES = ("thumbhash", "blurhash", "phash", "phash_mask")


@dataclass(frozen=True, slots=True)
class Analysis:
    """The merged analysis of an image as it is stored, with JSON values."""

    columns: Mapping[str, Any]
    """Columns of ``media_ai_analysis``. The objects are null if no provider searched for them; the
    text is empty if a search found none, and null if there was no search."""
    own: Mapping[str, Any]
    """Values that the table has no column for; empty if another program made the analysis. The
    ``reasons`` are those of null values by their published name, and of failures by provider."""
    embedding: Embedding | None = None
    """An embedding to store; None if there is none, or it is stored already."""

    @property
    def pending_providers(self) -> tuple[str, ...]:
        """Providers that failed temporarily and should be retried."""
        return tuple(self.own.get(_PENDING) or ())

    @property
    def outdated(self) -> bool:
        """Whether another version of this program has computed it; False for other programs."""
        # Values of `provider_values` are read from the answers that another program has stored.
        return bool(self.own.keys() - _PROVIDED) and self.own.get(_VERSION) != ANALYSIS_VERSION

    @property
    def ai_enhanced(self) -> bool:
        """Whether a model has answered; statistics and text recognition are none."""
        # Another program may have stored the values of its model without the raw answer.
        by_model = ("style_classification", "medium_detected", "subject_matter")
        raw = ("raw_google_response", "raw_gpt4_response")
        return any(self.columns.get(name) is not None for name in (*by_model, *raw))

    @property
    def perceptual_hash(self) -> PerceptualHash | None:
        """The hash of ``phash``, or None if it is not of this version."""
        if self.outdated:
            return None
        return PerceptualHash.parse(self.own.get("phash"), self.own.get("phash_mask"))

    def sent_size(self, provider: str) -> tuple[int, int] | None:
        """Return width and height of the image that a provider was sent, if they are stored."""
        sizes = self.own.get(_SENT)
        size = sizes.get(provider) if isinstance(sizes, dict) else None
        return (size[0], size[1]) if size else None

    def details(self) -> dict[str, Any]:
        """Return the values of `PUBLIC_TYPES`; None for those that are absent, or of another type.

        Another program, or another version of this one, may have stored them.
        """
        columns = {name: self.columns.get(column) for name, column in _PUBLIC_COLUMNS.items()}
        values = {**columns, **self.own}
        return {
            name: value if isinstance(value := values.get(name), kind) else None
            for name, kind in PUBLIC_TYPES.items()
        }

    def public(self) -> dict[str, Any]:
        """Return the ``analysis`` of ``GET /api/media/analysis/{media_id}``."""
        return {
            **{name: self.columns[column] for name, column in _PUBLIC_COLUMNS.items()},
            **{name: one for name, one in self.own.items() if name not in _UNPUBLISHED},
        }

    def renewed(self, local: AnalysisResult, data_type: str) -> Analysis:
        """Return it with the pixels analysed again; what the providers answered stays."""
        plain = asdict(local)
        columns = {
            **self.columns,
            "dominant_colors": list(plain["dominant_colours"]),
            "quality_score": round(local.quality.score),
        }
        own = {**self.own, **_pixel_values(local, data_type), _VERSION: ANALYSIS_VERSION}
        if data_type == DataType.SITES:
            # An older version stored null for users without a logo.
            site = own.get("site_context")
            own["site_context"] = _site_context(local, site if isinstance(site, dict) else None)
        reasons = own.get("reasons")
        if isinstance(reasons, dict):
            kept = {name: one for name, one in reasons.items() if name not in _PIXEL_REASONS}
            missing = {name: why for name, why in _PIXEL_REASONS.items() if own[name] is None}
            own["reasons"] = kept | missing
            if data_type == DataType.SITES:
                own["reasons"].pop("site_context", None)
        return Analysis(columns, own)


def _pixel_values(local: AnalysisResult, data_type: str) -> dict[str, Any]:
    """Return what ``own`` has of the pixels."""
    plain = asdict(local)
    # Of other images these are the colours of the scene, not of a brand.
    logo = data_type == DataType.LOGO or local.kind.name == "logo"
    quality = {name: part for name, part in plain["quality"].items() if part is not None}
    return {
        "width": local.width,
        "height": local.height,
        "brand_colors": [one.hex for one in local.brand_colours] if logo else None,
        "quality": quality,
        **{name: plain[name] for name in ("kind", *_HASHES, "focus", "gamut")},
    }


def merge(
    local: AnalysisResult,
    answers: Sequence[VisionResult | ProviderGap],
    text: str | ProviderGap,
    *,
    data_type: str,
    brand: Mapping[str, Any] | None = None,
    embedding: Embedding | Mapping[str, Any] | ProviderGap | None = None,
) -> Analysis:
    """Merge the statistics, the answers of all providers, and the text from Tesseract.

    ``brand`` has the ``brand_colors`` of the user's logo and its ``logo_media_id``. Without a model
    ``embedding`` is None; of a stored one it is what was published.
    """
    found = {one.provider: one for one in answers if isinstance(one, VisionResult)}
    gaps = [one for one in answers if isinstance(one, ProviderGap)]
    # A model that answers with style, medium and subject precedes one that returns labels.
    ranked = [found[name] for name in (_OPENAI, _GOOGLE) if name in found]
    style, medium, subject, confidence = (
        _first(getattr(one, name) for one in ranked)
        for name in ("style", "medium", "subject", "confidence")
    )
    raw = {name: one.raw for name, one in found.items()}
    plain = asdict(local)
    columns = {
        "dominant_colors": list(plain["dominant_colours"]),
        "detected_objects": _named(one.objects for one in found.values()),
        "detected_text": _text(found, text),
        "style_classification": style,
        "medium_detected": medium,
        "subject_matter": subject,
        "quality_score": round(local.quality.score),
        "mood_keywords": _moods(local, ranked),
        "confidence_score": confidence,
        "raw_google_response": raw.get(_GOOGLE),
        "raw_gpt4_response": raw.get(_OPENAI),
    }
    provided = provider_values(found)
    by_model = {**{name: columns[one] for name, one in _PUBLIC_COLUMNS.items()}, **provided}
    missing = [name for name in _BY_MODEL if by_model[name] is None]
    reasons = {
        **{one.provider: one.reason for one in gaps},
        # A provider may explain under its own name why its answer is incomplete.
        **{name: one.reasons[name] for name, one in found.items() if name in one.reasons},
        **{name: _reason(name, answers) for name in missing},
    }
    if columns["detected_text"] is None:
        failed = [*gaps, *([text] if isinstance(text, ProviderGap) else [])]
        # A provider that sent only a part of its answer may have found text.
        partly = [one.reasons["detected_text"] for one in ranked if "detected_text" in one.reasons]
        explained = [*(one.reason for one in failed), *partly]
        reasons["detected_text"] = "; ".join(explained) or _NO_TEXT
    pixels, described = _pixel_values(local, data_type), _described(embedding)
    site_context = _site_context(local, brand) if data_type == DataType.SITES else None
    no_embedding = embedding.reason if isinstance(embedding, ProviderGap) else _NO_EMBEDDING
    by_type = {**_PIXEL_REASONS, "site_context": _NO_SITE, "embedding": no_embedding}
    values = {**pixels, "site_context": site_context, "embedding": described}
    reasons |= {name: reason for name, reason in by_type.items() if values[name] is None}
    sent = {name: list(one.sent_size) for name, one in found.items() if one.sent_size}
    if isinstance(embedding, ProviderGap):
        gaps.append(embedding)
    pending = [one.provider for one in gaps if one.temporary]
    own = {
        _VERSION: ANALYSIS_VERSION,
        **values,
        **provided,
        "reasons": reasons,
        **({_PENDING: pending} if pending else {}),
        **({_SENT: sent} if sent else {}),
    }
    return Analysis(columns, own, embedding if isinstance(embedding, Embedding) else None)


def _described(
    embedding: Embedding | Mapping[str, Any] | ProviderGap | None,
) -> Mapping[str, Any] | None:
    if isinstance(embedding, Embedding):
        return {"model": embedding.model, "dimensions": len(embedding.vector)}
    return None if isinstance(embedding, ProviderGap) else embedding


def provider_values(found: Mapping[str, VisionResult]) -> dict[str, Any]:
    """Return the values of providers that ``media_ai_analysis`` has no columns for."""
    return {
        "labels": _labels(one.labels for one in found.values()),
        "detected_logos": _named(one.logos for one in found.values()),
        "safe_search": _first(one.safe_search for one in found.values()),
    }


def _site_context(local: AnalysisResult, brand: Mapping[str, Any] | None) -> dict[str, Any]:
    if brand is None:
        names = ("brand_colors", "logo_media_id")
        brand = {**dict.fromkeys(names), "reasons": dict.fromkeys(names, _NO_LOGO)}
    return {**brand, "content_class": asdict(local.content_class)}


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _moods(local: AnalysisResult, ranked: Sequence[VisionResult]) -> list[str]:
    """Return the keywords of the models, then those of the colours, without duplicates."""
    words = [word.strip().lower() for one in ranked for word in one.mood_keywords]
    return list(dict.fromkeys(word for word in (*words, *local.mood_keywords) if word))


def _named(
    answers: Iterable[tuple[DetectedObject, ...] | None],
) -> list[dict[str, Any]] | None:
    """Return the objects of all answers by descending confidence, or None if there is no answer.

    If two providers name the same object, the one with a position replaces the other.
    """
    searched = [one for one in answers if one is not None]
    if not searched:
        return None
    best: dict[str, DetectedObject] = {}
    placed: list[DetectedObject] = []
    for one in chain.from_iterable(searched):
        # Several objects with a position may have one name, for example two birds.
        if one.box is not None:
            placed.append(one)
        else:
            best.setdefault(one.name.casefold(), one)
    names = {one.name.casefold() for one in placed}
    others = [one for name, one in best.items() if name not in names]
    ordered = sorted([*placed, *others], key=lambda one: -one.confidence)
    return [{**asdict(one), "box": one.box and list(one.box)} for one in ordered]


def _labels(
    answers: Iterable[tuple[DetectedObject, ...] | None],
) -> list[dict[str, Any]] | None:
    found = _named(answers)
    # A label describes the whole image, so it has no position.
    return found and [{"name": one["name"], "confidence": one["confidence"]} for one in found]


def _text(found: Mapping[str, VisionResult], text: str | ProviderGap) -> str | None:
    """Return the first text that was found; empty if every search found none."""
    read = text if isinstance(text, str) else None
    # The text of a provider precedes that of Tesseract.
    searched = [found[name].text for name in (_GOOGLE, _OPENAI) if name in found]
    texts = [one for one in (*searched, read) if one is not None]
    return next(filter(None, texts), "")[:_MAX_TEXT] if texts else None


def _reason(name: str, answers: Sequence[VisionResult | ProviderGap]) -> str:
    """Return why a value that needs a model is missing."""
    if not answers:
        return NO_MODEL
    gaps = [one.reason for one in answers if isinstance(one, ProviderGap)]
    own = [
        one.reasons[name]
        for one in answers
        if isinstance(one, VisionResult) and name in one.reasons
    ]
    return "; ".join([*gaps, *own]) or "no provider gave an answer"
