"""Requests to both providers over real HTTP: retries, limits, errors and daily budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

import pytest

from proxy.analysis.providers.factory import PROVIDERS
from proxy.analysis.providers.http_provider import DailyBudget, RequestCost
from proxy.domain.errors import AnalysisError, BudgetSpent, ProviderRefused, ProviderUnavailable
from tests.analysis.providers import service as acts
from tests.analysis.providers.conftest import GOOD, Open, Provider, analyse, both, failure
from tests.analysis.providers.service import (
    KEY,
    Service,
    fails,
    says,
)


@both
@pytest.mark.parametrize(
    "first",
    [
        *(fails(status) for status in (408, 429, 500, 502, 503, 504)),
        fails(429, {"Retry-After": "0"}),
        *(acts.talks_nonsense, acts.breaks_off, acts.hangs_up, says([]), says({"a": 1})),
    ],
)
async def test_a_transient_error_is_retried(
    first: acts.Act, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [first, GOOD[name]]
    found = await analyse(await open_provider(name))
    assert (found.provider, len(service.requests)) == (name, 2)


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_client_error_is_not_retried(
    status: int, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(status, type="PERMISSION_DENIED", code=KEY)]
    error = await failure(await open_provider(name))
    assert isinstance(error, ProviderRefused)
    assert f"answered {status} (PERMISSION_DENIED)" in error.detail
    assert len(service.requests) == 1


@both
async def test_an_exhausted_account_is_not_retried(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(429, type="insufficient_quota", code="insufficient_quota")]
    assert isinstance(await failure(await open_provider(name)), ProviderRefused)
    assert len(service.requests) == 1


@both
@pytest.mark.parametrize("act", [fails(503), acts.breaks_off, acts.hangs_up, acts.talks_nonsense])
async def test_the_number_of_attempts_is_limited(
    act: acts.Act, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [act]
    error = await failure(await open_provider(name, max_attempts=4))
    assert isinstance(error, ProviderUnavailable)
    assert len(service.requests) == 4


@pytest.mark.slow
@both
@pytest.mark.parametrize("act", [acts.hangs, acts.dribbles])
async def test_a_slow_provider_times_out(
    act: acts.Act, name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [act]
    error = await failure(await open_provider(name, timeout_s=0.2, max_attempts=2))
    assert "in time" in error.detail
    assert len(service.requests) == 2


@both
async def test_an_endless_answer_is_cut_off(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [acts.floods]
    error = await failure(await open_provider(name))
    assert "more than" in error.detail
    assert len(service.requests) == 1


@both
async def test_a_redirect_is_not_followed(name: str, service: Service, open_provider: Open) -> None:
    service.acts = [acts.sends_elsewhere]
    assert "answered 307" in (await failure(await open_provider(name))).detail


async def test_an_unreachable_provider_is_unavailable(
    service: Service, open_provider: Open, unused_tcp_port: int
) -> None:
    provider = await open_provider("google", base_url=f"http://127.0.0.1:{unused_tcp_port}")
    assert "cannot be reached" in (await failure(provider)).detail


def _later(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@both
@pytest.mark.parametrize("told_wait", [lambda: "31", lambda: _later(90)])
async def test_a_long_retry_after_ends_the_attempts(
    told_wait: Callable[[], str], name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(429, {"Retry-After": told_wait()}), GOOD[name]]
    error = await failure(await open_provider(name, max_backoff_s=30))
    assert isinstance(error, ProviderUnavailable)
    assert (error.retry_after_s or 0) > 30
    assert len(service.requests) == 1


@both
async def test_a_short_retry_after_is_the_wait(name: str, open_provider: Open) -> None:
    client = await open_provider(name, max_backoff_s=30)
    assert client._retry_wait(ProviderUnavailable("busy", retry_after_s=1)) == 1.0
    assert client._retry_wait(ProviderUnavailable("busy")) is True
    assert client._retry_wait(ProviderRefused("no")) is False


RECALL = {one.name: one.recall for one in PROVIDERS}


@both
async def test_a_stored_answer_gives_the_same_result_without_a_request(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [GOOD[name]]
    provider = await open_provider(name)
    found = await analyse(provider)
    assert RECALL[name](json.loads(json.dumps(found.raw)), found.sent_size) == found
    assert len(service.requests) == 1


@both
@pytest.mark.parametrize("raw", [{}, [], "", 7, {"responses": 1, "choices": [1]}], ids=repr)
def test_an_invalid_stored_answer_is_an_error(name: str, raw: object) -> None:
    with pytest.raises(AnalysisError):
        RECALL[name](raw)


@both
async def test_requests_per_day_are_limited(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [GOOD[name]]
    provider = await open_provider(name, max_requests_per_day=2)
    await analyse(provider)
    await analyse(provider)
    error = await failure(provider)
    assert isinstance(error, BudgetSpent)
    assert "2 requests a day" in error.detail
    assert len(service.requests) == 2


@both
async def test_each_attempt_counts_as_a_request(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [fails(503)]
    assert isinstance(await failure(await open_provider(name, max_requests_per_day=1)), BudgetSpent)
    assert len(service.requests) == 1


@both
async def test_dollars_per_day_are_limited(
    name: str, service: Service, open_provider: Open
) -> None:
    service.acts = [GOOD[name]]
    provider = await open_provider(name, max_usd_per_day=0.001)
    assert "0.001 dollars" in (await failure_after(provider, requests=20)).detail


async def failure_after(provider: Provider, *, requests: int) -> AnalysisError:
    """Return the first error of many requests."""
    for _ in range(requests):
        try:
            await analyse(provider)
        except AnalysisError as error:
            return error
    raise AssertionError("no limit was met")


async def test_tokens_per_day_are_limited(service: Service, open_provider: Open) -> None:
    service.acts = [GOOD["openai"]]
    provider = await open_provider("openai", max_tokens_per_day=8000)
    assert "8000 tokens" in (await failure_after(provider, requests=20)).detail
    assert len(service.requests) == 4, "1300 each, and 3800 reserved for the next"


def test_counts_start_again_each_day() -> None:
    day = date(2026, 1, 1)
    budget = DailyBudget("x", 1, 1, today=lambda: day)
    budget.reserve(RequestCost(0.5, 10))
    with pytest.raises(BudgetSpent):
        budget.reserve(RequestCost())
    day = date(2026, 1, 2)
    budget.reserve(RequestCost(1.0, 5))


def test_an_unused_reservation_is_returned() -> None:
    budget = DailyBudget("x", 9, 1, 100)
    budget.reserve(RequestCost(0.9, 90))
    budget.settle(RequestCost(0.9, 90), RequestCost(0.1, 10))
    budget.reserve(RequestCost(0.9, 90))
    with pytest.raises(BudgetSpent, match="dollars"):
        budget.reserve(RequestCost(0.01))
    with pytest.raises(BudgetSpent, match="tokens"):
        budget.reserve(RequestCost(tokens=1))


def test_a_request_that_is_settled_on_the_next_day_costs_nothing_there() -> None:
    day = date(2026, 1, 1)
    budget = DailyBudget("x", 9, 1, 100, today=lambda: day)
    budget.reserve(RequestCost(0.9, 90))
    day = date(2026, 1, 2)
    budget.reserve(RequestCost())
    budget.settle(RequestCost(0.9, 90), RequestCost(0.1, 10))
    budget.reserve(RequestCost(1.0, 100))
    with pytest.raises(BudgetSpent):
        budget.reserve(RequestCost(0.01))
