"""Delivery: a medium and what is asked of it, to the bytes that answer.

Renditions come from the store, from a render under way, or from a render begun now; where none can
be had in time, the nearest size of the same picture that is there.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
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
from proxy.domain.media import Media
from proxy.domain.outcome import Origin
from proxy.domain.query import VariantRequest
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.trace_context import Trace
from proxy.domain.variant import Variant
from proxy.runtime.byte_stream import ByteStream
from proxy.runtime.single_flight import SingleFlight
from proxy.serving.delivery_result import DeliveryResult
from proxy.serving.renderer import Renderer, RenderTelemetry, RunningRender
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.renditions import RenditionStore

_TELL_EVERY_S = 1.0
_GIVES_WAY = (CapacityError, SourceError, RenderTimeout, SourceQuarantined)
"""Failures after which another size of the picture, if there is one, is better than none."""

log = structlog.get_logger(__name__)


class Delivery:
    """Turns plans into bytes."""

    def __init__(  # noqa: PLR0913 - what joins the rooms has to be given all of them
        self,
        *,
        store: RenditionStore,
        inspector: SourceFactsService,
        renderer: Renderer,
        telemetry: RenderTelemetry,
        planner: RenderPlanner,
        budget_s: float,
        upgrade: Callable[[RenderPlan], None] = lambda _: None,
        pressure: Callable[[], CapacityError | None] = lambda: None,
        joined: Callable[[float, Trace | None], None] = lambda _began, _leader: None,
    ) -> None:
        """The rooms it works with, none of which it owns.

        ``pressure`` gives the error with which misses are turned away unheard, while the server is
        late with all that it does.
        A final that takes no more than ``budget_s`` is made at once; for all others ``upgrade`` is
        told whenever their draft has gone out.
        ``joined`` is told when a request has waited, since when, for a render that another began.
        """
        self._store = store
        self._inspector = inspector
        self._renderer = renderer
        self._telemetry = telemetry
        self._planner = planner
        self._budget_s = budget_s
        self._upgrade = upgrade
        self._pressure = pressure
        self._joined = joined
        self._flight: SingleFlight[RunningRender] = SingleFlight()
        self._making: Counter[int] = Counter()
        self._told_at = -math.inf

    async def plan(self, media: Media, request: VariantRequest, accept: str | None) -> RenderPlan:
        """Resolve a request: learn the facts where they are not known, pick the format.

        Where they cannot be learned, by those of the best lesser file of the picture.

        Raises:
            SmartserveError: as `SourceFactsService.facts` does.
        """
        try:
            facts = await self._inspector.facts(media)
        except SmartserveError as error:
            plans = self._planner.stand_ins(media, request, accept)
            if not plans:
                raise
            self._tell(media, error)
            return plans[0]
        return self._planner.plan(media, facts, request, accept)

    async def held(self, media_id: int) -> AbstractSet[str] | None:
        """Digests of the renditions that there are of a picture; None while one is being made."""
        if media_id in self._making:
            return None
        return await self._store.digests(media_id)

    async def find(
        self, plan: RenderPlan, *, held: AbstractSet[str] | None = None
    ) -> DeliveryResult | None:
        """The rendition if it is there, or its draft; nothing is rendered.

        ``held`` are the digests that there are, where they were looked up already.
        """
        for variant in plan.stages:
            if held is not None and variant.digest not in held:
                continue
            rendition = await self._store.get(variant)
            if rendition is not None:
                origin = Origin.FALLBACK if plan.stand_in else Origin(rendition.tier)
                draft = variant is plan.draft
                return DeliveryResult(variant, origin, rendition=rendition, draft=draft)
        return None

    def first(self, plan: RenderPlan) -> Variant:
        """What is rendered for a plan of which nothing is there: the final if that is quick."""
        if plan.draft is None:
            return plan.variant
        estimate_s = self._renderer.estimate_s(plan.variant)
        quick = estimate_s is not None and estimate_s <= self._budget_s
        return plan.variant if quick else plan.draft

    async def fetch(
        self,
        plan: RenderPlan,
        *,
        held: AbstractSet[str] | None = None,
        waits: Callable[[], None] = lambda: None,
    ) -> DeliveryResult:
        """The rendition, or a render that has begun to give bytes, or the nearest cached size.

        ``held`` as for `find`; ``waits`` is called once a render is all that is waited for.

        Raises:
            SmartserveError: nothing can be had; the kind says why.
        """
        delivered = await self.find(plan, held=held) or await self._rendered(plan, held, waits)
        if delivered.draft:
            self._upgrade(plan)
        return delivered

    async def _rendered(
        self, plan: RenderPlan, held: AbstractSet[str] | None, waits: Callable[[], None]
    ) -> DeliveryResult:
        under_way = self.first(plan).digest in self._flight
        if not under_way and (late := self._pressure()) is not None:
            raise late
        try:
            return await self._begun(plan, waits)
        except SourceChanged:
            raise
        except SmartserveError as error:
            instead = await self._instead(plan, error, held)
            if instead is None:
                raise
            self._tell(plan.media, error)
            return instead

    async def _begun(
        self, plan: RenderPlan, waits: Callable[[], None] = lambda: None
    ) -> DeliveryResult:
        """A render that has begun to give bytes, one that is under way already included."""
        variant = self.first(plan)
        under_way = variant.digest in self._flight
        if not under_way:
            # Nothing is begun that would be refused at once.
            self._renderer.check(plan.media)
        rendering, led = self._flight.join(variant.digest, lambda: self._launch(plan, variant))
        waits()
        began = time.perf_counter()
        await rendering.stream.started()
        if not led:
            self._joined(began, rendering.trace)
        origin = Origin.RENDER if led else Origin.COALESCED
        if plan.stand_in:
            origin = Origin.FALLBACK
        return DeliveryResult(variant, origin, rendering=rendering, draft=variant is plan.draft)

    async def _instead(
        self, plan: RenderPlan, error: SmartserveError, held: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """What may go out in place of a render that failed.

        That a lesser file is there helps where the source is at fault, not where no worker is free.
        """
        if not isinstance(error, CapacityError):
            for other in self._planner.instead(plan):
                with suppress(SmartserveError):
                    return await self.find(other) or await self._begun(other)
        return await self._nearest(plan, held) if isinstance(error, _GIVES_WAY) else None

    def _tell(self, media: Media, error: SmartserveError) -> None:
        """Tell the operator which picture is at fault, once a second: the answer looks well."""
        late = time.monotonic() - self._told_at < _TELL_EVERY_S
        if late or isinstance(error, CapacityError):
            return
        self._told_at = time.monotonic()
        kind = type(error).__name__
        log.warning("picture_stood_in_for", media_id=media.id, error=kind, detail=error.detail)

    def _launch(
        self, plan: RenderPlan, variant: Variant
    ) -> tuple[RunningRender, Coroutine[Any, Any, None]]:
        rendering = RunningRender()
        return rendering, self._render_and_keep(plan, variant, rendering)

    async def _render_and_keep(
        self, plan: RenderPlan, variant: Variant, rendering: RunningRender
    ) -> None:
        """Lead a flight: the store takes in the bytes while the worker makes them.

        Ends when the rendition is stored, so that whoever comes next finds it.
        """
        with self._noted(plan.media.id):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(variant, rendering.stream))
                await self._settle(plan, variant, rendering)

    @contextmanager
    def _noted(self, media_id: int) -> Iterator[None]:
        """Note that a rendition of a picture is being made."""
        self._making[media_id] += 1
        try:
            yield
        finally:
            self._making[media_id] -= 1
            if not self._making[media_id]:
                del self._making[media_id]

    async def _settle(self, plan: RenderPlan, variant: Variant, rendering: RunningRender) -> None:
        try:
            await self._renderer.render(plan, variant, rendering)
        except SmartserveError as error:
            self._fail(variant, rendering, error)
        except BaseException:
            stopping = ShuttingDown("the server is stopping", retry_after_s=1)
            self._fail(variant, rendering, stopping)
            raise
        else:
            rendering.stream.finish()

    def _fail(self, variant: Variant, rendering: RunningRender, error: SmartserveError) -> None:
        """End a render for all who wait; who comes from now on must not get its half."""
        self._flight.release(variant.digest, rendering)
        rendering.stream.fail(error)

    async def _keep(self, variant: Variant, stream: ByteStream) -> None:
        """Copy a stream into the store; one that fails is not kept."""
        try:
            async with self._store.writer(variant) as writer:
                async for chunk in stream.chunks():
                    await writer.write(chunk)
                finished = time.perf_counter()
        except SmartserveError:
            return
        self._telemetry.stage("store", time.perf_counter() - finished)

    async def _nearest(
        self, plan: RenderPlan, held: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """The cached size of the same picture that comes nearest to what was asked for.

        What there is of the picture is looked up once, and first: under overload most have nothing,
        and to refuse them must cost less than to serve them.
        """
        if held is None:
            held = await self._store.digests(plan.media.id)
        if not held:
            return None
        for variant in self._planner.neighbours(plan, held):
            rendition = await self._store.get(variant)
            if rendition is not None:
                return DeliveryResult(variant, Origin.FALLBACK, rendition=rendition)
        return None

    async def drain(self) -> None:
        """Return when all renders under way have ended and are stored."""
        await self._flight.drain()

    async def aclose(self) -> None:
        """Cancel all renders under way."""
        await self._flight.aclose()

    def statistics(self) -> Mapping[str, float]:
        """Renders under way, begun and shared since the start."""
        return self._flight.statistics()
