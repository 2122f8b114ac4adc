"""Budget: how often a provider may be asked in a day, and for how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from proxy.domain.errors import BudgetSpent


def utc_day() -> date:
    """The day by which limits are counted."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class RequestCost:
    """What one request costs."""

    usd: float = 0.0
    tokens: int = 0


class DailyBudget:
    """Counts requests, dollars and tokens of one provider, anew each day in UTC.

    What a request will cost is put aside before it is sent, so that many at once do not go over
    the limit together. Of this process alone: several share a limit by having a part of it each.
    """

    def __init__(
        self,
        provider: str,
        *,
        max_requests: int,
        max_usd: float,
        max_tokens: int | None = None,
        today: Callable[[], date] = utc_day,
    ) -> None:
        """Limits for a day; ``max_tokens`` is for providers that count them."""
        self._provider = provider
        self._max_requests = max_requests
        self._max_usd = max_usd
        self._max_tokens = max_tokens
        self._today = today
        self._day = today()
        self._requests = 0
        self._usd = 0.0
        self._tokens = 0

    def reserve(self, expected: RequestCost) -> None:
        """Put aside what a request is expected to cost.

        Raises:
            BudgetSpent: a limit of the day would be passed.
        """
        self._turn_day()
        for what, after, limit in (
            ("requests", self._requests + 1, self._max_requests),
            ("dollars", self._usd + expected.usd, self._max_usd),
            ("tokens", self._tokens + expected.tokens, self._max_tokens),
        ):
            if limit is not None and after > limit:
                raise BudgetSpent(f"{self._provider}: the limit of {limit:g} {what} a day is spent")
        self._requests += 1
        self._add(expected.usd, expected.tokens)

    def settle(self, expected: RequestCost, actual: RequestCost) -> None:
        """Put what a request did cost in place of what was put aside for it."""
        self._add(actual.usd - expected.usd, actual.tokens - expected.tokens)

    def statistics(self) -> dict[str, float]:
        """Requests, dollars and tokens of the day."""
        self._turn_day()
        return {"requests": self._requests, "usd": self._usd, "tokens": self._tokens}

    def _add(self, usd: float, tokens: int) -> None:
        self._usd = max(0.0, self._usd + usd)
        self._tokens = max(0, self._tokens + tokens)

    def _turn_day(self) -> None:
        if (today := self._today()) != self._day:
            self._day = today
            self._requests, self._usd, self._tokens = 0, 0.0, 0
