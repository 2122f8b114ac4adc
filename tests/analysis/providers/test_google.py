"""Google Vision over real HTTP: requests and answers."""

from __future__ import annotations

import base64

import pytest

from proxy.analysis.providers.google import FEATURES, GoogleVision
from proxy.domain.analysis import SAFE_SEARCH, DetectedObject
from proxy.domain.errors import AnalysisError, ProviderRefused, ProviderUnavailable
from tests.analysis.providers.conftest import GOOD, IMAGE, Open, analyse, failure
from tests.analysis.providers.service import (
    GOOGLE_ANSWER,
    KEY,
    Service,
    says,
)


async def test_a_request_has_the_form_of_the_api(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["google"]]
    await analyse(await open_provider("google", max_results=7))
    (sent,) = service.requests
    assert service.paths == ["/api/v1/images:annotate"], "the key is not in a URL"
    assert service.headers[0]["X-goog-api-key"] == KEY
    assert service.headers[0]["Content-Type"] == "application/json"
    (request,) = sent["requests"]
    assert base64.b64decode(request["image"]["content"]) == IMAGE
    assert {one["type"] for one in request["features"]} == {
        "LABEL_DETECTION",
        "OBJECT_LOCALIZATION",
        "TEXT_DETECTION",
        "LOGO_DETECTION",
        "SAFE_SEARCH_DETECTION",
    }
    assert {one["maxResults"] for one in request["features"]} == {7}


async def test_an_answer_is_read(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["google"]]
    found = await analyse(await open_provider("google"))
    assert found.objects == (DetectedObject("Parrot", 0.9, (0.25, 0.0, 0.75, 0.5)),)
    assert (found.subject, found.text) == ("Macaw, Bird", "FREE\nBIRD")
    assert found.confidence == pytest.approx((0.98 + 0.96 + 0.9) / 3)
    assert (found.style, found.medium, found.raw) == (None, None, GOOGLE_ANSWER)
    assert {"style", "medium"} <= set(found.reasons)


async def test_logos_labels_and_unsafe_content_are_read(
    service: Service, open_provider: Open
) -> None:
    service.acts = [GOOD["google"]]
    found = await analyse(await open_provider("google"))
    assert found.logos == (DetectedObject("Kodak", 0.5, (0.0, 0.25, 0.25, 0.75)),)
    assert found.labels == (DetectedObject("Macaw", 0.98), DetectedObject("Bird", 0.96))
    assert found.safe_search == {
        "adult": "VERY_UNLIKELY",
        "spoof": "POSSIBLE",
        "medical": "UNLIKELY",
        "violence": "UNLIKELY",
        "racy": "VERY_LIKELY",
    }


def test_every_feature_that_is_paid_for_is_read() -> None:
    nothing = GoogleVision.recall({"responses": [{}]})
    paid = {
        "LABEL_DETECTION": ("labelAnnotations", "labels"),
        "OBJECT_LOCALIZATION": ("localizedObjectAnnotations", "objects"),
        "TEXT_DETECTION": ("textAnnotations", "text"),
        "LOGO_DETECTION": ("logoAnnotations", "logos"),
        "SAFE_SEARCH_DETECTION": ("safeSearchAnnotation", "safe_search"),
    }
    assert set(FEATURES) == set(paid)
    for annotation, name in paid.values():
        part = {annotation: GOOGLE_ANSWER["responses"][0][annotation]}
        assert getattr(GoogleVision.recall({"responses": [part]}), name) != getattr(nothing, name)


def test_a_logo_has_no_position_if_the_size_of_the_sent_image_is_unknown() -> None:
    """As in answers that an older version has stored."""
    (logo,) = GoogleVision.recall(GOOGLE_ANSWER).logos or ()
    assert logo == DetectedObject("Kodak", 0.5)


def test_nothing_found_differs_from_nothing_searched() -> None:
    nothing = GoogleVision.recall({"responses": [{}]})
    assert (nothing.labels, nothing.objects, nothing.logos, nothing.text) == ((), (), (), "")
    assert nothing.safe_search is None
    assert nothing.reasons["safe_search"] == "Google Vision rated no content"
    part = {"error": {"code": 14}, "labelAnnotations": []}
    partial = GoogleVision.recall({"responses": [part]})
    assert (partial.labels, partial.objects, partial.logos, partial.text) == ((), None, None, None)
    for name in ("detected_objects", "detected_logos", "detected_text", "safe_search"):
        assert "only a part" in partial.reasons[name]


@pytest.mark.parametrize(
    ("rated", "adult"),
    [({}, "UNKNOWN"), ({"adult": "LIKELY"}, "LIKELY"), ({"adult": "CERTAIN"}, "UNKNOWN")],
)
def test_a_likelihood_is_one_of_those_documented(rated: dict[str, str], adult: str) -> None:
    found = GoogleVision.recall({"responses": [{"safeSearchAnnotation": rated}]})
    assert found.safe_search == {**dict.fromkeys(SAFE_SEARCH, "UNKNOWN"), "adult": adult}


async def test_an_answer_without_annotations_is_not_an_error(
    service: Service, open_provider: Open
) -> None:
    service.acts = [says({"responses": [{}]})]
    found = await analyse(await open_provider("google"))
    assert (found.objects, found.subject, found.text, found.confidence) == ((), None, "", None)


async def test_annotations_beside_an_error_are_used(service: Service, open_provider: Open) -> None:
    part = {**GOOGLE_ANSWER["responses"][0], "error": {"code": 14, "message": "backend"}}
    service.acts = [says({"responses": [part]})]
    found = await analyse(await open_provider("google"))
    assert found.subject == "Macaw, Bird"
    assert "only a part" in found.reasons["google"]
    assert found.safe_search is not None


@pytest.mark.parametrize(
    ("code", "kind", "sent"), [(3, ProviderRefused, 1), (14, ProviderUnavailable, 3)]
)
async def test_an_error_for_the_image_is_transient_or_permanent(
    code: int, kind: type[AnalysisError], sent: int, service: Service, open_provider: Open
) -> None:
    service.acts = [says({"responses": [{"error": {"code": code, "message": KEY}}]})]
    error = await failure(await open_provider("google"))
    assert (type(error), len(service.requests)) == (kind, sent)
