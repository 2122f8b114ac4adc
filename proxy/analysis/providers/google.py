"""Google Cloud Vision: ``images:annotate`` of its REST API, version 1.

https://cloud.google.com/vision/docs/reference/rest/v1/images/annotate
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.analysis.providers.http_provider import RequestCost, VisionProvider
from proxy.domain.analysis import DetectedObject, VisionResult
from proxy.domain.errors import ProviderRefused, ProviderUnavailable
from proxy.settings.vision import GoogleSettings

_FEATURES = (
    "LABEL_DETECTION",
    "OBJECT_LOCALIZATION",
    "IMAGE_PROPERTIES",
    "TEXT_DETECTION",
    "LOGO_DETECTION",
    "SAFE_SEARCH_DETECTION",
)
# Transient codes of google.rpc.Code: deadline exceeded, exhausted, internal, unavailable.
_TRANSIENT = frozenset({4, 8, 13, 14})
_SUBJECT_LABELS = 5
_REASONS = {
    "style": "Google Vision does not classify styles",
    "medium": "Google Vision does not detect the medium",
}


class GoogleVision(VisionProvider[GoogleSettings]):
    """Labels, objects, text, logos and unsafe content."""

    name = "google"
    title = "Google Vision"
    column = "raw_google_response"
    path = "v1/images:annotate"
    key_header = ("X-goog-api-key", "{}")

    def body(self, content: str, media_type: str, data_type: str) -> Mapping[str, Any]:
        """Return the request for an image in Base64."""
        del media_type, data_type
        features = [{"type": name, "maxResults": self._settings.max_results} for name in _FEATURES]
        return {"requests": [{"image": {"content": content}, "features": features}]}

    def expected_cost(self) -> RequestCost:
        """Return the price of a request; answers do not report another."""
        return RequestCost(usd=self._settings.usd_per_request)

    @staticmethod
    def recall(answer: Any) -> VisionResult:
        """Return the result of an answer."""
        try:
            (one,) = answer["responses"]
            error, found = one.get("error"), {name: one[name] for name in one if name != "error"}
            # Some features may fail while others succeed; the annotations are valid then.
            if error and not found:
                code = int(error.get("code") or 0)
                kind = ProviderUnavailable if code in _TRANSIENT else ProviderRefused
                raise kind(f"Google Vision could not process the image (code {code})")
            return _result(found, answer, partial=bool(error))
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise ProviderUnavailable("Google Vision sent JSON of an unknown form") from fault


def _result(found: Mapping[str, Any], answer: Any, *, partial: bool) -> VisionResult:
    labels = found.get("labelAnnotations", [])
    objects = tuple(_object(one) for one in found.get("localizedObjectAnnotations", []))
    scores = [float(one["score"]) for one in labels] + [one.confidence for one in objects]
    words = [str(one["description"]) for one in labels[:_SUBJECT_LABELS]]
    texts = found.get("textAnnotations", [])
    reasons = {"google": "Google Vision sent only a part of its answer"} if partial else {}
    return VisionResult(
        GoogleVision.name,
        answer,
        subject=", ".join(words) or None,
        objects=objects,
        text=str(texts[0]["description"]).strip() if texts else "",
        confidence=sum(scores) / len(scores) if scores else None,
        reasons={**_REASONS, **reasons},
    )


def _object(one: Mapping[str, Any]) -> DetectedObject:
    corners = one.get("boundingPoly", {}).get("normalizedVertices", [])
    # The JSON encoding of protocol buffers omits zeros.
    x = [float(corner.get("x", 0)) for corner in corners]
    y = [float(corner.get("y", 0)) for corner in corners]
    box = (min(x), min(y), max(x), max(y)) if corners else None
    return DetectedObject(str(one["name"]), float(one["score"]), box)
