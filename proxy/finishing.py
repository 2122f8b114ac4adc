"""Finishing: final renditions of a picture, several from one decode, into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import SmartserveError
from proxy.jobs import JobFailure, Limits, Output, RenderResult, RenderSetJob
from proxy.planning import Plan
from proxy.renditions import RenditionStore
from proxy.variant import Variant
from proxy.workers.frames import Frames
from proxy.workers.pool import named
from proxy.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a plan: how its rendition was made and its bytes, or why there is none."""

    plan: Plan
    outcome: RenderResult | SmartserveError
    length: int


def output_of(variant: Variant) -> Output:
    """A variant as one output of a set."""
    return Output(
        geometry=variant.geometry,
        profile=variant.profile,
        remove_background=variant.background_removed,
        animated=variant.animated,
        search=variant.search,
        rival=variant.rival,
        base=variant.base,
    )


def _outcome(result: RenderResult | JobFailure) -> RenderResult | SmartserveError:
    return named(result) if isinstance(result, JobFailure) else result


class Finisher:
    """Makes the renditions of plans and keeps them, each as soon as it is whole."""

    def __init__(
        self,
        *,
        store: RenditionStore,
        workshop: Workshop,
        limits: Limits,
        copyright_notice: str | None,
    ) -> None:
        """The rooms it works with; it owns none of them."""
        self._store = store
        self._workshop = workshop
        self._limits = limits
        self._copyright = copyright_notice

    async def missing(self, plans: Sequence[Plan]) -> list[Plan]:
        """Those whose renditions are not in the store."""
        return [plan for plan in plans if not await self._store.contains(plan.variant)]

    async def finish(self, plans: Sequence[Plan]) -> list[Finished]:
        """Make the renditions of plans for one medium; what is whole is kept, whatever follows.

        Raises:
            SmartserveError: the source cannot be had or read at all, or the worker ended.
        """
        largest_first = sorted(plans, key=lambda plan: -plan.variant.pixels)
        outputs = tuple(output_of(plan.variant) for plan in largest_first)
        job = RenderSetJob(self._limits, outputs, self._copyright)
        lengths = [0] * len(outputs)
        kept: list[asyncio.Task[None]] = []

        def take(place: int, body: bytes) -> None:
            lengths[place] = len(body)
            if body:
                kept.append(asyncio.create_task(self._keep(largest_first[place].variant, body)))

        first = largest_first[0]
        try:
            done = await self._workshop.run(
                first.media, job, Frames(take), byte_size=first.facts.byte_size
            )
        finally:
            await asyncio.gather(*kept)
        made = zip(largest_first, done.result.results, lengths, strict=True)
        return [Finished(plan, _outcome(result), length) for plan, result, length in made]

    async def retire(self, plan: Plan) -> int:
        """Let go of the draft that a final has replaced; gives its bytes, 0 if there was none."""
        if plan.draft is None:
            return 0
        draft = await self._store.get(plan.draft)
        if draft is None:
            return 0
        draft.close()
        await self._store.drop(plan.draft)
        return draft.length

    async def _keep(self, variant: Variant, body: bytes) -> None:
        async with self._store.writer(variant) as writer:
            await writer.write(body)
