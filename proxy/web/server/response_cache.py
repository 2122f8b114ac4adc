"""Response cache: image responses kept ready, with their headers encoded.

The key of an entry consists of all that decides the response: route, media id, parsed parameters,
client hints, and the formats that the Accept header allows. The rendition store alone keeps the
bodies. An entry for a rendition in memory refers to it weakly, and one for a rendition on disk
reads the file each time, so eviction and purge take effect at once.
"""

from __future__ import annotations

import math
import re
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from itertools import product
from typing import NamedTuple, Protocol

from aiohttp import web

# Multidict look-ups by these constants take a third of the time: their hashes are stored.
from aiohttp.hdrs import (
    ACCEPT,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    RANGE,
)
from multidict import MultiMapping

from proxy.domain.errors import BadParameter
from proxy.domain.formats import Format
from proxy.domain.media import Media
from proxy.domain.negotiation import acceptable
from proxy.domain.render_plan import RenderPlan
from proxy.domain.request import Origin, Outcome, VariantRequest
from proxy.domain.variant import Variant
from proxy.serving.delivery import delivered_format
from proxy.serving.stored_lookup import StoredLookup, StoredRendition
from proxy.settings import LifetimeSettings
from proxy.storage.renditions.rendition import MemoryRendition
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.telemetry.metrics import Metrics, RequestHistogram
from proxy.telemetry.tracing import STATE
from proxy.web.conditional import matches
from proxy.web.headers import (
    ImageRoute,
    cache_status,
    content_headers,
    ignored_header,
    image_headers,
    server_timing,
    validators,
)
from proxy.web.media_server import FORWARDED
from proxy.web.request_input import ID_PATTERN, wants_less
from proxy.web.responses import to_head
from proxy.web.server.load_shedding import LoadShedder

FreshUntil = Callable[[RenderPlan], float]
"""Returns the time on the monotonic clock up to which a plan may be used; 0 for an old one."""

_NOT_STORED = web.RequestKey("not_stored", StoredRendition)

_MAX_ITEMS = 20_000
_MAX_ACCEPT = 1024
"""Characters. A longer Accept header bypasses the cache, so client text cannot fill memory."""
_ALIASES = 4
"""Targets remembered for each entry. A fifth replaces the first, which costs its next request one
parse (about 15 us) and no response."""
_TOUCH_S = 1.0
"""A rendition that is hit is marked as used in the memory store at most this often."""
_DRAFT_S = 5.0
"""Lifetime of an entry for a draft. Another process may store the final in the shared directory,
which no call reports here."""

_TARGET = re.compile(
    rf"/(serve|api/images)/({ID_PATTERN})(?:\.([A-Za-z0-9]{{1,8}}))?(?:\?(.*))?",
    re.ASCII | re.DOTALL,
)
_ROUTES = {"serve": ImageRoute.SERVE, "api/images": ImageRoute.API_IMAGES}
_PLAIN_QUERY, _SIGNED_QUERY = (
    re.compile(rf"(?:(?:{names})=[\w.-]{{0,64}}(?:&(?:amp;)?|\Z))*", re.ASCII | re.IGNORECASE)
    for names in ("size|w|dpr|format|bg|v", "size|w|dpr|format|bg|v|sig|exp|kid")
)
"""Queries without unknown parameters. For a public image a signature is one of these."""


class ParseQuery(Protocol):
    """Parses a raw query string."""

    def __call__(
        self, raw_query: str, /, *, extension: str | None, lean: bool | None = None
    ) -> VariantRequest:
        """``extension`` is that of the path; raises `BadParameter`."""


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """A parsed request target of an image route."""

    route: ImageRoute
    media_id: int
    request: VariantRequest

    def unsigned(self) -> ImageTarget:
        """Return the target without its signature, which a public image does not need."""
        return replace(self, request=replace(self.request, signature=None))


@dataclass(frozen=True, slots=True)
class ResolvedResponse:
    """A response as the handler resolved it: encoded headers without Date, and its rendition."""

    plan: RenderPlan
    variant: Variant
    origin: Origin
    """The tier of the rendition: ``memory`` or ``disk``."""
    length: int
    head: bytes
    outcome: Outcome
    not_modified_head: bytes
    not_modified_outcome: Outcome
    sent_until: float = math.inf
    """Seconds since 1970. Later, its Cache-Control would exceed the expiry of the signature."""


class StoredImages(NamedTuple):
    """What answers requests for stored renditions without an entry."""

    lookup: StoredLookup
    lifetimes: LifetimeSettings
    load_shedder: LoadShedder


class CachedResponse(NamedTuple):
    """A ready response. Its head lacks the lines that differ per request, such as Date."""

    status: int
    head: bytes
    body: bytes
    outcome: Outcome
    histogram: RequestHistogram


def image_outcome(
    plan: RenderPlan, variant: Variant | None, fmt: Format | None, origin: Origin, route: ImageRoute
) -> Outcome:
    """Return what is recorded; a fallback of another size is neither draft nor final."""
    stage = ""
    if variant is not None:
        stages = ((plan.draft, "draft"), (plan.variant, "final"))
        stage = next((name for one, name in stages if one is variant), "")
    return Outcome(
        route,
        plan.request.box.name,
        fmt or plan.variant.format,
        origin,
        media_id=plan.media.id,
        variant=variant,
        stage=stage,
        lean=bool(plan.request.lean),
    )


def resolve_response(
    plan: RenderPlan,
    variant: Variant,
    fmt: Format,
    origin: Origin,
    *,
    length: int,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
) -> ResolvedResponse:
    """Return the 200 and the 304 that the cache keeps for a rendition.

    They lack Smartserve-Ignored, which the cache adds for each request.
    """
    signature = plan.request.signature
    sent_until = math.inf if signature is None else signature.until(time.time())
    shared = validators(
        plan, variant, origin, route=route, lifetimes=lifetimes, sent_until=sent_until
    )
    draft = variant is plan.draft
    not_modified = ("Cache-Status", cache_status(Origin.NOT_MODIFIED, draft=draft))
    headers = [
        *shared,
        ("Cache-Status", cache_status(origin, draft=draft)),
        *content_headers(plan, fmt),
        ("Server-Timing", server_timing([(origin, None)], draft=draft)),
        ("Content-Length", str(length)),
    ]
    return ResolvedResponse(
        plan=plan,
        variant=variant,
        origin=origin,
        length=length,
        head=to_head(HTTPStatus.OK, headers),
        outcome=image_outcome(plan, variant, fmt, origin, route),
        not_modified_head=to_head(HTTPStatus.NOT_MODIFIED, [*shared, not_modified]),
        not_modified_outcome=image_outcome(
            plan, variant, plan.variant.format, Origin.NOT_MODIFIED, route
        ),
        sent_until=sent_until,
    )


_Key = tuple[ImageRoute, int, VariantRequest, object]
_Alias = tuple[str, str, bool | None]
"""Raw target, Accept header, and `VariantRequest.lean`."""


def _no_rendition() -> None:
    """Replaces the weak reference of an entry whose rendition is on disk."""


class _Entry:
    """A resolved response with the values that a hit needs."""

    __slots__ = (
        *("aliases", "answer", "draft", "etag", "key", "not_modified", "rendition", "histogram"),
        *("touch_at", "until"),
    )

    def __init__(
        self,
        key: _Key,
        answer: ResolvedResponse,
        rendition: MemoryRendition | None,
        until: float,
        metrics: Metrics,
    ) -> None:
        self.key = key
        self.aliases: deque[_Alias] = deque()
        self.answer = answer
        self.draft = answer.variant is answer.plan.draft
        self.etag = answer.variant.etag
        # Weak, so that the memory store alone decides how long the bytes stay.
        self.rendition = _no_rendition if rendition is None else weakref.ref(rendition)
        self.until = until
        self.touch_at = 0.0
        self.histogram: RequestHistogram = metrics.histogram_of(answer.outcome, 200)
        self.not_modified: RequestHistogram = metrics.histogram_of(answer.not_modified_outcome, 304)


class ResponseCache:
    """Stores a bounded number of ready responses; evicts the oldest entry first.

    One full request restores an entry, so keeping the order of last use is not worth its cost in
    each hit.
    """

    def __init__(  # noqa: PLR0913 - the last two are for tests
        self,
        *,
        store: TieredStore,
        metrics: Metrics,
        fresh_until: FreshUntil,
        parse_query: ParseQuery,
        order: Sequence[Format],
        client_hints: bool = False,
        request_final: Callable[[RenderPlan], None] = lambda _: None,
        stored: StoredImages | None = None,
        max_items: int = _MAX_ITEMS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``order`` is the server's order of formats; ``client_hints``: whether they are read.

        ``request_final`` is called for each GET that a draft answers, as the handler does.
        ``stored`` finds renditions without an entry; None leaves them to the handler.
        """
        self._store = store
        self._stored = stored
        self._memory = store.memory
        self._metrics = metrics
        self._fresh_until = fresh_until
        self._parse_query = parse_query
        self.client_hints = client_hints
        self._request_final = request_final
        self._clock = clock
        self._max_items = max_items
        self._entries: dict[_Key, _Entry] = {}
        self._aliases: dict[_Alias, _Entry] = {}
        """The fast look-up of plain hits."""
        self._by_media: dict[int, set[_Key]] = {}

        @lru_cache(maxsize=256)
        def accept_class(accept: str) -> object:
            """Return the formats that an Accept header allows for each kind of image."""
            return tuple(
                acceptable(accept, order=order, transparent=transparent, animated=animated)
                for transparent, animated in product((False, True), repeat=2)
            )

        self._accept_class = accept_class

    def find(
        self,
        target: str,
        method: str,
        headers: MultiMapping[str],
        *,
        longest: int = sys.maxsize,
    ) -> CachedResponse | None:
        """Return the ready response to a request, or None if the handler must answer it.

        Ranges, dates and bodies of more than ``longest`` bytes are left to the handler.
        """
        accept = headers.get(ACCEPT, "")
        lean = wants_less(headers) if self.client_hints else None
        # No target remembered here has unknown parameters.
        entry = self._aliases.get((target, accept, lean))
        if entry is not None:
            return self._find(entry, method, headers, longest)
        entry = self._lookup(target, accept, lean)
        found = None if entry is None else self._find(entry, method, headers, longest)
        return _with_ignored(found, target)

    def _find(
        self, entry: _Entry, method: str, headers: MultiMapping[str], longest: int
    ) -> CachedResponse | None:
        now = self._clock()
        # The handler reads the row again, and `keep` then replaces an expired entry.
        if entry.until <= now or not _is_plain(method, headers):
            return None
        if entry.draft:
            return self._find_draft(entry, method, headers, longest)
        answer, rendition = entry.answer, entry.rendition()
        in_memory = rendition is not None
        if rendition is None:
            rendition = self._read_now(answer, method, longest)
        # The rendition is on disk, or was evicted or purged. In its place a draft or another size
        # may be served now, so this decides nothing, not even a 304.
        if rendition is None:
            return None
        if IF_NONE_MATCH in headers and _has(headers, entry.etag):
            return _not_modified(entry)
        if rendition.length > longest:
            return None
        if in_memory:
            self._mark_used(entry, now)
        return CachedResponse(200, answer.head, rendition.body, answer.outcome, entry.histogram)

    def _read_now(
        self, answer: ResolvedResponse, method: str, longest: int
    ) -> MemoryRendition | None:
        """Return a rendition on disk that can be read without a thread."""
        if answer.origin is not Origin.DISK or method != "GET" or answer.length > longest:
            return None
        # Promoted meanwhile: the handler replaces this entry by one for the memory tier.
        if answer.variant.digest in self._memory:
            return None
        rendition = self._store.read_now(answer.variant)
        # The encoded head has the Content-Length of the file that the handler found.
        if rendition is None or rendition.length != answer.length:
            return None
        return rendition

    def _find_draft(
        self, entry: _Entry, method: str, headers: MultiMapping[str], longest: int
    ) -> CachedResponse | None:
        """Return the draft as long as it is in memory and its final is not."""
        answer, rendition = entry.answer, entry.rendition()
        final = answer.plan.variant
        if rendition is None or final.digest in self._memory:
            # The final was stored, or the draft evicted or purged: never served again from here.
            self._drop(entry.key)
            return None
        conditional = IF_NONE_MATCH in headers
        if rendition.length > longest or (conditional and _has(headers, final.etag)):
            # A client that has the final needs nothing if the final is on disk by now, where only
            # the handler looks for it.
            return None
        if method == "GET":
            self._request_final(answer.plan)
        if conditional and _has(headers, entry.etag):
            return _not_modified(entry)
        self._mark_used(entry, self._clock())
        return CachedResponse(200, answer.head, rendition.body, answer.outcome, entry.histogram)

    async def get(
        self,
        target: str,
        method: str,
        headers: MultiMapping[str],
        request: web.BaseRequest | None = None,
    ) -> CachedResponse | None:
        """Return what `find` does, or a stored final without an entry, or one that is on disk.

        Return None also if the rendition is too long to be read at once. If nothing is stored, this
        is noted in the ``request``, for `not_stored`.
        """
        accept = headers.get(ACCEPT, "")
        lean = wants_less(headers) if self.client_hints else None
        entry = self._aliases.get((target, accept, lean)) or self._lookup(target, accept, lean)
        plain = _is_plain(method, headers)
        found = None
        if entry is not None:
            found = self._find(entry, method, headers, sys.maxsize)
            if found is None and method == "GET" and plain:
                found = await self._read(entry, headers)
        if found is None and plain and self._stored is not None:
            found = await self._find_stored(self._stored, (target, accept, lean), headers, request)
        return _with_ignored(found, target)

    async def _find_stored(
        self,
        stored: StoredImages,
        alias: _Alias,
        headers: MultiMapping[str],
        request: web.BaseRequest | None,
    ) -> CachedResponse | None:
        raw_target, accept, _ = alias
        target = self._parse(*alias)
        # A trace shows how long the row and the file took; under overload the handler decides.
        if target is None or STATE.tracer is not None or stored.load_shedder.overloaded:
            return None
        began = time.perf_counter()
        found = await stored.lookup.find(target.media_id, target.request, accept)
        if found is None:
            return None
        plan, rendition = found.plan, found.rendition
        if rendition is None:
            if request is not None:
                request[_NOT_STORED] = found
            return None
        # A CDN that was purged meanwhile would keep a response from before the change.
        if not stored.lookup.is_valid(found):
            return None
        variant, origin = plan.variant, Origin(rendition.tier)
        fmt = delivered_format(variant, rendition.head)
        self._metrics.stage("database", found.database_s)
        route, lifetimes = target.route, stored.lifetimes
        if found.known:
            # Requested twice in a while, so it is worth an entry.
            tier = self.next_origin(variant)
            self.keep(
                raw_target,
                accept,
                target,
                resolve_response(
                    plan,
                    variant,
                    fmt,
                    tier,
                    length=rendition.length,
                    route=route,
                    lifetimes=lifetimes,
                ),
            )
        if IF_NONE_MATCH in headers and _has(headers, variant.etag):
            shared = validators(plan, variant, origin, route=route, lifetimes=lifetimes)
            status = ("Cache-Status", cache_status(Origin.NOT_MODIFIED))
            outcome = image_outcome(plan, variant, variant.format, Origin.NOT_MODIFIED, route)
            head = to_head(HTTPStatus.NOT_MODIFIED, [*shared, status])
            return CachedResponse(304, head, b"", outcome, self._metrics.histogram_of(outcome, 304))
        timings = [(str(origin), time.perf_counter() - began)]
        lines = image_headers(
            plan, variant, fmt, origin, route=route, lifetimes=lifetimes, timings=timings
        )
        head = to_head(HTTPStatus.OK, [*lines, ("Content-Length", str(rendition.length))])
        outcome = image_outcome(plan, variant, fmt, origin, route)
        histogram = self._metrics.histogram_of(outcome, 200)
        return CachedResponse(200, head, rendition.body, outcome, histogram)

    async def _read(self, entry: _Entry, headers: MultiMapping[str]) -> CachedResponse | None:
        answer = entry.answer
        on_disk = answer.origin is Origin.DISK and entry.until > self._clock()
        # Promoted meanwhile: the handler replaces this entry by one for the memory tier.
        if not on_disk or answer.variant.digest in self._memory:
            return None
        rendition = await self._store.get(answer.variant)
        if rendition is None:
            return None
        rendition.close()
        # Forgotten while the file was read: the image may be private now, or have another crop.
        if self._entries.get(entry.key) is not entry:
            return None
        if IF_NONE_MATCH in headers and _has(headers, entry.etag):
            return _not_modified(entry)
        # The encoded head has the Content-Length of the file that the handler found.
        if rendition.body is None or rendition.length != answer.length:
            return None
        return CachedResponse(200, answer.head, rendition.body, answer.outcome, entry.histogram)

    def not_stored(self, request: web.BaseRequest, media: Media) -> RenderPlan | None:
        """Return the plan of a request if `get` has just found out that nothing is stored for it.

        ``media`` is the current row.
        """
        found: StoredRendition | None = request.pop(_NOT_STORED, None)
        if found is None or found.plan.media is not media or found.puts != self._store.puts:
            return None
        return found.plan

    def next_origin(self, variant: Variant) -> Origin:
        """Return the tier of the next hit: a rendition read from disk may have been promoted."""
        return Origin.MEMORY if variant.digest in self._memory else Origin.DISK

    def keep(
        self, raw_target: str, accept: str, target: ImageTarget, answer: ResolvedResponse
    ) -> None:
        """Keep a response for all requests that differ only in what does not decide it."""
        now, media = self._clock(), answer.plan.media
        until = self._fresh_until(answer.plan)
        in_memory = answer.origin is Origin.MEMORY
        rendition = self._memory.peek(answer.variant.digest) if in_memory else None
        # The rendition was evicted meanwhile, or the row changed: neither can be served later.
        if (in_memory and rendition is None) or until <= now or len(accept) > _MAX_ACCEPT:
            return
        draft = answer.variant is answer.plan.draft
        if draft and not in_memory:
            return
        if answer.plan.request.signature is not None:
            until = min(until, now + answer.sent_until - time.time())
            if until <= now:
                return
        # A plan has the signature of a private image only: random ones fill no memory.
        elif target.request.signature is not None:
            target = target.unsigned()
        key = self._key(target, accept)
        # The new entry has the same key, so all targets of the old one also lead to it.
        replaced = self._drop(key)
        if len(self._entries) >= self._max_items:
            # Dicts keep the order of insertion, so the first entry is the oldest.
            self._drop(next(iter(self._entries)))
        until = min(until, now + _DRAFT_S) if draft else until
        entry = self._entries[key] = _Entry(key, answer, rendition, until, self._metrics)
        self._by_media.setdefault(media.id, set()).add(key)
        alias = raw_target, accept, target.request.lean
        for one in (*(replaced.aliases if replaced is not None else ()), alias):
            self._remember_alias(one, entry)

    def clear(self) -> None:
        """Drop all entries: the keys of renditions have changed."""
        for media_id in tuple(self._by_media):
            self.forget(media_id)

    def forget(self, media_id: int) -> None:
        """Drop all entries of a media row, which was changed or purged."""
        for key in tuple(self._by_media.get(media_id, ())):
            self._drop(key)

    def _parse(
        self,
        raw_target: str,
        accept: str,
        lean: bool | None,  # noqa: FBT001 - a part of the key
        *,
        among: Container[int] | None = None,
    ) -> ImageTarget | None:
        """Return what a target means; None if the handler must answer, or it is not ``among``."""
        match = _TARGET.fullmatch(raw_target)
        if match is None or len(accept) > _MAX_ACCEPT:
            return None
        route, number, extension, query = match.groups()
        media_id = int(number)
        if among is not None and media_id not in among:
            return None
        try:
            request = self._parse_query(query or "", extension=extension, lean=lean)
        # The handler builds the 400, which lists the allowed values.
        except BadParameter:
            return None
        return ImageTarget(_ROUTES[route], media_id, request)

    def _lookup(
        self,
        raw_target: str,
        accept: str,
        lean: bool | None,  # noqa: FBT001 - a part of the key
    ) -> _Entry | None:
        """Find the entry by what the target means, whatever unknown parameters it carries."""
        # A query is parsed only if the image has an entry.
        target = self._parse(raw_target, accept, lean, among=self._by_media)
        if target is None:
            return None
        entry = self._entries.get(self._key(target, accept))
        # Entries without a signature are those of public images.
        if entry is None and target.request.signature is not None:
            entry = self._entries.get(self._key(target.unsigned(), accept))
        if entry is not None:
            self._remember_alias((raw_target, accept, lean), entry)
        return entry

    def _key(self, target: ImageTarget, accept: str) -> _Key:
        request = target.request
        if request.version:
            # Only the presence of ``v`` counts: it makes the response immutable.
            request = replace(request, version="1")
        accept_class = self._accept_class(accept) if request.negotiated else None
        return target.route, target.media_id, request, accept_class

    def _remember_alias(self, alias: _Alias, entry: _Entry) -> None:
        """Remember a target without unknown parameters, of which there are too many values."""
        plain = _PLAIN_QUERY if entry.answer.plan.request.signature is None else _SIGNED_QUERY
        if alias in self._aliases or not plain.fullmatch(alias[0].partition("?")[2]):
            return
        if len(entry.aliases) >= _ALIASES:
            del self._aliases[entry.aliases.popleft()]
        entry.aliases.append(alias)
        self._aliases[alias] = entry

    def _drop(self, key: _Key) -> _Entry | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        for alias in entry.aliases:
            del self._aliases[alias]
        media_id = entry.answer.plan.media.id
        keys = self._by_media[media_id]
        keys.discard(key)
        if not keys:
            del self._by_media[media_id]
        return entry

    def _mark_used(self, entry: _Entry, now: float) -> None:
        """Count the hit; once a second, mark the rendition as recently used in the store."""
        if now < entry.touch_at:
            self._memory.record_hit()
        else:
            entry.touch_at = now + _TOUCH_S
            self._memory.peek(entry.answer.variant.digest)


def _not_modified(entry: _Entry) -> CachedResponse:
    answer = entry.answer
    return CachedResponse(
        304, answer.not_modified_head, b"", answer.not_modified_outcome, entry.not_modified
    )


def _with_ignored(answer: CachedResponse | None, target: str) -> CachedResponse | None:
    """Add Smartserve-Ignored: an entry also answers requests with unknown parameters."""
    lines = [] if answer is None else ignored_header(target.partition("?")[2])
    if answer is None or not lines:
        return answer
    added = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
    return answer._replace(head=answer.head + added)


def _has(headers: MultiMapping[str], etag: str) -> bool:
    return matches(", ".join(headers.getall(IF_NONE_MATCH)), etag)


def _is_plain(method: str, headers: MultiMapping[str]) -> bool:
    # `find` reads one Accept header only; several would have to be combined (RFC 9110, 5.3).
    return (
        method in ("GET", "HEAD")
        and RANGE not in headers
        and IF_MODIFIED_SINCE not in headers
        # The handler answers them with 412 if they fail.
        and IF_MATCH not in headers
        and IF_UNMODIFIED_SINCE not in headers
        and len(headers.getall(ACCEPT, ())) <= 1
        # A loop, if this server forwards too: the handler rejects it.
        and FORWARDED not in headers
    )
