"""Delivery: a medium and what is asked of it, to the bytes that answer.

Renditions come from the store, from a render under way, or from a render begun now; where none can
be had in time, the nearest size of the same picture that is there.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Any, Protocol

from proxy.errors import (
    CapacityError,
    RenderTimeout,
    ShuttingDown,
    SmartserveError,
    SourceChanged,
    SourceError,
    SourceQuarantined,
)
from proxy.formats import EncoderProfile, Format
from proxy.inspection import Inspector
from proxy.jobs import Limits, RenderJob, RenderResult
from proxy.media import Media, MediaFacts
from proxy.negotiation import fallback, negotiate
from proxy.renditions import Rendition, RenditionStore
from proxy.variant import DPRS, WIDTHS, SizeSpec, Variant, VariantRequest, resolve
from proxy.workers.flight import Flight
from proxy.workers.stream import ByteStream
from proxy.workshop import Done, Workshop

_NEIGHBOURS = 24
"""How many cached sizes are looked for in place of one that cannot be rendered now."""
_STREAMED_PIXELS = 640 * 640


class Origin(StrEnum):
    """Where an answer came from."""

    MEMORY = "memory"
    DISK = "disk"
    RENDER = "render"
    COALESCED = "coalesced"
    FALLBACK = "fallback"
    NOT_MODIFIED = "not_modified"
    NONE = "none"


class Telemetry(Protocol):
    """Takes note of how long things took, in seconds."""

    def stage(self, stage: str, seconds: float) -> None:
        """One stage of a request or a render: queue, decode, transform, encode, store."""

    def rendered(self, label: str, fmt: Format, seconds: float) -> None:
        """A whole render, from the worker's start to its answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request resolved against its medium."""

    media: Media
    facts: MediaFacts
    request: VariantRequest
    variant: Variant

    @property
    def background_kept(self) -> bool:
        """Whether the background was to be removed and cannot be."""
        return self.request.remove_background and not self.facts.flat_background


class Rendering:
    """A render under way: its stream, and the seconds it waited for a worker once that is known."""

    def __init__(self) -> None:
        self.stream = ByteStream()
        self.queue_s: float | None = None

    def admitted(self, queue_s: float) -> None:
        """Take note that a worker is free now."""
        self.queue_s = queue_s


@dataclass(frozen=True, slots=True)
class Delivered:
    """The bytes that answer a plan: a whole rendition or a render under way."""

    variant: Variant
    """Another one than the plan's where the answer is a fallback."""
    origin: Origin
    rendition: Rendition | None = None
    rendering: Rendering | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides a variant besides the request and the picture."""

    profiles: Mapping[Format, EncoderProfile]
    order: tuple[Format, ...]
    """The server's preference, which breaks ties."""
    sizes: Mapping[str, SizeSpec]
    limits: Limits
    recipe: str
    copyright_notice: str | None = None
    """Written into every rendition."""


class Delivery:
    """Turns plans into bytes."""

    def __init__(
        self,
        *,
        store: RenditionStore,
        inspector: Inspector,
        workshop: Workshop,
        telemetry: Telemetry,
        rules: Rules,
    ) -> None:
        """The rooms it works with, none of which it owns, and what decides a variant."""
        self._store = store
        self._inspector = inspector
        self._workshop = workshop
        self._telemetry = telemetry
        self._rules = rules
        self._flight: Flight[Rendering] = Flight()

    async def plan(self, media: Media, request: VariantRequest, accept: str | None) -> Plan:
        """Resolve a request: learn the facts where they are not known, pick the format.

        Raises:
            SmartserveError: as `Inspector.facts` does.
        """
        facts = await self._inspector.facts(media)
        fmt = request.format or negotiate(
            accept,
            order=self._rules.order,
            transparent=_transparent(request, facts),
            animated=facts.animated,
        )
        return Plan(media, facts, request, self._resolve(media, facts, request, fmt))

    def _resolve(
        self, media: Media, facts: MediaFacts, request: VariantRequest, fmt: Format
    ) -> Variant:
        profile = self._rules.profiles[fmt]
        return resolve(request, media, facts, profile=profile, recipe=self._rules.recipe)

    async def find(self, plan: Plan) -> Delivered | None:
        """The rendition if it is there; nothing is rendered."""
        rendition = await self._store.get(plan.variant)
        if rendition is None:
            return None
        return Delivered(plan.variant, Origin(rendition.tier), rendition=rendition)

    async def fetch(self, plan: Plan) -> Delivered:
        """The rendition, or a render that has begun to give bytes, or the nearest cached size.

        Raises:
            SmartserveError: nothing can be had; the kind says why.
        """
        found = await self.find(plan)
        if found is not None:
            return found
        rendering, led = self._flight.join(plan.variant.digest, lambda: self._launch(plan))
        try:
            await rendering.stream.started()
        except (CapacityError, SourceError, RenderTimeout, SourceQuarantined) as error:
            nearest = None if isinstance(error, SourceChanged) else await self._nearest(plan)
            if nearest is None:
                raise
            return nearest
        origin = Origin.RENDER if led else Origin.COALESCED
        return Delivered(plan.variant, origin, rendering=rendering)

    def _launch(self, plan: Plan) -> tuple[Rendering, Coroutine[Any, Any, None]]:
        rendering = Rendering()
        return rendering, self._render_and_keep(plan, rendering)

    async def _render_and_keep(self, plan: Plan, rendering: Rendering) -> None:
        """Lead a flight: the store takes in the bytes while the worker makes them.

        Ends when the rendition is stored, so that whoever comes next finds it.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(plan.variant, rendering.stream))
            await self._settle(plan, rendering)

    async def _settle(self, plan: Plan, rendering: Rendering) -> None:
        try:
            await self._render(plan, rendering)
        except SmartserveError as error:
            rendering.stream.fail(error)
        except BaseException:
            rendering.stream.fail(ShuttingDown("the server is stopping", retry_after_s=1))
            raise
        else:
            rendering.stream.finish()

    async def _render(self, plan: Plan, rendering: Rendering) -> None:
        try:
            done = await self._workshop.run(
                plan.media,
                self._job(plan),
                rendering.stream.feed,
                byte_size=plan.facts.byte_size,
                admitted=rendering.admitted,
            )
        except SourceChanged:
            await self._inspector.learn(plan.media)
            raise
        self._note(plan, done)

    def _job(self, plan: Plan) -> RenderJob:
        return RenderJob(
            limits=self._rules.limits,
            geometry=plan.variant.geometry,
            profile=plan.variant.profile,
            remove_background=plan.variant.background_removed,
            animated=plan.variant.animated,
            copyright=self._rules.copyright_notice,
        )

    def _note(self, plan: Plan, done: Done[RenderResult]) -> None:
        self._telemetry.stage("queue", done.queue_s)
        for stage, seconds in done.result.stages.items():
            self._telemetry.stage(stage, seconds)
        self._telemetry.rendered(plan.request.label, plan.variant.format, done.work_s)

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

    async def _nearest(self, plan: Plan) -> Delivered | None:
        """The cached size of the same picture that comes nearest to what was asked for."""
        for variant in self._neighbours(plan):
            rendition = await self._store.get(variant)
            if rendition is not None:
                return Delivered(variant, Origin.FALLBACK, rendition=rendition)
        return None

    def _neighbours(self, plan: Plan) -> list[Variant]:
        """Other sizes of the same picture, the nearest first; ties go to the larger."""
        requests = [replace(plan.request, box=box) for box in self._boxes()]
        variants = {
            variant.digest: variant
            for request, fmt in product(requests, _showable(plan))
            for variant in (self._resolve(plan.media, plan.facts, request, fmt),)
        }
        variants.pop(plan.variant.digest, None)
        nearest = sorted(variants.values(), key=lambda variant: _distance(variant, plan.variant))
        return nearest[:_NEIGHBOURS]

    def _boxes(self) -> Iterator[SizeSpec]:
        for size in self._rules.sizes.values():
            yield from (size.scaled(dpr) for dpr in DPRS.values())
        yield from (SizeSpec(f"w{width}", width, None) for width in WIDTHS)

    async def warm(self, plan: Plan) -> bool:
        """Render and keep what is not there; whether it had to be rendered."""
        found = await self.find(plan)
        if found is not None and found.rendition is not None:
            found.rendition.close()
            return False
        rendering, _ = self._flight.join(plan.variant.digest, lambda: self._launch(plan))
        await rendering.stream.whole()
        return True

    async def drain(self) -> None:
        """Return when all renders under way have ended and are stored."""
        await self._flight.drain()

    async def aclose(self) -> None:
        """Cancel all renders under way."""
        await self._flight.aclose()

    def statistics(self) -> Mapping[str, float]:
        """Renders under way, begun and shared since the start."""
        return self._flight.statistics()


def _transparent(request: VariantRequest, facts: MediaFacts) -> bool:
    """Whether the picture that goes out has transparency."""
    return facts.has_alpha or (request.remove_background and facts.flat_background)


def _showable(plan: Plan) -> tuple[Format, ...]:
    """Formats that may stand in: the chosen one, and where it was negotiated the fallback."""
    chosen = plan.variant.format
    if not plan.request.negotiated:
        return (chosen,)
    transparent = _transparent(plan.request, plan.facts)
    return (chosen, fallback(transparent=transparent, animated=plan.facts.animated))


def _distance(variant: Variant, wanted: Variant) -> tuple[bool, float, int]:
    """How unlike two variants are: in shape and scale, then a smaller one is further off."""
    here, there = variant.geometry, wanted.geometry
    unlike = abs(math.log(here.width / there.width)) + abs(math.log(here.height / there.height))
    return (variant.format is not wanted.format, round(unlike, 3), -here.width)


def streams(variant: Variant) -> bool:
    """Whether a render gives bytes worth sending before its end.

    Only a baseline JPEG comes out as it is made; a small one is whole before a client could have
    read the first part, and is of more use with a Content-Length.
    """
    large = variant.geometry.width * variant.geometry.height >= _STREAMED_PIXELS
    return variant.profile.streams and large
