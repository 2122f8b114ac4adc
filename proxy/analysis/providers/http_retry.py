"""Sends JSON requests to a provider, with time-out, retries and a daily budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import aiohttp
import orjson
import stamina

from proxy.analysis.providers.daily_budget import DailyBudget, RequestCost
from proxy.domain.errors import ProviderRefused, ProviderUnavailable
from proxy.runtime.http_client import read_bounded, retry_after_s
from proxy.settings.vision import ProviderSettings

_T = TypeVar("_T")

_OK, _SERVER_ERROR = 200, 500
# Client errors that are transient: RFC 9110, 15.5.9; RFC 6585, 4.
_TRANSIENT = frozenset({408, 429})
# Codes in a 429 answer that no retry resolves.
_PERMANENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_CODE = re.compile(r"[A-Za-z0-9_]{1,60}", re.ASCII)


class ProviderClient:
    """A client of one provider."""

    def __init__(
        self,
        title: str,
        settings: ProviderSettings,
        *,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str],
        max_bytes: int,
    ) -> None:
        """``title`` starts every error text; ``headers`` contain the key.

        The session belongs to the caller. An answer may have ``max_bytes``.
        """
        self._title = title
        self._settings = settings
        self._session = session
        self._headers = {**headers, "Content-Type": "application/json"}
        self._max_bytes = max_bytes
        self.budget = DailyBudget(
            title,
            settings.max_requests_per_day,
            settings.max_usd_per_day,
            getattr(settings, "max_tokens_per_day", None),
        )

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        read: Callable[[Any], _T],
        expected: RequestCost,
    ) -> _T:
        """Send a request, and return what ``read`` makes of the JSON answer.

        A transient error is retried, including `ProviderUnavailable` from ``read``. Each attempt
        reserves ``expected``.

        Raises:
            ProviderRefused: a retry would not help.
            ProviderUnavailable: every attempt failed, or Retry-After exceeds the longest wait.
            BudgetSpent: a daily limit is reached.
        """
        encoded = orjson.dumps(body)
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
                self.budget.reserve(expected)
                return read(await self._send(path, encoded))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _retry_wait(self, error: Exception) -> bool | float:
        # Refusals and spent budgets do not change within seconds.
        if not isinstance(error, ProviderUnavailable):
            return False
        return error.retry_wait(self._settings.max_backoff_s)

    async def _send(self, path: str, body: bytes) -> Any:
        url = f"{self._settings.base_url.rstrip('/')}/{path}"
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        try:
            # No redirects: they could send key and image to another host.
            async with self._session.post(
                url, data=body, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await read_bounded(response, self._max_bytes)
        except TimeoutError as error:
            raise ProviderUnavailable(f"{self._title} did not answer in time") from error
        except aiohttp.ClientError as error:
            raise ProviderUnavailable(f"{self._title} cannot be reached") from error
        if answer is None:
            raise ProviderRefused(f"{self._title} sent more than {self._max_bytes} bytes")
        if response.status != _OK:
            raise self._failure(response, answer)
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise ProviderUnavailable(f"{self._title} sent an answer that is not JSON") from error

    def _failure(
        self, response: aiohttp.ClientResponse, answer: bytes
    ) -> ProviderRefused | ProviderUnavailable:
        status, codes = response.status, _error_codes(answer)
        suffix = f" ({', '.join(codes)})" if codes else ""
        reason = f"{self._title} answered {status}{suffix}"
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
