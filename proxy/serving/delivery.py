"""Delivery: returns the rendition for a media row and a request.

A rendition comes from the store, from a running render, or from a new render. If none can be had
in time, the nearest stored size of the same image is the fallback.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass

import structlog

from proxy.domain.errors import (
    CapacityError,
    Overloaded,
    RenderTimeout,
    SmartserveError,
    SourceChanged,
    SourceError,
    SourceQuarantined,
)
from proxy.domain.formats import Format, sniff
from proxy.domain.media import Media
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.request import Origin, VariantRequest
from proxy.domain.variant import Variant, wants_faces
from proxy.serving.faces import FaceFinder
from proxy.serving.renderer import Renderer, RunningRender
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.renditions.rendition import Rendition
from proxy.storage.renditions.tiered_store import TieredStore

_LOG_EVERY_S = 1.0
_FALLBACK_ERRORS = (CapacityError, SourceError, RenderTimeout, SourceQuarantined)
"""Errors after which another size of the image, if one is stored, is sent instead."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The bytes for a plan: a stored rendition or a running render."""

    variant: Variant
    """The plan's final or draft, or the variant of a fallback."""
    format: Format
    """The format of the bytes; of two competing formats, the smaller one's."""
    origin: Origin
    body: bytes | None = None
    """All bytes, if they are in memory."""
    rendition: Rendition | None = None
    rendering: RunningRender | None = None
    draft: bool = False
    """Whether the final is still to be rendered."""
    plan: RenderPlan | None = None
    """The plan with a rendition of another recipe as its draft, if that is the result."""


def delivered_format(variant: Variant, head: bytes) -> Format:
    """Return the format of a rendition, by its first bytes."""
    fmt = variant.profile.format
    # If two formats compete, only the bytes say which one was smaller. Another recipe may have had
    # another alternative.
    if variant.alternative is None and variant.stored_as is None:
        return fmt
    return Format(sniff(head) or fmt)


class Delivery:
    """Finds or renders the rendition of a plan, or a fallback for it."""

    def __init__(
        self,
        *,
        store: TieredStore,
        facts: SourceFactsService,
        renderer: Renderer,
        planner: RenderPlanner,
        faces: FaceFinder | None = None,
        upgrade: Callable[[RenderPlan], None] = lambda _: None,
    ) -> None:
        """``upgrade`` is called whenever a draft is delivered.

        ``faces`` is None if no faces are detected.
        """
        self._store = store
        self._facts = facts
        self._renderer = renderer
        self._planner = planner
        self._faces = faces
        self._logged_at = -math.inf
        self.request_final = upgrade

    async def plan(
        self,
        media: Media,
        request: VariantRequest,
        accept: str | None,
        *,
        on_wait: Callable[[], None] = lambda: None,
    ) -> RenderPlan:
        """Resolve a request to variants; read the facts of the source if they are unknown.

        Also its faces, if the crop depends on them. If the source cannot be read, plan with the
        best lesser file of the image. ``on_wait`` is called before a wait for a worker.

        Raises:
            SmartserveError: as `SourceFactsService.learn` does.
        """
        try:
            facts = media.known_facts
            if facts is None:
                on_wait()
                facts = await self._facts.learn(media)
        except SmartserveError as error:
            plans = self._planner.fallback_plans(media, request, accept)
            if not plans:
                raise
            self._log_fallback(media, error)
            return plans[0]
        finder = self._faces if facts.faces is None else None
        if finder is not None and wants_faces(request.box, facts, media.choices):
            on_wait()
            facts = await finder.complete_soon(media, facts)
        return self._planner.plan(media, facts, request, accept)

    async def stored(self, media_id: int) -> AbstractSet[str] | None:
        """Return the digests of the stored renditions of an image; None during a render of it."""
        if self._renderer.renders(media_id):
            return None
        return await self._store.digests(media_id)

    async def find(
        self, plan: RenderPlan, *, stored: AbstractSet[str] | None = None
    ) -> DeliveryResult | None:
        """Return the stored final, else the stored draft, else one of another recipe, else None.

        ``stored`` are the digests of the stored renditions, if they were looked up already.
        """
        # The final first: a draft is only sent while there is no final.
        stages = [plan.variant] if plan.draft is None else [plan.variant, plan.draft]
        if stored is not None:
            stages = [one for one in stages if one.digest in stored]
        found = await self._store.first(stages) if stages else None
        if found is None:
            return await self._of_another_recipe(plan, stored)
        variant, rendition = found
        origin = Origin.FALLBACK if plan.is_fallback else Origin(rendition.tier)
        fmt, draft = delivered_format(variant, rendition.head), variant is plan.draft
        body = rendition.body
        return DeliveryResult(variant, fmt, origin, body, rendition=rendition, draft=draft)

    async def _of_another_recipe(
        self, plan: RenderPlan, stored: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """Return a stored rendition that another recipe made, as a draft.

        Without it, every image would be a miss after a change of an encoder or of libvips.
        """
        if stored is None:
            stored = await self._store.digests(plan.media.id)
        for other in plan.other_recipes(stored) if stored else ():
            draft = other.stages[-1]
            rendition = await self._store.get(draft)
            if rendition is None:
                continue
            fmt = delivered_format(draft, rendition.head)
            if fmt in draft.formats:
                body, origin = rendition.body, Origin(rendition.tier)
                if not plan.is_fallback:
                    return DeliveryResult(
                        draft, fmt, origin, body, rendition=rendition, draft=True, plan=other
                    )
                # No final replaces it: the source, not its substitute, is to be rendered.
                return DeliveryResult(draft, fmt, Origin.FALLBACK, body, rendition=rendition)
            # The client may not accept the alternative of the other recipe.
            rendition.close()
        return None

    async def can_render(self, plan: RenderPlan) -> bool:
        """Return whether a render of the plan would be accepted now and find its source unchanged.

        False: a request may be answered with a substitute, or with an error.
        """
        return await self._renderer.can_render(plan)

    async def fetch(
        self,
        plan: RenderPlan,
        *,
        stored: AbstractSet[str] | None = None,
        absent: bool = False,
        on_wait: Callable[[bool], None] = lambda _: None,
    ) -> DeliveryResult:
        """Find the rendition, or render it; return a fallback if neither succeeds.

        ``stored`` is as for `find`, which is not called if its stages are known to be ``absent``.
        ``on_wait`` is called before the wait for a render, with whether the render is new; if it
        raises, that error is raised and nothing is rendered.

        Raises:
            SmartserveError: there is neither a rendition nor a fallback.
        """
        result = None if absent else await self.find(plan, stored=stored)
        if result is None:
            try:
                result = await self._render(plan, on_wait)
            # No fallback: the caller plans again, by the new facts of the source. Under overload it
            # would take time of a loop that is already late.
            except (SourceChanged, Overloaded):
                raise
            except SmartserveError as error:
                result = await self._fallback(plan, error, stored)
                if result is None:
                    raise
                self._log_fallback(plan.media, error)
        # Also for a stored draft: the queue of finals is not persistent, so hits fill it again.
        if result.draft:
            self.request_final(result.plan or plan)
        return result

    async def _render(
        self, plan: RenderPlan, on_wait: Callable[[bool], None] = lambda _: None
    ) -> DeliveryResult:
        """Start or join a render, and wait as `Renderer.render` does."""
        rendering, new = await self._renderer.render(plan, on_wait)
        origin = Origin.RENDER if new and not rendering.elsewhere else Origin.COALESCED
        if plan.is_fallback:
            origin = Origin.FALLBACK
        # A render that is sent early has only one format.
        body, variant = rendering.body, rendering.variant
        fmt, draft = delivered_format(variant, body or b""), variant is plan.draft
        return DeliveryResult(variant, fmt, origin, body, rendering=rendering, draft=draft)

    async def _fallback(
        self, plan: RenderPlan, error: SmartserveError, stored: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """Return a rendition of a lesser file of the image, else its nearest stored size."""
        # A lesser file helps if the source is at fault, not if no worker is free.
        if not isinstance(error, CapacityError):
            for other in self._planner.fallbacks_for(plan):
                # A lesser file may fail as well: then the next one is tried.
                with suppress(SmartserveError):
                    return await self.find(other) or await self._render(other)
        return await self._nearest(plan, stored) if isinstance(error, _FALLBACK_ERRORS) else None

    async def _nearest(
        self, plan: RenderPlan, stored: AbstractSet[str] | None
    ) -> DeliveryResult | None:
        """Return the stored size of the same image that is nearest to the requested one."""
        # It may be larger, or show what a crop leaves out: a signature covers one size only.
        if plan.request.signature is not None:
            return None
        # One look-up first: under overload most images have nothing stored, and rejecting a
        # request must cost less than serving it.
        if stored is None:
            stored = await self._store.digests(plan.media.id)
        for variant in self._planner.nearest_variants(plan, stored) if stored else ():
            rendition = await self._store.get(variant)
            if rendition is None:
                continue
            fmt, body = delivered_format(variant, rendition.head), rendition.body
            if fmt in variant.formats:
                return DeliveryResult(variant, fmt, Origin.FALLBACK, body, rendition=rendition)
            rendition.close()
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
