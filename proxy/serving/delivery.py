"""Delivery: returns the rendition for a media row and a request.

A rendition comes from the store, from a running render, or from a new render. If none can be had
in time, the nearest stored size of the same image is the fallback.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.domain.errors import (
    CapacityError,
    RenderTimeout,
    ShuttingDown,
    SmartserveError,
    SourceChanged,
    SourceError,
    SourceQuarantined,
)
from proxy.domain.formats import Format, sniff
from proxy.domain.media import Media
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.request import Origin, VariantRequest
from proxy.domain.variant import Variant, streams
from proxy.runtime.byte_stream import ByteStream
from proxy.runtime.single_flight import SingleFlight
from proxy.serving.renderer import Renderer, RenderTelemetry, RunningRender
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.renditions import Rendition, RenditionStore
from proxy.telemetry.tracing import record

_LOG_EVERY_S = 1.0
_FALLBACK_ERRORS = (CapacityError, SourceError, RenderTimeout, SourceQuarantined)
"""Errors after which another size of the image, if one is stored, is sent instead."""
_STREAMED_PIXELS = 640 * 640

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The bytes for a plan: a stored rendition or a running render."""

    variant: Variant
    """The plan's final or draft, or the variant of a fallback."""
    origin: Origin
    rendition: Rendition | None = None
    rendering: RunningRender | None = None
    draft: bool = False
    """Whether the final is still to be rendered."""

    @property
    def cacheable(self) -> bool:
        """Whether the next request will probably get the same bytes, and in one piece."""
        whole = self.rendition is not None and self.rendition.body is not None
        return whole and self.origin is not Origin.FALLBACK

    async def format(self) -> Format:
        """Return the format; if two formats compete, the bytes decide and are waited for.

        Raises:
            SmartserveError: the render failed.
        """
        if self.variant.alternative is None:
            return self.variant.format
        head = b""
        if self.rendition is not None:
            head = self.rendition.head
        elif self.rendering is not None:
            # No byte arrives before the worker has encoded both formats and compared them.
            head = await self.rendering.stream.whole()
        return Format(sniff(head) or self.variant.format)


def sends_early(variant: Variant) -> bool:
    """Return whether a render is sent while it is being encoded.

    Only baseline JPEG is encoded from the first byte on. A small one is complete before a client
    could read its first part, and is better sent with a Content-Length.
    """
    large = variant.geometry.width * variant.geometry.height >= _STREAMED_PIXELS
    return streams(variant.profile) and large


class Delivery:
    """Finds or renders the rendition of a plan, or a fallback for it."""

    def __init__(
        self,
        *,
        store: RenditionStore,
        facts: SourceFactsService,
        renderer: Renderer,
        telemetry: RenderTelemetry,
        planner: RenderPlanner,
        budget_s: float,
        upgrade: Callable[[RenderPlan], None] = lambda _: None,
        pressure: Callable[[], CapacityError | None] = lambda: None,
    ) -> None:
        """``pressure`` returns the error for new renders while the event loop is overloaded.

        If a final is predicted to take at most ``budget_s`` of processor time, it is rendered
        immediately; otherwise ``upgrade`` is called whenever its draft is delivered.
        """
        self._store = store
        self._facts = facts
        self._renderer = renderer
        self._telemetry = telemetry
        self._planner = planner
        self._budget_s = budget_s
        self._pressure = pressure
        self._flight: SingleFlight[RunningRender] = SingleFlight()
        self._rendering: Counter[int] = Counter()
        """Renders under way by media id."""
        self._logged_at = -math.inf
        self.request_final = upgrade

    async def plan(self, media: Media, request: VariantRequest, accept: str | None) -> RenderPlan:
        """Resolve a request to variants; read the facts of the source if they are unknown.

        If the source cannot be read, plan with the best lesser file of the image.

        Raises:
            SmartserveError: as `SourceFactsService.learn` does.
        """
        try:
            facts = media.known_facts or await self._facts.learn(media)
        except SmartserveError as error:
            plans = self._planner.fallback_plans(media, request, accept)
            if not plans:
                raise
            self._log_fallback(media, error)
            return plans[0]
        return self._planner.plan(media, facts, request, accept)

    async def stored(self, media_id: int) -> AbstractSet[str] | None:
        """Return the digests of the stored renditions of an image; None during a render of it."""
        if media_id in self._rendering:
            return None
        return await self._store.digests(media_id)

    async def find(
        self, plan: RenderPlan, *, stored: AbstractSet[str] | None = None
    ) -> DeliveryResult | None:
        """Return the stored final, else the stored draft, else None.

        ``stored`` are the digests of the stored renditions, if they were looked up already.
        """
        # `stages` has the final first: a draft is only sent while there is no final.
        stages = [one for one in plan.stages if stored is None or one.digest in stored]
        found = await self._store.first(stages) if stages else None
        if found is None:
            return None
        variant, rendition = found
        origin = Origin.FALLBACK if plan.is_fallback else Origin(rendition.tier)
        draft = variant is plan.draft
        return DeliveryResult(variant, origin, rendition=rendition, draft=draft)

    def first(self, plan: RenderPlan) -> Variant:
        """Return the variant to render if nothing is stored: the final if it is predicted quick."""
        if plan.draft is None:
            return plan.variant
        estimate_s = self._renderer.estimate_s(plan.variant)
        quick = estimate_s is not None and estimate_s <= self._budget_s
        return plan.variant if quick else plan.draft

    async def fetch(
        self,
        plan: RenderPlan,
        *,
        stored: AbstractSet[str] | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> DeliveryResult:
        """Find the rendition, or render it; return a fallback if neither succeeds.

        A render that `sends_early` is returned with its first byte, all others with the last.
        ``stored`` is as for `find`; ``on_wait`` is called before the wait for a render.

        Raises:
            SmartserveError: there is neither a rendition nor a fallback.
        """
        result = await self.find(plan, stored=stored)
        if result is None:
            first = self.first(plan)
            # Under pressure a new render is rejected without looking for a fallback, which would
            # take time of the loop that is already late. To join a render costs nothing.
            if first.digest not in self._flight and (late := self._pressure()) is not None:
                raise late
            try:
                result = await self._render(plan, first, on_wait)
            # No fallback: the caller plans again, by the new facts of the source.
            except SourceChanged:
                raise
            except SmartserveError as error:
                result = await self._fallback(plan, error, stored)
                if result is None:
                    raise
                self._log_fallback(plan.media, error)
        # Also for a stored draft: the queue of finals is not persistent, so hits fill it again.
        if result.draft:
            self.request_final(plan)
        return result

    async def _render(
        self, plan: RenderPlan, variant: Variant, on_wait: Callable[[], None] = lambda: None
    ) -> DeliveryResult:
        """Start the render of a variant, or join it if it is under way; wait for a first byte."""
        if variant.digest not in self._flight:
            # Nothing is started that the queue or the failure cache would reject at once.
            self._renderer.check(plan.media)
        rendering, led = self._flight.join(variant.digest, lambda: self._launch(plan, variant))
        # From here on the request waits for a worker and takes no time of the loop.
        on_wait()
        began = time.perf_counter()
        if sends_early(variant):
            await rendering.stream.started()
        else:
            # The encoder writes everything at its end, so one wait replaces two.
            await rendering.stream.whole()
        if not led:
            record("coalesced", began, links=[rendering.span])
        origin = Origin.RENDER if led else Origin.COALESCED
        if plan.is_fallback:
            origin = Origin.FALLBACK
        return DeliveryResult(variant, origin, rendering=rendering, draft=variant is plan.draft)

    async def _fallback(
        self, plan: RenderPlan, error: SmartserveError, stored: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """Return a rendition of a lesser file of the image, else its nearest stored size."""
        # A lesser file helps if the source is at fault, not if no worker is free.
        if not isinstance(error, CapacityError):
            for other in self._planner.fallbacks_for(plan):
                # A lesser file may fail as well: then the next one is tried.
                with suppress(SmartserveError):
                    return await self.find(other) or await self._render(other, self.first(other))
        return await self._nearest(plan, stored) if isinstance(error, _FALLBACK_ERRORS) else None

    async def _nearest(
        self, plan: RenderPlan, stored: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """Return the stored size of the same image that is nearest to the requested one."""
        # One look-up first: under overload most images have nothing stored, and rejecting a
        # request must cost less than serving it.
        if stored is None:
            stored = await self._store.digests(plan.media.id)
        for variant in self._planner.nearest_variants(plan, stored) if stored else ():
            rendition = await self._store.get(variant)
            if rendition is not None:
                return DeliveryResult(variant, Origin.FALLBACK, rendition=rendition)
        return None

    def _log_fallback(self, media: Media, error: SmartserveError) -> None:
        """Log once a second which source failed: the response itself does not show it."""
        recent = time.monotonic() - self._logged_at < _LOG_EVERY_S
        # Overload is not the fault of one source, and admission counts it.
        if recent or isinstance(error, CapacityError):
            return
        self._logged_at = time.monotonic()
        kind = type(error).__name__
        log.warning("fallback_served", media_id=media.id, error=kind, detail=error.detail)

    def _launch(
        self, plan: RenderPlan, variant: Variant
    ) -> tuple[RunningRender, Coroutine[Any, Any, None]]:
        rendering = RunningRender()
        return rendering, self._run(plan, variant, rendering)

    async def _run(self, plan: RenderPlan, variant: Variant, rendering: RunningRender) -> None:
        """Render and store at the same time; end when stored, so the next request finds it."""
        media_id = plan.media.id
        self._rendering[media_id] += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._save(variant, rendering.stream))
                await self._feed(plan, variant, rendering)
        finally:
            self._rendering[media_id] -= 1
            if not self._rendering[media_id]:
                del self._rendering[media_id]

    async def _feed(self, plan: RenderPlan, variant: Variant, rendering: RunningRender) -> None:
        try:
            await self._renderer.render(plan, variant, rendering)
        except SmartserveError as error:
            # The requests that wait get the error; nothing awaits this task, so it is not raised
            # here.
            self._fail(variant, rendering, error)
        except BaseException:
            # A cancellation. Without an end of the stream, the requests would wait for ever.
            stopping = ShuttingDown("the server is stopping", retry_after_s=1)
            self._fail(variant, rendering, stopping)
            raise
        else:
            rendering.stream.finish()

    def _fail(self, variant: Variant, rendering: RunningRender, error: SmartserveError) -> None:
        """End a render for all waiting requests; first let later ones start a new render."""
        self._flight.release(variant.digest, rendering)
        rendering.stream.fail(error)

    async def _save(self, variant: Variant, stream: ByteStream) -> None:
        """Copy a stream into the store; a stream that fails is not stored."""
        try:
            async with self._store.writer(variant) as writer:
                if sends_early(variant):
                    async for chunk in stream.chunks():
                        await writer.write(chunk)
                else:
                    await writer.write(await stream.whole())
                finished = time.perf_counter()
        # The render failed. `_feed` passes the error to the requests; the writer stores nothing.
        except SmartserveError:
            return
        self._telemetry.stage("store", time.perf_counter() - finished)

    async def drain(self) -> None:
        """Return when all renders under way have ended and are stored."""
        await self._flight.drain()

    async def aclose(self) -> None:
        """Cancel all renders under way."""
        await self._flight.aclose()

    def statistics(self) -> Mapping[str, float]:
        """Return the renders under way, and those started and joined since the start."""
        return self._flight.statistics()
