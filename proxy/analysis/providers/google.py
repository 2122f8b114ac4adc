"""Google Cloud Vision: ``images:annotate`` of its REST API, version 1.

https://cloud.google.com/vision/docs/reference/rest/v1/images/annotate
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from proxy.analysis.providers import VisionContext
from proxy.analysis.providers.daily_budget import DailyBudget, RequestCost
from proxy.analysis.providers.http_retry import ProviderClient
from proxy.domain.errors import ProviderRefused, ProviderUnavailable
from proxy.domain.image_analysis import DetectedObject, VisionResult
from proxy.settings.vision import GoogleSettings

_FEATURES = (
    "LABEL_DETECTION",
    "OBJECT_LOCALIZATION",
    "IMAGE_PROPERTIES",
    "TEXT_DETECTION",
    "LOGO_DETECTION",
    "SAFE_SEARCH_DETECTION",
)
_PASSING = frozenset({4, 8, 13, 14})
"""Codes of `google.rpc.Code` that may pass: deadline, exhausted, internal, unavailable."""
_SUBJECT_LABELS = 5
_REASONS = {
    "style": "Google Vision does not classify styles",
    "medium": "Google Vision does not tell the medium",
}


class GoogleVision:
    """A `proxy.analysis.providers.VisionProvider`."""

    name = "google"

    def __init__(
        self,
        settings: GoogleSettings,
        key: str,
        *,
        session: aiohttp.ClientSession,
        max_bytes: int,
        budget: DailyBudget | None = None,
    ) -> None:
        """The key goes into a header, where no log of addresses shows it."""
        self._settings = settings
        self.budget = budget or DailyBudget(
            "Google Vision",
            max_requests=settings.max_requests_per_day,
            max_usd=settings.max_usd_per_day,
        )
        self._caller = ProviderClient(
            "Google Vision",
            settings,
            session=session,
            headers={"X-goog-api-key": key},
            budget=self.budget,
            max_bytes=max_bytes,
        )

    async def analyse(
        self, picture: bytes, media_type: str, context: VisionContext
    ) -> VisionResult:
        """Analyse an image; see `proxy.analysis.providers.VisionProvider`."""
        del media_type, context
        features = [{"type": name, "maxResults": self._settings.max_results} for name in _FEATURES]
        content = base64.b64encode(picture).decode("ascii")
        body = {"requests": [{"image": {"content": content}, "features": features}]}
        expected = RequestCost(usd=self._settings.usd_per_request)
        return await self._caller.post("v1/images:annotate", body, read=recall, expected=expected)


def recall(answer: Any) -> VisionResult:
    """What an answer says of the one picture, also one that was kept as `VisionResult.raw`.

    Where an error stands beside annotations, those are right all the same.

    Raises:
        AnalysisError: it is no answer of Google Vision, or one that it failed.
    """
    try:
        (one,) = answer["responses"]
        error, found = one.get("error"), {name: one[name] for name in one if name != "error"}
        if error and not found:
            raise _failure(error)
        return _result(found, answer, failed=bool(error))
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise ProviderUnavailable("Google Vision answered with another JSON") from fault


def _failure(error: Mapping[str, Any]) -> ProviderRefused | ProviderUnavailable:
    code = error.get("code")
    reason = f"Google Vision failed at the picture (code {int(code or 0)})"
    return ProviderUnavailable(reason) if code in _PASSING else ProviderRefused(reason)


def _result(found: Mapping[str, Any], answer: Any, *, failed: bool) -> VisionResult:
    labels = found.get("labelAnnotations", [])
    objects = tuple(_object(one) for one in found.get("localizedObjectAnnotations", []))
    scores = [float(one["score"]) for one in labels] + [one.confidence for one in objects]
    words = [str(one["description"]) for one in labels[:_SUBJECT_LABELS]]
    texts = found.get("textAnnotations", [])
    partly = {"google": "Google Vision gave a part of its answer alone"} if failed else {}
    return VisionResult(
        GoogleVision.name,
        answer,
        subject=", ".join(words) or None,
        objects=objects,
        text=str(texts[0]["description"]).strip() if texts else "",
        logos=tuple(str(one["description"]) for one in found.get("logoAnnotations", [])),
        unsafe={str(k): str(v) for k, v in found.get("safeSearchAnnotation", {}).items()},
        confidence=sum(scores) / len(scores) if scores else None,
        reasons={**_REASONS, **partly},
    )


def _object(one: Mapping[str, Any]) -> DetectedObject:
    corners: Sequence[Mapping[str, float]] = one.get("boundingPoly", {}).get(
        "normalizedVertices", []
    )
    # JSON of protocol buffers leaves a nought out.
    across = [float(corner.get("x", 0)) for corner in corners]
    down = [float(corner.get("y", 0)) for corner in corners]
    box = (min(across), min(down), max(across), max(down)) if corners else None
    return DetectedObject(str(one["name"]), float(one["score"]), box)
