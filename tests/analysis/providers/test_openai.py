"""A vision model over real HTTP: requests and answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from proxy.analysis.providers.http_provider import RequestCost
from proxy.analysis.providers.openai import SCHEMA, OpenAIVision
from proxy.domain.analysis import DetectedObject
from proxy.domain.errors import BudgetSpent, ProviderRefused
from tests.analysis.providers.conftest import GOOD, IMAGE, Open, analyse, failure
from tests.analysis.providers.service import (
    KEY,
    SEEN,
    Service,
    completion,
    says,
)


async def test_a_request_has_the_form_of_the_api(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["openai"]]
    await analyse(await open_provider("openai", model="llava", detail="low", max_output_tokens=99))
    (sent,) = service.requests
    assert service.paths == ["/api/chat/completions"]
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (sent["model"], sent["max_completion_tokens"]) == ("llava", 99)
    schema = sent["response_format"]["json_schema"]
    assert (sent["response_format"]["type"], schema["strict"]) == ("json_schema", True)
    assert schema["schema"] == SCHEMA
    text, image = sent["messages"][-1]["content"]
    assert "product" in text["text"]
    assert image["image_url"]["detail"] == "low"
    head, _, encoded = image["image_url"]["url"].partition(",")
    assert (head, base64.b64decode(encoded)) == ("data:image/webp;base64", IMAGE)


def test_the_schema_is_valid_for_strict_outputs() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(SEEN, SCHEMA)
    objects = SCHEMA["properties"]["objects"]["items"]
    for level in (SCHEMA, objects):
        assert level["required"] == list(level["properties"])
        assert level["additionalProperties"] is False


async def test_an_answer_is_read_and_its_cost_settled(
    service: Service, open_provider: Open
) -> None:
    service.acts = [GOOD["openai"]]
    provider = await open_provider("openai")
    found = await analyse(provider)
    assert (found.style, found.medium) == ("Impressionist", "Oil on Canvas")
    assert (found.subject, found.text) == ("Two macaws in a garden.", "")
    assert found.objects == (DetectedObject("macaw", 0.97),)
    assert found.logos == (DetectedObject("Kodak", 0.8),)
    assert (found.mood_keywords, found.confidence) == (("lively", "tropical"), 0.92)
    assert found.raw == completion(json.dumps(SEEN))
    # Of 2,000,000 tokens 1300 are spent, of 5 dollars 0.00024.
    provider.budget.reserve(RequestCost(4.99975, 1_998_700))
    with pytest.raises(BudgetSpent, match="dollars"):
        provider.budget.reserve(RequestCost(0.0001))
    with pytest.raises(BudgetSpent, match="tokens"):
        provider.budget.reserve(RequestCost(tokens=1))


async def test_a_missing_value_has_a_reason(service: Service, open_provider: Open) -> None:
    service.acts = [says(completion(json.dumps({**SEEN, "style": None})))]
    found = await analyse(await open_provider("openai"))
    assert (found.style, found.reasons["style"]) == (None, "The vision model returned no style")
    assert "medium" not in found.reasons


def test_an_answer_of_an_older_version_has_no_brands() -> None:
    older = {name: value for name, value in SEEN.items() if name != "brands"}
    found = OpenAIVision.recall(completion(json.dumps(older)))
    assert (found.style, found.logos) == (SEEN["style"], None)
    assert "not requested" in found.reasons["detected_logos"]


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (completion(None, refusal="I'm sorry"), "refused"),
        (completion("", finish_reason="content_filter"), "withheld"),
        (completion('{"style": "Imp', finish_reason="length"), "exceeds"),
    ],
)
async def test_a_refusal_is_not_retried(
    answer: Any, part: str, service: Service, open_provider: Open
) -> None:
    service.acts = [says(answer)]
    error = await failure(await open_provider("openai"))
    assert isinstance(error, ProviderRefused)
    assert part in error.detail
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "{}",
        json.dumps({**SEEN, "confidence": 7}),
        json.dumps({**SEEN, "style": "x" * 256}),
        json.dumps({**SEEN, "objects": ["macaw"]}),
        json.dumps([SEEN]),
    ],
)
async def test_an_answer_that_violates_the_schema_is_retried(
    content: str, service: Service, open_provider: Open
) -> None:
    service.acts = [says(completion(content)), GOOD["openai"]]
    found = await analyse(await open_provider("openai"))
    assert (found.style, len(service.requests)) == ("Impressionist", 2)
