"""Google Cloud Vision: ``images:annotate`` of its REST API, version 1.

https://cloud.google.com/vision/docs/reference/rest/v1/images/annotate
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import aiohttp

from proxy.analysis.providers.daily_budget import RequestCost
from proxy.analysis.providers.http_retry import ProviderClient
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


class GoogleVision:
    """A `proxy.analysis.providers.VisionProvider`."""

    name = "google"

    def __init__(
        self, settings: GoogleSettings, key: str, *, session: aiohttp.ClientSession, max_bytes: int
    ) -> None:
        """The session belongs to the caller; an answer may have ``max_bytes``."""
        self._settings = settings
        # In a header, because URLs appear in logs.
        headers = {"X-goog-api-key": key}
        self.client = ProviderClient(
            "Google Vision", settings, session=session, headers=headers, max_bytes=max_bytes
        )

    async def analyse(self, image: bytes, media_type: str, data_type: str) -> VisionResult:
        """Describe an encoded image; see `proxy.analysis.providers.VisionProvider`."""
        del media_type, data_type
        features = [{"type": name, "maxResults": self._settings.max_results} for name in _FEATURES]
        content = base64.b64encode(image).decode("ascii")
        body = {"requests": [{"image": {"content": content}, "features": features}]}
        expected = RequestCost(usd=self._settings.usd_per_request)
        return await self.client.post("v1/images:annotate", body, read=recall, expected=expected)


def recall(answer: Any) -> VisionResult:
    """Return the result of an answer, new or stored as `VisionResult.raw`.

    Raises:
        AnalysisError: this is not an answer of Google Vision, or one without any result.
    """
    try:
        (one,) = answer["responses"]
        error, found = one.get("error"), {name: one[name] for name in one if name != "error"}
        # Some features may fail while others succeed; the annotations are valid then.
        if error and not found:
            raise _failure(error)
        return _result(found, answer, partial=bool(error))
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise ProviderUnavailable("Google Vision sent JSON of an unknown form") from fault


def _failure(error: Mapping[str, Any]) -> ProviderRefused | ProviderUnavailable:
    code = error.get("code")
    reason = f"Google Vision could not process the image (code {int(code or 0)})"
    return ProviderUnavailable(reason) if code in _TRANSIENT else ProviderRefused(reason)


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
        logos=tuple(str(one["description"]) for one in found.get("logoAnnotations", [])),
        unsafe={str(k): str(v) for k, v in found.get("safeSearchAnnotation", {}).items()},
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
