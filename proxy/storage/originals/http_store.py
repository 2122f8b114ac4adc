"""Originals on other web servers: fetched from allowed hosts only, into sealed memory files.

Only allowed addresses are requested (`proxy.storage.originals.http_addresses`), and each connection
is checked by its IP address when it is opened (`guarded_connector`).

Fetched files are kept for a while, so that one request serves all sizes of an image, which are
usually rendered within seconds. Then they are revalidated with conditional requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import count

import aiohttp
import structlog
from cachetools import LRUCache
from yarl import URL

from proxy.domain.errors import (
    CapacityError,
    SmartserveError,
    SourceError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.runtime.byte_budget import ByteBudget
from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.runtime.http_client import (
    guarded_connector,
    open_session,
    public_or_in,
    retry_after_s,
)
from proxy.runtime.single_flight import SharedResults
from proxy.settings import HttpSettings
from proxy.storage.originals.fetched import SourceFetcher
from proxy.storage.originals.http_addresses import SCHEMES, AllowedAddresses, ForbiddenAddress
from proxy.storage.originals.local_store import OpenSource

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_CONNECTIONS, _PER_HOST = 32, 8
_PIECE_BYTES = 256 * 1024
_KEPT_BYTES = 64 * 1024 * 1024
"""Of files that nobody reads any more. The newest file is kept even if it is larger."""
_KEPT_FILES = 256
"""Each one has a descriptor."""
_MAX_KNOWN = 10_000
_MIN_FRESH_S, _FRESH_S, _MAX_FRESH_S = 10.0, 60.0, 86_400.0
"""A file is used without a request for as long as its server allows, within these limits."""
_MISSING_S, _FAILED_S = 60.0, 5.0
_BREAK_S, _MAX_BREAK_S = 10.0, 300.0
_FAILURES = 3
"""Failed requests for originals of a host, without a success, that open its circuit breaker."""
_LOG_EVERY_S = 1.0
_HANDOVER_S = 1.0
_MAX_AGE = re.compile(r"(?<![^, ])(s-maxage|max-age)=([0-9]{1,9})(?=[, ]|$)")
_UNCACHEABLE = re.compile(r"(?<![^, ])(?:no-store|no-cache)(?=[,= ]|$)")

# Messages to clients contain no address, which is not public.
_MISSING = "the original of this image is missing"
_FORBIDDEN = "the original of this image is at an address that is not allowed"
_AWAY = "the server of the original cannot be reached"
_INCOMPLETE = "the server of the original did not send the whole file"
_OVERDUE = "the server of the original did not send it in time"
_BUSY = "too many originals are being fetched"

log = structlog.get_logger(__name__)


class _HostFault(Exception):
    """A request failed through a fault of the host, not of the original."""

    def __init__(self, error: SourceError, *, whole_host: bool = False) -> None:
        """``whole_host``: requests for other originals would fail as well."""
        super().__init__(error.detail)
        self.error = error
        self.whole_host = whole_host


_COUNTED: Mapping[type[SmartserveError], str] = {
    SourceMissing: "failures_missing",
    SourceUnavailable: "failures_unavailable",
    SourceTimeout: "failures_timeout",
    SourceTooLarge: "failures_too_large",
}


@dataclass(frozen=True, slots=True)
class _Validators:
    """What identifies the version of a file at its server (RFC 9110, 8.8)."""

    url: str
    """The address after all redirects."""
    content_hash: str
    etag: str
    last_modified: str

    def conditions(self, url: URL) -> Mapping[str, str]:
        """Return the conditional headers of a request, for the server that sent the values."""
        if str(url) != self.url:
            return {}
        found = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in found.items() if value}


class _Copy:
    """A fetched file. It is closed as soon as it is neither kept nor open."""

    def __init__(self, source: OpenSource, content_hash: str, budget: ByteBudget) -> None:
        """Take ownership of the source; the cache that keeps it is its first user."""
        self.byte_size = source.byte_size
        self.content_hash = content_hash
        self.fresh_until = 0.0
        self._descriptor = source.descriptor
        # Gives its bytes back to the budget; None if only the cache has used it since.
        self._release = source.release
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self._users = 1
        self._kept = True
        # Callers that wait for it open it in the next turns of the loop, unless all were cancelled.
        self._loop.call_later(_HANDOVER_S, self._settle)

    @property
    def closed(self) -> bool:
        return self._users == 0

    def open(self) -> OpenSource:
        """Return the file for one more user, with an offset of its own."""
        # A duplicate would share the offset, and a worker reads on from wherever it is.
        descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        self._users += 1
        return OpenSource(
            descriptor,
            self.byte_size,
            release=self._leave,
            version=self.content_hash,
            content_hash=self.content_hash,
        )

    def _leave(self) -> None:
        # A source may be closed by a thread, or after the loop has ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._drop)

    def drop_soon(self) -> None:
        """Do not keep it; callers that wait for it open it first."""
        self._loop.call_later(_HANDOVER_S, self.discard)

    def discard(self) -> None:
        """Remove the cache as a user; it is closed when all others have closed it."""
        self._kept = False
        if self._release is None and self._users > 1:
            # It did not count while it was in the cache, which has a limit of its own.
            self._budget.add(self.byte_size)
            self._release = partial(self._budget.give, self.byte_size)
        self._drop()

    def _drop(self) -> None:
        """Remove a user."""
        self._users -= 1
        self._settle()
        if self.closed:
            os.close(self._descriptor)

    def _settle(self) -> None:
        # What is only kept does not count as in use: no other original has to wait for it.
        if self._users <= self._kept and self._release is not None:
            self._release()
            self._release = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A new file, or None if the known one is still valid."""

    copy: _Copy | None
    fresh_s: float


@dataclass(frozen=True, slots=True)
class _Failure:
    kind: type[SmartserveError]
    detail: str
    cause: BaseException | None
    until: float


@dataclass(slots=True)
class _Host:
    breaker: CircuitBreaker
    failures: int = 0


class HttpOriginals:
    """Opens originals by their address; a `proxy.storage.originals.OriginalReader`.

    An address that the settings do not allow is a missing original.
    """

    def __init__(
        self,
        settings: HttpSettings,
        fetcher: SourceFetcher,
        *,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_bytes`` limits any original. `aclose` also ends the threads of the fetcher."""
        self._settings = settings
        self._fetcher = fetcher
        self._max_bytes = min(max_bytes, settings.max_bytes)
        self._clock = clock
        self._allowed = public_or_in(settings.allow_private)
        self._addresses = AllowedAddresses(settings)
        self._session: aiohttp.ClientSession | None = None
        self._shared: SharedResults[_Copy] = SharedResults()
        self._kept: OrderedDict[str, _Copy] = OrderedDict()
        self._known: LRUCache[str, _Validators] = LRUCache(_MAX_KNOWN)
        """Of the last versions, also of files that are not kept any more."""
        self._failed: LRUCache[str, _Failure] = LRUCache(_MAX_KNOWN)
        self._expirations = count(1)
        self._expired: LRUCache[str, int] = LRUCache(_MAX_KNOWN)
        """Numbers of the latest expirations. What was requested before one may be out of date."""
        self._hosts: LRUCache[str, _Host] = LRUCache(_MAX_KNOWN)
        self._logged_at = -_LOG_EVERY_S
        self._counts = dict.fromkeys(
            ("opened", *_COUNTED.values(), "requests", "not_modified", "fetched_bytes", "refused"),
            0,
        )

    async def open(self, path: str) -> OpenSource:
        """Return a copy of an original by its address; the caller closes it.

        Raises:
            SourceMissing: there is no such file, or its address is not allowed.
            SourceTooLarge: the file is longer than an original may be.
            SourceUnavailable: its server cannot be reached, or does not send it.
            SourceTimeout: it did not arrive in time.
            CapacityError: there is no memory for it now.
        """
        with self._counted():
            copy = await self._current(path)
            try:
                source = copy.open()
            except OSError as error:
                raise SourceUnavailable("the copy of the original cannot be opened") from error
        self._counts["opened"] += 1
        return source

    async def byte_size(self, path: str) -> int:
        """Return the size of an original; raises as `open` does."""
        # Fetched: it is about to be rendered, and not every server answers HEAD with the length.
        with self._counted():
            return (await self._current(path)).byte_size

    async def changed(self, path: str, content_hash: str) -> bool:
        """Send a request, and return whether the content has changed; raises as `open` does.

        The whole file is requested if nothing is known that would identify its version.
        """
        known = self._known.get(path)
        same = known is not None and known.content_hash == content_hash
        with self._counted():
            answer = await self._request(path, known if same else None)
        return answer.copy is not None and answer.copy.content_hash != content_hash

    def expire(self, path: str) -> None:
        """Revalidate an original before its next use, and forget that it failed.

        Requests that are under way supply their callers, and nobody else.
        """
        self._expired[path] = next(self._expirations)
        self._failed.pop(path, None)
        if path in self._kept:
            self._kept[path].fresh_until = 0.0

    async def probe(self, host: str) -> str:
        """Return why no request can be sent to a host; empty if it answers, whatever that is."""
        reason = ""
        for port in self._settings.ports:
            only = {443: ("https",), 80: ("http",)}
            for scheme in only.get(port, SCHEMES):
                url = URL.build(scheme=scheme, host=host, port=port, path="/")
                try:
                    async with (
                        asyncio.timeout(self._settings.timeout_s),
                        self._client().head(url, allow_redirects=False),
                    ):
                        return ""
                except TimeoutError:
                    reason = "no answer in time"
                except (aiohttp.ClientError, OSError, ValueError) as error:
                    reason = str(error) or type(error).__name__
        return reason

    def statistics(self) -> Mapping[str, float]:
        """Return counts of originals, failures and requests, kept bytes, and open breakers."""
        kept_bytes = sum(copy.byte_size for copy in self._kept.values())
        open_circuits = sum(host.breaker.open for host in self._hosts.values())
        return {**self._counts, "kept_bytes": kept_bytes, "open_circuits": open_circuits}

    async def aclose(self) -> None:
        """Cancel all requests; close the connections and the kept files."""
        await self._shared.aclose()
        while self._kept:
            self._kept.popitem()[1].discard()
        if self._session is not None:
            await self._session.close()
        await self._fetcher.aclose()

    async def _current(self, path: str) -> _Copy:
        while True:
            copy = self._kept.get(path)
            if copy is None or self._clock() >= copy.fresh_until:
                since = self._expired.get(path, 0)
                copy = await self._shared.result(f"{since} {path}", partial(self._refresh, path))
            else:
                self._kept.move_to_end(path)
            # Another file may have taken its place before this task continued.
            if not copy.closed:
                return copy

    async def _refresh(self, path: str) -> _Copy:
        """Revalidate a kept file, or fetch it."""
        kept = self._kept.get(path)
        known, since = self._known.get(path), self._expired.get(path, 0)
        same = kept is not None and known is not None and known.content_hash == kept.content_hash
        try:
            answer = await self._request(path, known if same else None)
        except (SourceUnavailable, SourceTimeout):
            # RFC 5861, 4: an old copy is better than none while its server is away.
            if kept is None or kept.closed:
                raise
            return kept
        copy = answer.copy or kept
        if copy is None or copy.closed:
            # Evicted during the request.
            copy = (await self._request(path, None)).copy
        if copy is None:
            raise SourceUnavailable(_INCOMPLETE)
        if self._expired.get(path, 0) == since:
            copy.fresh_until = self._clock() + answer.fresh_s
        return copy

    async def _request(self, path: str, known: _Validators | None) -> _Answer:
        """Send a request, unless one has just failed; keep the outcome, unless it was expired."""
        failure, since = self._failed.get(path), self._expired.get(path, 0)
        if failure is not None and self._clock() < failure.until:
            # A new instance: the traceback of the first one would keep its frames alive.
            raise failure.kind(failure.detail) from failure.cause
        try:
            url = self._addresses.parse(path)
        except ForbiddenAddress as error:
            raise self._refused(error) from error
        host = self._host(url)
        if host.breaker.open:
            wait_s = max(1, round(host.breaker.open_until - self._clock()))
            raise SourceUnavailable(_AWAY, retry_after_s=wait_s)
        try:
            with host.breaker.trial():
                answer = await self._attempt(path, url, known, host)
        except (SourceError, SourceTooLarge) as error:
            lasting = isinstance(error, SourceMissing | SourceTooLarge)
            until = self._clock() + (_MISSING_S if lasting else _FAILED_S)
            cause = error.__cause__ if isinstance(error.__cause__, ForbiddenAddress) else None
            if self._expired.get(path, 0) == since:
                self._failed[path] = _Failure(type(error), error.detail, cause, until)
            raise
        if self._expired.get(path, 0) != since:
            # A request after the expiration may have brought a newer file.
            if answer.copy is not None:
                answer.copy.drop_soon()
            return answer
        self._failed.pop(path, None)
        if answer.copy is not None:
            self._keep(path, answer.copy)
        return answer

    def _keep(self, path: str, copy: _Copy) -> None:
        before = self._kept.pop(path, None)
        if before is not None:
            before.discard()
        self._kept[path] = copy
        size = sum(one.byte_size for one in self._kept.values())
        while (size > _KEPT_BYTES and len(self._kept) > 1) or len(self._kept) > _KEPT_FILES:
            _, oldest = self._kept.popitem(last=False)
            size -= oldest.byte_size
            oldest.discard()

    async def _attempt(
        self, path: str, url: URL, known: _Validators | None, host: _Host
    ) -> _Answer:
        """Send a request, and report its outcome to the circuit breaker of the host."""
        breaker = host.breaker
        try:
            answer = await self._fetch(path, url, known)
        except _HostFault as fault:
            host.failures += 1
            error, cause = fault.error, fault.__cause__
            # One original that always fails must not block all others of its host.
            if fault.whole_host or breaker.failing or host.failures >= _FAILURES:
                breaker.trip(f"{error.detail}: {cause}" if cause else error.detail)
                pause_s = min(error.retry_after_s or 0, _MAX_BREAK_S)
                breaker.open_until = max(breaker.open_until, self._clock() + pause_s)
            raise error from cause
        except SmartserveError:
            # It answered.
            self._works(host)
            raise
        self._works(host)
        return answer

    def _works(self, host: _Host) -> None:
        host.failures = 0
        host.breaker.succeed()

    def _host(self, url: URL) -> _Host:
        name = f"{url.raw_host}:{url.port}"
        host = self._hosts.get(name)
        if host is None:
            breaker = CircuitBreaker(f"originals {name}", pause_s=_BREAK_S, clock=self._clock)
            host = self._hosts[name] = _Host(breaker)
        return host

    async def _fetch(self, path: str, url: URL, known: _Validators | None) -> _Answer:
        """Send a request and those of its redirects."""
        first = url.raw_host
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                for _ in range(_MAX_REDIRECTS + 1):
                    self._counts["requests"] += 1
                    headers = {} if known is None else known.conditions(url)
                    async with self._client().get(
                        url, headers=headers, allow_redirects=False
                    ) as response:
                        if response.status not in _REDIRECTS:
                            return await self._answer(path, response, known)
                        location = response.headers.get("Location", "")
                        url = self._addresses.redirected(url, location)
        except TimeoutError as error:
            raise _HostFault(SourceTimeout(_OVERDUE)) from error
        except aiohttp.ClientConnectorError as error:
            # Errors of certificates have no such attribute.
            cause = getattr(error, "os_error", None)
            if isinstance(cause, PermissionError):
                reason = f"{url.raw_host}: {cause.strerror}; see http.allow_private"
                forbidden = ForbiddenAddress(reason)
                raise self._refused(forbidden) from forbidden
            raise _HostFault(SourceUnavailable(_AWAY), whole_host=url.raw_host == first) from error
        except ForbiddenAddress as error:
            raise self._refused(error) from error
        except (aiohttp.InvalidURL, ValueError):
            forbidden = ForbiddenAddress(f"{url.raw_host}: not a valid address")
            raise self._refused(forbidden) from forbidden
        except (aiohttp.ClientError, OSError) as error:
            raise _HostFault(SourceUnavailable(_INCOMPLETE)) from error
        raise SourceUnavailable("the server of the original redirects too often")

    async def _answer(
        self, path: str, response: aiohttp.ClientResponse, known: _Validators | None
    ) -> _Answer:
        """Receive the body of a response that is no redirect."""
        status, headers = response.status, response.headers
        if status == HTTPStatus.NOT_MODIFIED and known is not None:
            self._counts["not_modified"] += 1
            return _Answer(None, self._fresh_s(headers))
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise SourceMissing(_MISSING)
        answered = f"the server of the original answered {status}"
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wait_s = retry_after_s(headers)
            error = SourceUnavailable(answered, retry_after_s=wait_s)
            # Not if another host answered, after a redirect.
            same = response.url.raw_host == URL(path).raw_host
            raise _HostFault(error, whole_host=same and wait_s is not None)
        if status != HTTPStatus.OK:
            raise SourceUnavailable(answered)
        # It was not accepted, and a small body could expand to a very large one.
        if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise SourceUnavailable("the server of the original sent it compressed")
        length = response.content_length
        # A connection that breaks would look like the end of the file.
        if length is None and "chunked" not in headers.get("Transfer-Encoding", "").lower():
            raise SourceUnavailable("the server of the original did not send its length")
        if length is not None and length > self._max_bytes:
            raise SourceTooLarge(f"the original is larger than {self._max_bytes} bytes")
        copy = await self._receive(response, length)
        self._known[path] = _Validators(
            url=str(response.url),
            content_hash=copy.content_hash,
            etag=headers.get("ETag", ""),
            last_modified=headers.get("Last-Modified", ""),
        )
        return _Answer(copy, self._fresh_s(headers))

    async def _receive(self, response: aiohttp.ClientResponse, length: int | None) -> _Copy:
        digest = hashlib.sha256()

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                self._counts["fetched_bytes"] += len(piece)
                digest.update(piece)
                yield piece

        held = self._max_bytes if length is None else length
        await self._take(held)
        try:
            source = await self._fetcher.copy(
                pieces(), held_bytes=held, max_bytes=self._max_bytes, byte_size=length
            )
        except BaseException:
            self._fetcher.budget.give(held)
            raise
        return _Copy(source, digest.hexdigest(), self._fetcher.budget)

    async def _take(self, count: int) -> None:
        budget = self._fetcher.budget
        if budget.try_take(count):
            return
        try:
            async with asyncio.timeout(self._settings.timeout_s / 2):
                await budget.take(count)
        except TimeoutError:
            raise CapacityError(_BUSY, retry_after_s=1) from None

    def _fresh_s(self, headers: Mapping[str, str]) -> float:
        """Return for how long a file may be used without another request."""
        control = headers.get("Cache-Control", "").lower()
        if _UNCACHEABLE.search(control):
            return _MIN_FRESH_S
        ages = {name: float(age) for name, age in _MAX_AGE.findall(control)}
        # This server is a shared cache (RFC 9111, 5.2.2.10).
        age = ages.get("s-maxage", ages.get("max-age", _FRESH_S))
        return min(max(age, _MIN_FRESH_S), self._settings.revalidate_s or _MAX_FRESH_S)

    def _refused(self, reason: ForbiddenAddress) -> SourceMissing:
        """Count and log an address that is not allowed; return the error for clients."""
        self._counts["refused"] += 1
        # Once a second: any number of rows may have such addresses.
        if self._clock() - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = self._clock()
            log.warning("http_original_refused", reason=str(reason))
        return SourceMissing(_FORBIDDEN)

    def _client(self) -> aiohttp.ClientSession:
        """Return the session; the first request opens it."""
        if self._session is None:
            limit_s = self._settings.timeout_s / 2
            self._session = open_session(
                {
                    "Accept": "image/*, */*;q=0.1",
                    # Byte counts of a compressed body would not be those of the file.
                    "Accept-Encoding": "identity",
                    "User-Agent": "smartserve",
                },
                connector=guarded_connector(
                    self._allowed, limit=_CONNECTIONS, limit_per_host=_PER_HOST
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=limit_s, sock_read=limit_s),
                decompress=False,
            )
        return self._session

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except SmartserveError as error:
            for kind, name in _COUNTED.items():
                self._counts[name] += isinstance(error, kind)
            raise
