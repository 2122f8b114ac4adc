"""Daily limits of requests, dollars and tokens for one provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from proxy.domain.errors import BudgetSpent


def utc_day() -> date:
    """Return the current day in UTC, by which limits are counted."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Cost of one request."""

    usd: float = 0.0
    tokens: int = 0


@dataclass(slots=True)
class DailyBudget:
    """Counts what this process spends in a day. Several processes need a share of the limit each.

    A request reserves its expected cost before it is sent, so that concurrent requests cannot
    exceed a limit together. ``max_tokens`` is None for providers that do not count tokens.
    """

    provider: str
    max_requests: int
    max_usd: float
    max_tokens: int | None = None
    today: Callable[[], date] = utc_day
    _day: date = field(init=False)
    _requests: int = field(default=0, init=False)
    _usd: float = field(default=0.0, init=False)
    _tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Start counting today."""
        self._day = self.today()

    def reserve(self, expected: RequestCost) -> None:
        """Count a request and its expected cost.

        Raises:
            BudgetSpent: the request would exceed a limit; nothing is counted.
        """
        self._start_new_day()
        for unit, after, limit in (
            ("requests", self._requests + 1, self.max_requests),
            ("dollars", self._usd + expected.usd, self.max_usd),
            ("tokens", self._tokens + expected.tokens, self.max_tokens),
        ):
            if limit is not None and after > limit:
                raise BudgetSpent(f"{self.provider} reached the limit of {limit:g} {unit} a day")
        self._requests += 1
        self._add(expected.usd, expected.tokens)

    def settle(self, expected: RequestCost, actual: RequestCost) -> None:
        """Replace the reserved cost of a request by its actual cost."""
        self._add(actual.usd - expected.usd, actual.tokens - expected.tokens)

    def statistics(self) -> dict[str, float]:
        """Return requests, dollars and tokens of the current day."""
        self._start_new_day()
        return {"requests": self._requests, "usd": self._usd, "tokens": self._tokens}

    def _add(self, usd: float, tokens: int) -> None:
        # Not below 0: a request reserved yesterday may be settled today.
        self._usd = max(0.0, self._usd + usd)
        self._tokens = max(0, self._tokens + tokens)

    def _start_new_day(self) -> None:
        if (today := self.today()) != self._day:
            self._day, self._requests, self._usd, self._tokens = today, 0, 0.0, 0
