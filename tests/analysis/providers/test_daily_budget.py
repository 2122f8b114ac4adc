"""Daily limits of both providers, over real HTTP and alone."""

from __future__ import annotations

from datetime import date

import pytest

from proxy.analysis.providers.daily_budget import DailyBudget, RequestCost
from proxy.domain.errors import AnalysisError, BudgetSpent
from tests.analysis.providers.conftest import GOOD, Open, Provider, analyse, both, failure
from tests.analysis.providers.service import (
    Service,
    fails,
)


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
    budget.reserve(RequestCost(0.25, 5))
    assert budget.statistics() == {"requests": 1, "usd": 0.25, "tokens": 5}


def test_an_unused_reservation_is_returned() -> None:
    budget = DailyBudget("x", 9, 1, 100)
    budget.reserve(RequestCost(0.9, 90))
    budget.settle(RequestCost(0.9, 90), RequestCost(0.1, 10))
    budget.reserve(RequestCost(0.9, 90))
    assert budget.statistics() == {"requests": 2, "usd": 1.0, "tokens": 100}
