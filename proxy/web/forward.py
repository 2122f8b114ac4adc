"""Forwards requests to the media server, and stores its images like own renditions.

On the main server of two machines the ids in addresses are those of the media server's database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import product
from typing import Any

import orjson
import structlog
from cachetools import TTLCache

from proxy.domain.errors import (
    CapacityError,
    DatabaseUnavailable,
    ForwardLoop,
    MediaServerUnavailable,
    ShuttingDown,
    SmartserveError,
    SourceTimeout,
    StorageError,
)
from proxy.domain.formats import Format
from proxy.domain.negotiation import acceptable
from proxy.domain.render_plan import EVERYONE, PurgeEpochs
from proxy.domain.request import Origin, VariantRequest
from proxy.domain.variant import EncoderProfile, Variant, box_geometry
from proxy.runtime.supervised_task import cancel
from proxy.serving.renderer import RunningRender
from proxy.storage.database.upload_repository import UploadResults
from proxy.storage.renditions.rendition import Rendition
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.web.media_server import (
    FORWARDED,
    NOT_MODIFIED,
    OK,
    ForwardedResponse,
    MediaServer,
)

_OWNERS, _OWNER_S = 10_000, 60.0
_PREFIX_BYTES = 4
_ORDER = (Format.AVIF, Format.WEBP, Format.JPEG)
_AWAY = (MediaServerUnavailable, CapacityError, SourceTimeout)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A request for an image of the media server."""

    media_id: int
    path: str
    """Path and query at the media server: ``/serve/789.webp?size=thumbnail``."""
    wanted: VariantRequest
    """What path and query mean: equal requests share one response."""
    accept: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the response depends on."""
        hints = {"Save-Data": "on"} if self.wanted.lean else {}
        return {"Accept": self.accept, **hints}

    def variant(self, epoch: str = "") -> Variant:
        """Return the key under which the response is stored; no own rendition has an equal one.

        ``epoch`` changes when all images are purged.
        """
        box, wanted = self.wanted.box, self.wanted
        negotiated = _accept_class(self.accept) if wanted.negotiated else ""
        meaning = f"{box} {wanted.format} {wanted.remove_background} {negotiated}"
        meaning += " lean" if wanted.lean else ""
        meaning += epoch
        return Variant(
            media_id=self.media_id,
            version=f"forwarded-{blake2b(meaning.encode(), digest_size=16).hexdigest()}",
            geometry=box_geometry(box),
            profile=EncoderProfile(wanted.format or Format.JPEG, ()),
            background_removed=bool(wanted.remove_background),
            animated=False,
            recipe="forwarded",
        )


@lru_cache(maxsize=256)
def _accept_class(accept: str) -> str:
    """Return the formats that a header allows for each kind of image."""
    # In all formats, not only those of this server: the other one may have more.
    kinds = product((False, True), repeat=2)
    return str([acceptable(accept, order=_ORDER, transparent=t, animated=a) for t, a in kinds])


class _Download:
    """A response that is being received, for all requests that wait for it."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.stream = RunningRender(variant)
        self._head: asyncio.Future[ForwardedResponse] = asyncio.get_running_loop().create_future()

    def begin(self, head: ForwardedResponse) -> None:
        self._head.set_result(head)

    def fail(self, error: SmartserveError) -> None:
        if self._head.done():
            self.stream.fail(error)
        else:
            self._head.set_exception(error)
            # All callers may have left: mark it as retrieved, or asyncio logs it.
            self._head.exception()

    async def response(self, origin: Origin) -> ForwardedResponse:
        """Return the response as soon as its head has arrived."""
        head = await asyncio.shield(self._head)
        # The connection belongs to the download, not to one of those who wait for it.
        return replace(head, origin=origin, chunks=self.stream.chunks(), release=lambda: None)


class MediaForwarder:
    """Answers for the media server: from the rendition store, or by forwarding.

    `aclose` ends it; the media server is owned by it.
    """

    def __init__(
        self,
        server: MediaServer,
        *,
        derived: bool,
        store: TieredStore,
        results: UploadResults,
        fresh_s: int,
        epochs: PurgeEpochs,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``derived`` says that no setting demands forwarding; see `deactivate`.

        A stored response is revalidated after ``fresh_s`` at the latest.
        """
        self.active = True
        self._server = server
        self._derived = derived
        self._store = store
        self._results = results
        self._fresh_s = fresh_s
        self._epochs = epochs
        self._clock = clock
        self._owners: TTLCache[int, bool] = TTLCache(_OWNERS, _OWNER_S)
        self._running: dict[str, _Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def applies(self, media_id: int) -> bool:
        """Return whether an id belongs to the media server, by what was recorded of its upload.

        An id of which nothing is recorded does: the ids in addresses are those of its database.
        """
        known = self._owners.get(media_id)
        if known is None:
            try:
                servers = await self._results.servers(media_id)
            # Forwarding needs no database: images are served while it is away.
            except DatabaseUnavailable:
                return self.active
            known = self._owners[media_id] = servers != {""}
        return self.active and known

    def check(self, headers: Mapping[str, str]) -> None:
        """Reject a request that was forwarded to this server, although it forwards itself.

        Raises:
            ForwardLoop: it was. It could come back for ever, or get another image with this id.
        """
        if self.active and FORWARDED in headers:
            raise ForwardLoop("this server was forwarded a request, and forwards requests itself")

    def deactivate(self) -> bool:
        """Stop forwarding after a `ForwardLoop`, unless a setting demands it; return whether."""
        if self._derived and self.active:
            self.active = False
            advice = "set server.public_url, or main.forward_to if another server has the media"
            log.warning("forwarding_disabled", target=self._server.target, advice=advice)
        return not self.active

    async def leads_elsewhere(self) -> bool:
        """Send a request at the start, and return whether another server answers it."""
        try:
            await self._server.check()
        except ForwardLoop as error:
            if not self.deactivate():
                log.warning("forward_loop", target=self._server.target, detail=error.detail)
        except SmartserveError as error:
            # It has no image 0. If it is away, it may come back.
            log.debug("media_server_checked", target=self._server.target, detail=error.detail)
        return self.active

    async def find(self, request: ForwardedRequest) -> ForwardedResponse | None:
        """Return the stored response if it is fresh, else None; the caller releases it."""
        found = await self._stored(self._variant(request))
        if found is None or self._is_fresh(found):
            return found
        found.release()
        return None

    async def fetch(self, request: ForwardedRequest) -> ForwardedResponse:
        """Return the stored response, or request it; simultaneous calls share one request.

        The caller releases the response.

        Raises:
            SmartserveError: the media server failed, or its response is an error.
        """
        variant = self._variant(request)
        stored = await self._stored(variant)
        # A download may have ended while the disk was read.
        if stored is None and variant.digest in self._store.memory:
            stored = await self._stored(variant)
        if stored is not None and self._is_fresh(stored):
            return stored
        download, origin = self._running.get(variant.digest), Origin.COALESCED
        if download is None:
            download, origin = self._start(request, variant, stored), Origin.RENDER
        try:
            response = await download.response(origin)
        except BaseException as error:
            if stored is not None and isinstance(error, _AWAY):
                return replace(stored, stale=True)
            _release(stored)
            raise
        _release(stored)
        return response

    async def relay(
        self, request: ForwardedRequest, method: str, headers: Mapping[str, str]
    ) -> ForwardedResponse:
        """Pass a request with conditions or a range on, and stream the response; not stored.

        The caller releases the response. Raises as `fetch` does.
        """
        headers = {**request.headers, **headers}
        return await self._server.stream(method, request.path, headers)

    async def analysis(self, media_id: int) -> Mapping[str, Any]:
        """Return the analysis of an image; while the media server is away, that of the callback.

        Raises:
            SmartserveError: neither can be had.
        """
        try:
            return await self._server.analysis(media_id)
        except _AWAY:
            callback = await self._results.callback(media_id)
            reported = None if callback is None else callback.get("ai_analysis")
            if not isinstance(reported, dict):
                raise
            return reported

    def forget(self, media_id: int) -> None:
        """Let no request join a download that began before a purge of the image."""
        for download in tuple(self._running.values()):
            if download.variant.media_id == media_id:
                self._release(download)

    async def aclose(self) -> None:
        """End the running requests and close the connections."""
        await cancel(*self._tasks)
        await self._server.aclose()

    def _variant(self, request: ForwardedRequest) -> Variant:
        # A purge of all images deletes nothing in a bucket: what it has must not be found again.
        return request.variant(self._epochs.version("", EVERYONE))

    def _is_fresh(self, response: ForwardedResponse) -> bool:
        age_s = self._clock() - response.received_at
        # A negative age means that the clock was set back: nothing is known then.
        return 0 <= age_s < min(response.max_age_s, self._fresh_s)

    def _start(
        self, request: ForwardedRequest, variant: Variant, stored: ForwardedResponse | None
    ) -> _Download:
        download = self._running[variant.digest] = _Download(variant)
        # A task of its own: a client that leaves, even the first one, does not end the download.
        task = asyncio.create_task(self._run(request, download, stored))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._release(download))
        return download

    def _release(self, download: _Download) -> None:
        if self._running.get(download.variant.digest) is download:
            del self._running[download.variant.digest]

    async def _run(
        self, request: ForwardedRequest, download: _Download, stored: ForwardedResponse | None
    ) -> None:
        try:
            # Before the request: a purge meanwhile also discards what is being received.
            ticket = self._store.ticket(download.variant)
            head = await self._receive(request, download, stored)
            body = download.stream.finish()
            if head.max_age_s:
                await self._store.put(ticket, _pack(head, body))
        except SmartserveError as error:
            self._release(download)
            download.fail(error)
        except BaseException:
            download.fail(ShuttingDown("the server is stopping", retry_after_s=1))
            raise

    async def _receive(
        self, request: ForwardedRequest, download: _Download, stored: ForwardedResponse | None
    ) -> ForwardedResponse:
        # Only what is in memory can be confirmed: a file may be evicted meanwhile.
        known = None if stored is None else stored.body
        headers = request.headers
        if stored is not None and known is not None and stored.etag:
            headers["If-None-Match"] = stored.etag
        head = await self._server.stream("GET", request.path, headers)
        try:
            if head.status == NOT_MODIFIED and stored is not None and known is not None:
                # The headers of a 304 replace the stored ones (RFC 9111, 3.2).
                fresh = {**stored.headers, **head.headers}
                head = replace(head, status=OK, headers=fresh, length=len(known))
                download.begin(head)
                download.stream.feed(known)
                return head
            if head.status != OK or head.chunks is None:
                raise MediaServerUnavailable("the media server sent no whole image")
            download.begin(head)
            async for chunk in head.chunks:
                download.stream.feed(chunk)
        finally:
            head.release()
        return head

    async def _stored(self, variant: Variant) -> ForwardedResponse | None:
        rendition = await self._store.get(variant)
        if rendition is None:
            return None
        try:
            return await _unpack(rendition)
        # A file that cannot be read is a miss, as for own renditions.
        except (StorageError, ValueError):
            rendition.close()
            return None


def _release(response: ForwardedResponse | None) -> None:
    if response is not None:
        response.release()


def _pack(head: ForwardedResponse, body: bytes) -> bytes:
    """Return what is stored of a response: length of the headers, headers, body."""
    about = orjson.dumps({"at": head.received_at, "headers": {**head.headers}})
    return b"".join((len(about).to_bytes(_PREFIX_BYTES), about, body))


async def _unpack(rendition: Rendition) -> ForwardedResponse:
    """Return the stored response; it owns the rendition.

    Raises:
        StorageError, ValueError: the file cannot be read.
    """
    begin = _PREFIX_BYTES + int.from_bytes(rendition.head[:_PREFIX_BYTES])
    about = bytearray()
    async for piece in rendition.chunks(_PREFIX_BYTES, min(begin, rendition.length)):
        about += piece
    found = orjson.loads(about)
    if not isinstance(found, dict) or not {"at", "headers"} <= found.keys():
        raise ValueError("not a stored response")
    whole = rendition.body
    if whole is not None:
        rendition.close()

    async def chunks() -> AsyncGenerator[bytes, None]:
        async for piece in rendition.chunks(begin, rendition.length):
            yield piece

    return ForwardedResponse(
        OK,
        found["headers"],
        Origin(rendition.tier),
        found["at"],
        body=None if whole is None else whole[begin:],
        chunks=chunks() if whole is None else None,
        length=rendition.length - begin,
        release=rendition.close,
    )
