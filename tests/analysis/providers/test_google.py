"""Google Vision over real HTTP: requests and answers."""

from __future__ import annotations

import base64

import pytest

from proxy.domain.analysis import DetectedObject
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
        "IMAGE_PROPERTIES",
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
    assert set(found.reasons) == {"style", "medium"}


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


@pytest.mark.parametrize(
    ("code", "kind", "sent"), [(3, ProviderRefused, 1), (14, ProviderUnavailable, 3)]
)
async def test_an_error_for_the_image_is_transient_or_permanent(
    code: int, kind: type[AnalysisError], sent: int, service: Service, open_provider: Open
) -> None:
    service.acts = [says({"responses": [{"error": {"code": code, "message": KEY}}]})]
    error = await failure(await open_provider("google"))
    assert (type(error), len(service.requests)) == (kind, sent)
