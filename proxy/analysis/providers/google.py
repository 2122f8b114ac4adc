"""Google Cloud Vision: ``images:annotate`` of its REST API, version 1.

https://cloud.google.com/vision/docs/reference/rest/v1/images/annotate
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.analysis.providers.http_provider import RequestCost, VisionProvider
from proxy.domain.analysis import LIKELIHOODS, SAFE_SEARCH, DetectedObject, VisionResult
from proxy.domain.errors import ProviderRefused, ProviderUnavailable
from proxy.settings.vision import GoogleSettings

# Not IMAGE_PROPERTIES: it costs as much as the labels, and the pixels give the same colours.
FEATURES = (
    "LABEL_DETECTION",
    "OBJECT_LOCALIZATION",
    "TEXT_DETECTION",
    "LOGO_DETECTION",
    "SAFE_SEARCH_DETECTION",
)
"""Features requested for each image. Google charges for each of them."""
# Transient codes of google.rpc.Code: deadline exceeded, exhausted, internal, unavailable.
_TRANSIENT = frozenset({4, 8, 13, 14})
_SUBJECT_LABELS = 5
_NO_LABELS = "Google Vision found no labels"
_REASONS = {
    "style": "Google Vision does not classify styles",
    "medium": "Google Vision does not detect the medium",
    "subject": _NO_LABELS,
    "confidence_score": "Google Vision found neither labels nor objects",
    "safe_search": "Google Vision rated no content",
}
# Of an answer with an error, it is unknown why an annotation is missing.
_PARTIAL = "Google Vision sent only a part of its answer"
_PARTIAL_REASONS = dict.fromkeys(
    (
        *("google", "subject", "confidence_score", "labels", "detected_objects"),
        *("detected_logos", "detected_text", "safe_search"),
    ),
    _PARTIAL,
)

_Size = tuple[int, int]
_Box = tuple[float, float, float, float]


class GoogleVision(VisionProvider[GoogleSettings]):
    """Labels, objects, text, logos of brands, and unsafe content."""

    name = "google"
    title = "Google Vision"
    column = "raw_google_response"
    path = "v1/images:annotate"
    key_header = ("X-goog-api-key", "{}")

    def body(self, content: str, media_type: str, data_type: str) -> Mapping[str, Any]:
        """Return the request for an image in Base64."""
        del media_type, data_type
        features = [{"type": name, "maxResults": self._settings.max_results} for name in FEATURES]
        return {"requests": [{"image": {"content": content}, "features": features}]}

    def expected_cost(self) -> RequestCost:
        """Return the price of a request; answers do not report another."""
        return RequestCost(usd=self._settings.usd_per_request)

    @staticmethod
    def recall(answer: Any, sent_size: _Size | None = None) -> VisionResult:
        """Return the result of an answer."""
        try:
            (one,) = answer["responses"]
            error, found = one.get("error"), {name: one[name] for name in one if name != "error"}
            # Some features may fail while others succeed; the annotations are valid then.
            if error and not found:
                code = int(error.get("code") or 0)
                kind = ProviderUnavailable if code in _TRANSIENT else ProviderRefused
                raise kind(f"Google Vision could not process the image (code {code})")
            return _result(found, answer, sent_size, partial=bool(error))
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise ProviderUnavailable("Google Vision sent JSON of an unknown form") from fault


def _result(
    found: Mapping[str, Any], answer: Any, sent_size: _Size | None, *, partial: bool
) -> VisionResult:
    labels = _annotated(found, "labelAnnotations", partial=partial)
    objects = _annotated(found, "localizedObjectAnnotations", partial=partial)
    scores = [one.confidence for one in (*(labels or ()), *(objects or ()))]
    words = [one.name for one in (labels or ())[:_SUBJECT_LABELS]]
    return VisionResult(
        GoogleVision.name,
        answer,
        sent_size,
        subject=", ".join(words) or None,
        objects=objects,
        labels=labels,
        logos=_annotated(found, "logoAnnotations", sent_size, partial=partial),
        safe_search=_safe_search(found.get("safeSearchAnnotation")),
        text=_text(found, partial=partial),
        confidence=sum(scores) / len(scores) if scores else None,
        reasons={**_REASONS, **(_PARTIAL_REASONS if partial else {})},
    )


def _text(found: Mapping[str, Any], *, partial: bool) -> str | None:
    # The first one is the whole text, the others are its words.
    for whole in found.get("textAnnotations", ()):
        return str(whole["description"]).strip()
    return None if partial else ""


def _safe_search(rated: Mapping[str, Any] | None) -> Mapping[str, str] | None:
    if rated is None:
        return None
    # The API omits what it did not rate, and may add likelihoods.
    likelihoods = {kind: str(rated.get(kind)) for kind in SAFE_SEARCH}
    return {kind: one if one in LIKELIHOODS else "UNKNOWN" for kind, one in likelihoods.items()}


def _annotated(
    found: Mapping[str, Any], name: str, sent_size: _Size | None = None, *, partial: bool
) -> tuple[DetectedObject, ...] | None:
    """Return the members of a list, which is omitted from the answer if it is empty."""
    annotations = found.get(name, None if partial else ())
    if annotations is None:
        return None
    return tuple(
        DetectedObject(
            # Objects have a name, all others a description.
            str(one["name"] if "name" in one else one["description"]),
            float(one.get("score", 0)),
            _box(one.get("boundingPoly", {}), sent_size),
        )
        for one in annotations
    )


def _box(outline: Mapping[str, Any], sent_size: _Size | None) -> _Box | None:
    """Return the box around an outline as fractions, or None if it has no position.

    Objects have fractions; logos have pixels of the image that was sent.
    """
    corners, (width, height) = outline.get("normalizedVertices"), (1, 1)
    if not corners and sent_size is not None:
        corners, (width, height) = outline.get("vertices"), sent_size
    if not corners:
        return None
    # The JSON encoding of protocol buffers omits zeros.
    x = [float(corner.get("x", 0)) / width for corner in corners]
    y = [float(corner.get("y", 0)) / height for corner in corners]
    return min(x), min(y), max(x), max(y)
