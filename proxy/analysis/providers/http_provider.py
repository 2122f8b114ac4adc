"""The base class of vision providers: JSON requests with time-out, retries and a daily budget."""

from __future__ import annotations

import base64
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, ClassVar, Generic, TypeVar

import aiohttp
import orjson
import stamina

from proxy.domain.analysis import VisionResult
from proxy.domain.errors import BudgetSpent, ProviderRefused, ProviderUnavailable
from proxy.runtime.http_client import read_bounded, retry_after_s
from proxy.settings.vision import ProviderSettings

SettingsT = TypeVar("SettingsT", bound=ProviderSettings)

_OK, _SERVER_ERROR = 200, 500
# Client errors that are transient: RFC 9110, 15.5.9; RFC 6585, 4.
_TRANSIENT = frozenset({408, 429})
# Codes in a 429 answer that no retry resolves.
_PERMANENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_CODE = re.compile(r"[A-Za-z0-9_]{1,60}", re.ASCII)


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
    today: Callable[[], date] = lambda: datetime.now(UTC).date()
    _day: date = field(default=date.min, init=False)
    _requests: int = field(default=0, init=False)
    _usd: float = field(default=0.0, init=False)
    _tokens: int = field(default=0, init=False)

    def reserve(self, expected: RequestCost) -> None:
        """Count a request and its expected cost.

        Raises:
            BudgetSpent: the request would exceed a limit; nothing is counted.
        """
        if (today := self.today()) != self._day:
            self._day, self._requests, self._usd, self._tokens = today, 0, 0.0, 0
        requests, usd = self._requests + 1, self._usd + expected.usd
        tokens = self._tokens + expected.tokens
        # All limits before the first count: a request that is not sent must cost nothing.
        for unit, after, limit in (
            ("requests", requests, self.max_requests),
            ("dollars", usd, self.max_usd),
            ("tokens", tokens, self.max_tokens),
        ):
            if limit is not None and after > limit:
                raise BudgetSpent(f"{self.provider} reached the limit of {limit:g} {unit} a day")
        self._requests, self._usd, self._tokens = requests, usd, tokens

    def settle(self, expected: RequestCost, actual: RequestCost) -> None:
        """Replace the reserved cost of a request by its actual cost."""
        # Not below 0: a request reserved yesterday may be settled today.
        self._usd = max(0.0, self._usd + actual.usd - expected.usd)
        self._tokens = max(0, self._tokens + actual.tokens - expected.tokens)


class VisionProvider(ABC, Generic[SettingsT]):
    """A service that describes images."""

    name: ClassVar[str]
    """Key of this provider in the settings, in results and in reasons."""
    title: ClassVar[str]
    """Begins every error text."""
    column: ClassVar[str]
    """Column of the database in which its answers are stored."""
    path: ClassVar[str]
    """Appended to `ProviderSettings.base_url`."""
    key_header: ClassVar[tuple[str, str]]
    """Name and format of the header with the key; not the URL, because URLs appear in logs."""

    def __init__(
        self, settings: SettingsT, key: str, *, session: aiohttp.ClientSession, max_bytes: int
    ) -> None:
        """The session belongs to the caller; an answer may have ``max_bytes``."""
        self._settings = settings
        self._session = session
        header, form = self.key_header
        self._headers = {header: form.format(key), "Content-Type": "application/json"}
        self._max_bytes = max_bytes
        self.budget = DailyBudget(
            self.title,
            settings.max_requests_per_day,
            settings.max_usd_per_day,
            # Only some providers count tokens.
            getattr(settings, "max_tokens_per_day", None),
        )

    @abstractmethod
    def body(self, content: str, media_type: str, data_type: str) -> Mapping[str, Any]:
        """Return the request for an image in Base64."""

    @abstractmethod
    def expected_cost(self) -> RequestCost:
        """Return the cost that is reserved before a request."""

    @staticmethod
    @abstractmethod
    def recall(answer: Any, sent_size: tuple[int, int] | None = None) -> VisionResult:
        """Return the result of an answer, new or stored as `VisionResult.raw`.

        ``sent_size`` is that of the image that was sent. Without it the result has no positions.

        Raises:
            AnalysisError: the answer has another form than this provider's, or contains no result.
        """

    def settle(self, answer: Any) -> None:
        """Replace the reserved cost by the actual one, if answers report it."""

    async def analyse(
        self, image: bytes, media_type: str, data_type: str, sent_size: tuple[int, int]
    ) -> VisionResult:
        """Describe an encoded image; ``data_type`` is the purpose it was uploaded for.

        ``sent_size`` is the width and height of the image.

        A transient error is retried, including an answer that cannot be read. The text of an error
        is the reason, and contains no secret.

        Raises:
            ProviderRefused: a retry would not help.
            ProviderUnavailable: every attempt failed, or Retry-After exceeds the longest wait.
            BudgetSpent: a daily limit is reached.
        """
        content = base64.b64encode(image).decode("ascii")
        body = orjson.dumps(self.body(content, media_type, data_type))
        async for attempt in stamina.retry_context(
            on=self._retry_wait,
            attempts=self._settings.max_attempts,
            timeout=None,
            wait_initial=self._settings.backoff_s,
            wait_max=self._settings.max_backoff_s,
            wait_jitter=self._settings.backoff_s,
        ):
            with attempt:
                # Each attempt is charged: providers bill requests that fail late.
                self.budget.reserve(self.expected_cost())
                answer = await self._send(body)
                self.settle(answer)
                return self.recall(answer, sent_size)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _retry_wait(self, error: Exception) -> bool | float:
        # Refusals and spent budgets do not change within seconds.
        if not isinstance(error, ProviderUnavailable):
            return False
        return error.retry_wait(self._settings.max_backoff_s)

    async def _send(self, body: bytes) -> Any:
        url = f"{self._settings.base_url.rstrip('/')}/{self.path}"
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        try:
            # No redirects: they could send key and image to another host.
            async with self._session.post(
                url, data=body, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await read_bounded(response, self._max_bytes)
        except TimeoutError as error:
            raise ProviderUnavailable(f"{self.title} did not answer in time") from error
        except aiohttp.ClientError as error:
            raise ProviderUnavailable(f"{self.title} cannot be reached") from error
        if answer is None:
            raise ProviderRefused(f"{self.title} sent more than {self._max_bytes} bytes")
        if response.status != _OK:
            raise self._failure(response, answer)
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise ProviderUnavailable(f"{self.title} sent an answer that is not JSON") from error

    def _failure(
        self, response: aiohttp.ClientResponse, answer: bytes
    ) -> ProviderRefused | ProviderUnavailable:
        status, codes = response.status, _error_codes(answer)
        suffix = f" ({', '.join(codes)})" if codes else ""
        reason = f"{self.title} answered {status}{suffix}"
        transient = status in _TRANSIENT and not _PERMANENT & set(codes)
        if transient or status >= _SERVER_ERROR:
            return ProviderUnavailable(reason, retry_after_s=retry_after_s(response.headers))
        return ProviderRefused(reason)


def _error_codes(answer: bytes) -> list[str]:
    """Return the codes of an error answer. Its sentences may repeat a part of the key."""
    try:
        error = orjson.loads(answer)["error"]
        found = [error.get(name) for name in ("status", "type", "code")]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []
    return [one for one in found if isinstance(one, str) and _CODE.fullmatch(one)]
