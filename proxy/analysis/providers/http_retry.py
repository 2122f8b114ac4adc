"""Calling: one JSON request to a provider, with its time-out, its retries and its limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import orjson
import stamina
from multidict import CIMultiDictProxy

from proxy.analysis.providers.daily_budget import DailyBudget, RequestCost
from proxy.domain.errors import ProviderRefused, ProviderUnavailable
from proxy.settings.vision import ProviderSettings

_T = TypeVar("_T")

_OK = 200
_AGAIN = frozenset({408, 429})
"""Of the client's errors those that pass (RFC 9110, 15.5.9; RFC 6585, 4)."""
_SERVERS_FAULT = 500
_FINAL = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that no waiting helps."""
_WORD = re.compile(r"[A-Za-z0-9_]{1,60}", re.ASCII)
_CHUNK = 64 * 1024


def open_session() -> aiohttp.ClientSession:
    """A session for providers: no cookies, nothing of the environment's proxies; close it."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


class ProviderClient:
    """Sends requests to one provider."""

    def __init__(
        self,
        provider: str,
        settings: ProviderSettings,
        *,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str],
        budget: DailyBudget,
        max_bytes: int,
    ) -> None:
        """``headers`` carry the key; an answer may have ``max_bytes``."""
        self._provider = provider
        self._settings = settings
        self._session = session
        self._headers = headers
        self._budget = budget
        self._max_bytes = max_bytes

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        read: Callable[[Any], _T],
        expected: RequestCost,
    ) -> _T:
        """Send a request and read its answer; what may pass is tried again, a little later.

        ``read`` makes something of the JSON; where it raises `ProviderUnavailable` it is tried
        again as well. Each attempt is put aside from the budget as ``expected``.

        Raises:
            ProviderRefused: no other attempt would help.
            ProviderUnavailable: all attempts failed, or it asks to be left alone for too long.
            BudgetSpent: a limit of the day is reached.
        """
        encoded = orjson.dumps(body)
        async for attempt in stamina.retry_context(
            on=self._wait,
            attempts=self._settings.max_attempts,
            timeout=None,
            wait_initial=self._settings.first_wait_s,
            wait_max=self._settings.max_wait_s,
            wait_jitter=self._settings.first_wait_s,
        ):
            with attempt:
                self._budget.reserve(expected)
                return read(await self._once(path, encoded))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait(self, error: Exception) -> bool | float:
        """Whether to try again; seconds where the provider says how long to wait."""
        if not isinstance(error, ProviderUnavailable):
            return False
        if error.retry_after_s is None:
            return True
        return error.retry_after_s <= self._settings.max_wait_s and float(error.retry_after_s)

    async def _once(self, path: str, body: bytes) -> Any:
        url = f"{self._settings.base_url.rstrip('/')}/{path}"
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            # A redirect would carry the key and the picture elsewhere.
            async with self._session.post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await self._read(response)
                return self._checked(response.status, response.headers, raw)
        except TimeoutError as error:
            raise ProviderUnavailable(f"{self._provider} did not answer in time") from error
        except aiohttp.ClientError as error:
            raise ProviderUnavailable(f"{self._provider} cannot be reached") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole answer, which is bounded before it is held in memory."""
        raw = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            raw += chunk
            if len(raw) > self._max_bytes:
                raise ProviderRefused(f"{self._provider} gave a larger answer than is read")
        return bytes(raw)

    def _checked(self, status: int, headers: CIMultiDictProxy[str], raw: bytes) -> Any:
        if status == _OK:
            return self._json(raw)
        words = _words(raw)
        told = f" ({', '.join(words)})" if words else ""
        reason = f"{self._provider} answered {status}{told}"
        if (status in _AGAIN and not _FINAL & set(words)) or status >= _SERVERS_FAULT:
            raise ProviderUnavailable(reason, retry_after_s=_retry_after(headers))
        raise ProviderRefused(reason)

    def _json(self, raw: bytes) -> Any:
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ProviderUnavailable(f"{self._provider} answered with no JSON") from error


def _words(raw: bytes) -> list[str]:
    """The codes of an error's body; its sentences may repeat a part of the key and are left out."""
    try:
        error = orjson.loads(raw)["error"]
        found = [error.get(name) for name in ("status", "type", "code")]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []
    return [one for one in found if isinstance(one, str) and _WORD.fullmatch(one)]


def _retry_after(headers: CIMultiDictProxy[str]) -> int | None:
    """Seconds to wait (RFC 9110, 10.2.3), from a number or a date; None where none is told."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdigit():
        return int(told[:9])
    try:
        when = parsedate_to_datetime(told)
    except ValueError:
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0, round((aware - datetime.now(UTC)).total_seconds()))
