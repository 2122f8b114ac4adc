"""Finishing: final renditions of a picture, several from one decode, into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.domain.errors import SmartserveError
from proxy.domain.render_plan import RenderPlan
from proxy.domain.variant import Variant
from proxy.domain.worker_protocol import (
    JobFailure,
    Limits,
    RenderOutput,
    RenderResult,
    RenderSetJob,
)
from proxy.rendering.pool.failure_errors import error_of
from proxy.rendering.pool.frame_decoder import FrameDecoder
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.renditions import RenditionStore

_SET = 50
"""Renditions made from one decode: an order of so many is a third of the longest datagram."""


@dataclass(frozen=True, slots=True)
class FinalResult:
    """What became of a plan: how its rendition was made and its bytes, or why there is none."""

    plan: RenderPlan
    outcome: RenderResult | SmartserveError
    length: int


def output_of(variant: Variant) -> RenderOutput:
    """A variant as one output of a set."""
    return RenderOutput(
        geometry=variant.geometry,
        profile=variant.profile,
        remove_background=variant.background_removed,
        animated=variant.animated,
        search=variant.search,
        rival=variant.rival,
        base=variant.base,
    )


def _outcome(result: RenderResult | JobFailure) -> RenderResult | SmartserveError:
    return error_of(result) if isinstance(result, JobFailure) else result


class _NotMade(Exception):
    """A rendition did not come, and nothing is to be kept."""


class FinalRenderer:
    """Makes the renditions of plans and keeps them, each as soon as it is whole."""

    def __init__(
        self,
        *,
        store: RenditionStore,
        workshop: JobDispatcher,
        limits: Limits,
        copyright_notice: str | None,
        deadline_s: float,
    ) -> None:
        """The rooms it works with, none of which it owns; each rendition has ``deadline_s``."""
        self._deadline_s = deadline_s
        self._store = store
        self._workshop = workshop
        self._limits = limits
        self._copyright = copyright_notice

    async def missing(self, plans: Sequence[RenderPlan]) -> list[RenderPlan]:
        """Those whose renditions are not in the store."""
        return [plan for plan in plans if not await self._store.contains(plan.variant)]

    async def complete(self, plans: Sequence[RenderPlan]) -> int:
        """Make what is missing, drafts that it replaces are let go of; gives how many were made.

        Raises:
            SmartserveError: as `finish` does, or the first rendition that could not be made did;
                what is done stays.
        """
        missing = await self.missing(plans)
        for one in await self.finish(missing) if missing else []:
            if isinstance(one.outcome, SmartserveError):
                raise one.outcome
            await self.retire(one.plan)
        return len(missing)

    async def finish(self, plans: Sequence[RenderPlan]) -> list[FinalResult]:
        """Make the renditions of plans for one medium; what is whole is kept, whatever follows.

        Raises:
            SmartserveError: the source cannot be had or read at all, or the worker ended.
        """
        largest_first = sorted(plans, key=lambda plan: -plan.variant.pixels)
        finished: list[FinalResult] = []
        for start in range(0, len(largest_first), _SET):
            finished += await self._finish_set(largest_first[start : start + _SET])
        return finished

    async def _finish_set(self, plans: Sequence[RenderPlan]) -> list[FinalResult]:
        """One decode; the store knows of each rendition from now on, so that a purge reaches it."""
        bodies: list[asyncio.Future[bytes]] = [asyncio.Future() for _ in plans]
        kept = [
            asyncio.create_task(self._keep(plan.variant, body))
            for plan, body in zip(plans, bodies, strict=True)
        ]
        try:
            results = await self._make(plans, lambda place, body: bodies[place].set_result(body))
        finally:
            for body in bodies:
                body.cancel()
            await asyncio.gather(*kept, return_exceptions=True)
        made = zip(plans, results, bodies, strict=True)
        return [FinalResult(plan, _outcome(one), len(body.result())) for plan, one, body in made]

    async def _make(
        self, plans: Sequence[RenderPlan], take: Callable[[int, bytes], None]
    ) -> tuple[RenderResult | JobFailure, ...]:
        outputs = tuple(output_of(plan.variant) for plan in plans)
        job = RenderSetJob(self._limits, outputs, self._copyright)
        first = plans[0]
        done = await self._workshop.run(
            first.media,
            job,
            FrameDecoder(take),
            byte_size=first.facts.byte_size,
            deadline_s=self._deadline_s,
        )
        return done.result.results

    async def retire(self, plan: RenderPlan) -> int:
        """Let go of the draft that a final has replaced; gives its bytes, 0 if there was none."""
        if plan.draft is None or not await self._store.contains(plan.draft):
            return 0
        # A store that fails keeps nothing, and says so to nobody.
        if not await self._store.contains(plan.variant):
            return 0
        draft = await self._store.get(plan.draft)
        if draft is None:
            return 0
        draft.close()
        await self._store.drop(plan.draft)
        return draft.length

    async def _keep(self, variant: Variant, body: asyncio.Future[bytes]) -> None:
        """Wait for a rendition and keep it; one that does not come, or is empty, is not kept."""
        async with self._store.writer(variant) as writer:
            made = await body
            if not made:
                raise _NotMade
            await writer.write(made)
