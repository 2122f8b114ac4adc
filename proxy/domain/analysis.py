"""Analysis: what is known of a picture, from its pixels and from those who were asked.

What nobody could tell is null and has a reason; nothing is made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from proxy.domain.image_analysis import DetectedObject, ProviderGap, ReadText, VisionResult
from proxy.domain.media import DataType
from proxy.domain.worker_protocol import AnalysisResult

NEAR = 10
"""Bits, of 64, up to which two perceptual hashes are of the same picture; different photographs
are 20 apart and more."""

NO_MODEL = "needs a vision model; none is configured"
_NO_TEXT = "needs a vision model or tesseract; there is neither"
_GOOGLE, _OPENAI = "google", "openai"
PENDING_PROVIDERS = "awaited"
"""In `Analysis.own`, and for ourselves alone: who is to be asked again."""
_BY_MODEL = ("style", "medium", "subject")


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is known of a picture."""

    local: AnalysisResult
    data_type: str
    style: str | None
    medium: str | None
    subject: str | None
    objects: tuple[DetectedObject, ...] | None
    """None where nobody has looked for objects."""
    text: str | None
    """Empty where somebody has looked for text and found none."""
    mood_keywords: tuple[str, ...]
    confidence: float | None
    raw_google: Mapping[str, Any] | None
    raw_model: Mapping[str, Any] | None
    reasons: Mapping[str, str]
    """Why something is null, by its name in `public`; and who failed, by name."""
    site_context: Mapping[str, Any] | None = None
    pending_providers: tuple[str, ...] = ()
    """Providers that could not answer now, and may later."""

    def columns(self) -> dict[str, Any]:
        """The columns of ``media_ai_analysis``; JSON columns as the values that JSON has."""
        return {
            "dominant_colors": [asdict(one) for one in self.local.dominant_colours],
            "detected_objects": _plain(self.objects),
            "detected_text": self.text,
            "style_classification": self.style,
            "medium_detected": self.medium,
            "subject_matter": self.subject,
            "quality_score": round(self.local.quality.score),
            "mood_keywords": list(self.mood_keywords),
            "confidence_score": self.confidence,
            "raw_google_response": self.raw_google,
            "raw_gpt4_response": self.raw_model,
        }

    def own(self) -> dict[str, Any]:
        """What that table has no column for, as the values that JSON has."""
        local = self.local
        return {
            "width": local.width,
            "height": local.height,
            "brand_colors": self._brand_colours(),
            "quality": asdict(local.quality),
            "kind": asdict(local.kind),
            "thumbhash": local.thumbhash,
            "blurhash": local.blurhash,
            "phash": local.phash,
            "focus": None if local.focus is None else asdict(local.focus),
            "site_context": self.site_context,
            "reasons": dict(self.reasons),
            **({PENDING_PROVIDERS: list(self.pending_providers)} if self.pending_providers else {}),
        }

    def public(self) -> dict[str, Any]:
        """The ``analysis`` of ``GET /api/media/analysis/{media_id}``."""
        return public(self.columns(), self.own())

    def _brand_colours(self) -> list[str] | None:
        wanted = self.data_type == DataType.LOGO or self.local.kind.name == "logo"
        return [one.hex for one in self.local.brand_colours] if wanted else None


def public(columns: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The answer about a picture, from what was stored; the reverse of `Analysis.columns`."""
    return {
        "style": columns["style_classification"],
        "medium": columns["medium_detected"],
        "subject": columns["subject_matter"],
        "quality_score": columns["quality_score"],
        "mood_keywords": columns["mood_keywords"],
        "dominant_colors": columns["dominant_colors"],
        "detected_objects": columns["detected_objects"],
        "detected_text": columns["detected_text"],
        "confidence_score": columns["confidence_score"],
        **{name: value for name, value in own.items() if name != PENDING_PROVIDERS},
    }


def merge(
    local: AnalysisResult,
    answers: Sequence[VisionResult | ProviderGap],
    text: ReadText | ProviderGap,
    *,
    data_type: str,
    site_context: Mapping[str, Any] | None = None,
) -> Analysis:
    """Put together what the pixels tell, what each provider answered, and what was read.

    A model that was asked for style, medium and subject goes before one that labels; the text of
    a provider before what was read here.
    """
    found = {one.provider: one for one in answers if isinstance(one, VisionResult)}
    ranked = [found[name] for name in (_OPENAI, _GOOGLE) if name in found]
    values = {name: _first(getattr(one, name) for one in ranked) for name in _BY_MODEL}
    confidence = _first(one.confidence for one in ranked)
    read = _text(found, text)
    known = {**values, "confidence_score": confidence, "detected_objects": found or None}
    return Analysis(
        local,
        data_type,
        **values,
        objects=_objects(found) if found else None,
        text=read,
        mood_keywords=_moods(local, ranked),
        confidence=confidence,
        raw_google=found[_GOOGLE].raw if _GOOGLE in found else None,
        raw_model=found[_OPENAI].raw if _OPENAI in found else None,
        reasons={
            **_failures(answers),
            **{name: _why(name, answers) for name, value in known.items() if value is None},
            **({"detected_text": _why_no_text(answers, text)} if read is None else {}),
        },
        site_context=site_context,
        pending_providers=tuple(
            one.provider for one in answers if isinstance(one, ProviderGap) and one.temporary
        ),
    )


def distance(one: str, other: str) -> int:
    """Hamming distance of two perceptual hashes of 16 hexadecimal digits, 0 to 64."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def are_near_duplicates(one: str, other: str) -> bool:
    """Whether two perceptual hashes are of the same picture, resized or encoded anew.

    Pictures of one colour have no features, and none is taken for another.
    """
    return int(one, 16) != 0 and int(other, 16) != 0 and distance(one, other) <= NEAR


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _moods(local: AnalysisResult, ranked: Sequence[VisionResult]) -> tuple[str, ...]:
    """Those of the models first, then those of the colours; each once."""
    words = [word.strip().lower() for one in ranked for word in one.mood_keywords]
    return tuple(dict.fromkeys(word for word in (*words, *local.mood_keywords) if word))


def _objects(found: Mapping[str, VisionResult]) -> tuple[DetectedObject, ...]:
    """Of all providers, the surest first; of two that name the same the one that says where."""
    best: dict[str, DetectedObject] = {}
    placed: list[DetectedObject] = []
    for one in (one for answer in found.values() for one in answer.objects):
        if one.box is not None:
            placed.append(one)
        else:
            best.setdefault(one.name.casefold(), one)
    names = {one.name.casefold() for one in placed}
    others = [one for name, one in best.items() if name not in names]
    return tuple(sorted([*placed, *others], key=lambda one: -one.confidence))


def _text(found: Mapping[str, VisionResult], text: ReadText | ProviderGap) -> str | None:
    """The first text that anybody found; empty where all who looked found none."""
    read = text.text if isinstance(text, ReadText) else None
    seen = [found[name].text for name in (_GOOGLE, _OPENAI) if name in found]
    looked = [one for one in (*seen, read) if one is not None]
    return next(filter(None, looked), "") if looked else None


def _failures(answers: Sequence[VisionResult | ProviderGap]) -> dict[str, str]:
    """Who gave no answer, or a part of one."""
    failed = {one.provider: one.reason for one in answers if isinstance(one, ProviderGap)}
    parts = {
        one.provider: one.reasons[one.provider]
        for one in answers
        if isinstance(one, VisionResult) and one.provider in one.reasons
    }
    return {**failed, **parts}


def _why(name: str, answers: Sequence[VisionResult | ProviderGap]) -> str:
    """Why something that takes a model is missing."""
    if not answers:
        return NO_MODEL
    told = [one.reason for one in answers if isinstance(one, ProviderGap)]
    own = [
        one.reasons[name]
        for one in answers
        if isinstance(one, VisionResult) and name in one.reasons
    ]
    return "; ".join([*told, *own]) or "no provider could tell"


def _why_no_text(
    answers: Sequence[VisionResult | ProviderGap], text: ReadText | ProviderGap
) -> str:
    told = [one.reason for one in (*answers, text) if isinstance(one, ProviderGap)]
    return "; ".join(told) or _NO_TEXT


def _plain(objects: tuple[DetectedObject, ...] | None) -> list[dict[str, Any]] | None:
    if objects is None:
        return None
    return [
        {"name": one.name, "confidence": one.confidence, "box": one.box and list(one.box)}
        for one in objects
    ]
