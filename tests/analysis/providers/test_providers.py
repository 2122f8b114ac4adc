"""Both providers over real HTTP: what they send, what they read, and what they do when it fails."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from proxy.analysis.providers import google, openai
from proxy.analysis.providers.daily_budget import DailyBudget, RequestCost
from proxy.analysis.providers.openai import SCHEMA
from proxy.domain.errors import AnalysisError, BudgetSpent, ProviderRefused, ProviderUnavailable
from proxy.domain.image_analysis import DetectedObject, VisionResult
from tests.analysis.providers import service as acts
from tests.analysis.providers.conftest import Open, Provider
from tests.analysis.providers.service import (
    GOOGLE_ANSWER,
    KEY,
    SEEN,
    Service,
    completion,
    fails,
    says,
)

PICTURE = b"RIFF....WEBP" * 100
GOOD = {"google": says(GOOGLE_ANSWER), "openai": says(completion(json.dumps(SEEN)))}

both = pytest.mark.parametrize("name", GOOD)


async def look(provider: Provider) -> VisionResult:
    return await provider.analyse(PICTURE, "image/webp", "product")


async def told(provider: Provider) -> AnalysisError:
    """The error of a look that fails; it never holds the key."""
    with pytest.raises(AnalysisError) as caught:
        await look(provider)
    assert KEY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    return caught.value


async def test_google_is_asked_as_its_api_says(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["google"]]
    await look(await open_provider("google", max_results=7))
    (sent,) = service.requests
    assert service.paths == ["/api/v1/images:annotate"], "the key is in no address"
    assert service.headers[0]["X-goog-api-key"] == KEY
    assert service.headers[0]["Content-Type"] == "application/json"
    (request,) = sent["requests"]
    assert base64.b64decode(request["image"]["content"]) == PICTURE
    assert {one["type"] for one in request["features"]} == {
        "LABEL_DETECTION",
        "OBJECT_LOCALIZATION",
        "IMAGE_PROPERTIES",
        "TEXT_DETECTION",
        "LOGO_DETECTION",
        "SAFE_SEARCH_DETECTION",
    }
    assert {one["maxResults"] for one in request["features"]} == {7}


async def test_what_google_sees_is_read(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["google"]]
    found = await look(await open_provider("google"))
    assert found.objects == (DetectedObject("Parrot", 0.9, (0.25, 0.0, 0.75, 0.5)),)
    assert (found.subject, found.text, found.logos) == ("Macaw, Bird", "FREE\nBIRD", ("Kodak",))
    assert found.unsafe == {"adult": "VERY_UNLIKELY", "violence": "UNLIKELY"}
    assert found.confidence == pytest.approx((0.98 + 0.96 + 0.9) / 3)
    assert (found.style, found.medium, found.raw) == (None, None, GOOGLE_ANSWER)
    assert set(found.reasons) == {"style", "medium"}


async def test_a_picture_in_which_google_sees_nothing_is_no_error(
    service: Service, open_provider: Open
) -> None:
    service.acts = [says({"responses": [{}]})]
    found = await look(await open_provider("google"))
    assert (found.objects, found.subject, found.text, found.confidence) == ((), None, "", None)


async def test_what_google_found_before_it_failed_counts(
    service: Service, open_provider: Open
) -> None:
    part = {**GOOGLE_ANSWER["responses"][0], "error": {"code": 14, "message": "backend"}}
    service.acts = [says({"responses": [part]})]
    found = await look(await open_provider("google"))
    assert found.subject == "Macaw, Bird"
    assert "only a part" in found.reasons["google"]


@pytest.mark.parametrize(
    ("code", "kind", "sent"), [(3, ProviderRefused, 1), (14, ProviderUnavailable, 3)]
)
async def test_a_picture_that_google_fails_at(
    code: int, kind: type[AnalysisError], sent: int, service: Service, open_provider: Open
) -> None:
    service.acts = [says({"responses": [{"error": {"code": code, "message": KEY}}]})]
    error = await told(await open_provider("google"))
    assert (type(error), len(service.requests)) == (kind, sent)


async def test_the_model_is_asked_as_its_api_says(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["openai"]]
    await look(await open_provider("openai", model="llava", detail="low", max_output_tokens=99))
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
    assert (head, base64.b64decode(encoded)) == ("data:image/webp;base64", PICTURE)


def test_the_schema_is_one_that_strict_outputs_allow() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(SEEN, SCHEMA)
    objects = SCHEMA["properties"]["objects"]["items"]
    for level in (SCHEMA, objects):
        assert level["required"] == list(level["properties"])
        assert level["additionalProperties"] is False


async def test_what_the_model_sees_is_read(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["openai"]]
    provider = await open_provider("openai")
    found = await look(provider)
    assert (found.style, found.medium) == ("Impressionist", "Oil on Canvas")
    assert (found.subject, found.text) == ("Two macaws in a garden.", "")
    assert found.objects == (DetectedObject("macaw", 0.97),)
    assert (found.mood_keywords, found.confidence) == (("lively", "tropical"), 0.92)
    assert found.raw == completion(json.dumps(SEEN))
    spent = provider.client.budget.statistics()
    assert spent == {"requests": 1, "usd": pytest.approx(0.00024), "tokens": 1300}


async def test_what_the_model_cannot_tell_has_a_reason(
    service: Service, open_provider: Open
) -> None:
    service.acts = [says(completion(json.dumps({**SEEN, "style": None})))]
    found = await look(await open_provider("openai"))
    assert (found.style, found.reasons) == (None, {"style": "The vision model returned no style"})


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (completion(None, refusal="I'm sorry"), "refused"),
        (completion("", finish_reason="content_filter"), "withheld"),
        (completion('{"style": "Imp', finish_reason="length"), "exceeds"),
    ],
)
async def test_a_model_that_will_not_answer_is_not_asked_again(
    answer: Any, part: str, service: Service, open_provider: Open
) -> None:
    service.acts = [says(answer)]
    error = await told(await open_provider("openai"))
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
async def test_a_model_that_leaves_the_schema_is_asked_again(
    content: str, service: Service, open_provider: Open
) -> None:
    service.acts = [says(completion(content)), GOOD["openai"]]
    found = await look(await open_provider("openai"))
    assert (found.style, len(service.requests)) == ("Impressionist", 2)


@both
@pytest.mark.parametrize(
    "first",
    [
        *(fails(status) for status in (408, 429, 500, 502, 503, 504)),
        fails(429, {"Retry-After": "0"}),
        *(acts.talks_nonsense, acts.breaks_off, acts.hangs_up, says([]), says({"a": 1})),
    ],
)
async def test_what_may_pass_is_tried_again(
    first: acts.Act, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [first, GOOD[name]]
    found = await look(await open_provider(name))
    assert (found.provider, len(service.requests)) == (name, 2)


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_is_our_own_fault_is_not_tried_again(
    status: int, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(status, type="PERMISSION_DENIED", code=KEY)]
    error = await told(await open_provider(name))
    assert isinstance(error, ProviderRefused)
    assert f"answered {status} (PERMISSION_DENIED)" in error.detail
    assert len(service.requests) == 1


@both
async def test_an_account_without_money_is_not_asked_again(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(429, type="insufficient_quota", code="insufficient_quota")]
    assert isinstance(await told(await open_provider(name)), ProviderRefused)
    assert len(service.requests) == 1


@both
@pytest.mark.parametrize("act", [fails(503), acts.breaks_off, acts.hangs_up, acts.talks_nonsense])
async def test_attempts_come_to_an_end(
    act: acts.Act, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [act]
    error = await told(await open_provider(name, max_attempts=4))
    assert isinstance(error, ProviderUnavailable)
    assert len(service.requests) == 4


@both
@pytest.mark.parametrize("act", [acts.hangs, acts.dribbles])
async def test_a_slow_provider_is_not_waited_for(
    act: acts.Act, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [act]
    error = await told(await open_provider(name, timeout_s=0.2, max_attempts=2))
    assert "in time" in error.detail
    assert len(service.requests) == 2


@both
async def test_an_answer_without_end_is_not_read(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [acts.floods]
    error = await told(await open_provider(name))
    assert "more than" in error.detail
    assert len(service.requests) == 1


@both
async def test_a_redirect_is_not_followed(name: str, service: Service, open_provider: Open) -> None:
    service.acts = [acts.sends_elsewhere]
    assert "answered 307" in (await told(await open_provider(name))).detail


async def test_a_provider_that_is_not_there_is_unavailable(
    service: Service, open_provider: Open, unused_tcp_port: int
) -> None:
    provider = await open_provider("google", base_url=f"http://127.0.0.1:{unused_tcp_port}")
    assert "cannot be reached" in (await told(provider)).detail


def _later(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@both
@pytest.mark.parametrize("told_wait", [lambda: "31", lambda: _later(90)])
async def test_who_asks_to_be_left_alone_for_long_is(
    told_wait: Callable[[], str], name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(429, {"Retry-After": told_wait()}), GOOD[name]]
    error = await told(await open_provider(name, max_backoff_s=30))
    assert isinstance(error, ProviderUnavailable)
    assert (error.retry_after_s or 0) > 30
    assert len(service.requests) == 1


@both
async def test_who_says_how_long_to_wait_is_waited_for(
    name: str, service: Service, open_provider: Open
) -> None:
    loop_time: list[float] = []

    async def noted(request: Any) -> Any:
        loop_time.append(datetime.now(UTC).timestamp())
        return await (fails(429, {"Retry-After": "1"}) if len(loop_time) == 1 else GOOD[name])(
            request
        )

    service.acts = [noted]
    await look(await open_provider(name))
    assert loop_time[1] - loop_time[0] >= 0.99


@both
async def test_a_day_has_so_many_requests(name: str, service: Service, open_provider: Open) -> None:
    service.acts = [GOOD[name]]
    provider = await open_provider(name, max_requests_per_day=2)
    await look(provider)
    await look(provider)
    error = await told(provider)
    assert isinstance(error, BudgetSpent)
    assert "2 requests a day" in error.detail
    assert len(service.requests) == 2


@both
async def test_attempts_count_as_requests(name: str, service: Service, open_provider: Open) -> None:
    service.acts = [fails(503)]
    assert isinstance(await told(await open_provider(name, max_requests_per_day=1)), BudgetSpent)
    assert len(service.requests) == 1


@both
async def test_a_day_has_so_much_money(name: str, service: Service, open_provider: Open) -> None:
    service.acts = [GOOD[name]]
    provider = await open_provider(name, max_usd_per_day=0.001)
    assert "0.001 dollars" in (await told_after(provider, looks=20)).detail


async def told_after(provider: Provider, *, looks: int) -> AnalysisError:
    """The first error of many looks."""
    for _ in range(looks):
        try:
            await look(provider)
        except AnalysisError as error:
            return error
    raise AssertionError("no limit was met")


async def test_a_day_has_so_many_tokens(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["openai"]]
    provider = await open_provider("openai", max_tokens_per_day=8000)
    assert "8000 tokens" in (await told_after(provider, looks=20)).detail
    assert len(service.requests) == 4, "1300 each, and 3800 put aside for the next"


def test_a_new_day_begins_anew() -> None:
    day = date(2026, 1, 1)
    budget = DailyBudget("x", 1, 1, today=lambda: day)
    budget.reserve(RequestCost(0.5, 10))
    with pytest.raises(BudgetSpent):
        budget.reserve(RequestCost())
    day = date(2026, 1, 2)
    budget.reserve(RequestCost(0.25, 5))
    assert budget.statistics() == {"requests": 1, "usd": 0.25, "tokens": 5}


def test_what_was_too_much_put_aside_is_given_back() -> None:
    budget = DailyBudget("x", 9, 1, 100)
    budget.reserve(RequestCost(0.9, 90))
    budget.settle(RequestCost(0.9, 90), RequestCost(0.1, 10))
    budget.reserve(RequestCost(0.9, 90))
    assert budget.statistics() == {"requests": 2, "usd": 1.0, "tokens": 100}


RECALL = {"google": google.recall, "openai": openai.recall}


@both
async def test_a_kept_answer_says_the_same_and_costs_nothing(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [GOOD[name]]
    provider = await open_provider(name)
    found = await look(provider)
    spent = provider.client.budget.statistics()
    assert RECALL[name](json.loads(json.dumps(found.raw))) == found
    assert (len(service.requests), provider.client.budget.statistics()) == (1, spent)


@both
@pytest.mark.parametrize("raw", [{}, [], "", 7, {"responses": 1, "choices": [1]}], ids=repr)
def test_what_is_no_kept_answer_is_an_error(name: str, raw: object) -> None:
    with pytest.raises(AnalysisError):
        RECALL[name](raw)
