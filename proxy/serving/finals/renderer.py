"""Renders final renditions of an image, several from one decode, into the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.domain.errors import SmartserveError
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan
from proxy.domain.worker_protocol import (
    FrameDecoder,
    JobFailure,
    Limits,
    RenderResult,
    RenditionSet,
)
from proxy.serving.faces import FaceFinder
from proxy.serving.job_dispatch import JobDispatcher, output_of
from proxy.serving.render_lease import RenderLeases
from proxy.serving.renderer import pixels_of
from proxy.storage.renditions.rendition_file import WriteTicket
from proxy.storage.renditions.tiered_store import TieredStore

_MAX_OUTPUTS = 50
"""Renditions of one job. The message of such a job takes a third of the longest datagram."""


@dataclass(frozen=True, slots=True)
class FinalResult:
    """The outcome of one plan: how its rendition was made, or the error."""

    plan: RenderPlan
    outcome: RenderResult | SmartserveError
    length: int
    """Bytes of the rendition; 0 after an error."""


class FinalRenderer:
    """Renders plans and stores each rendition as soon as it is complete."""

    def __init__(
        self,
        *,
        store: TieredStore,
        dispatcher: JobDispatcher,
        limits: Limits,
        copyright_notice: str | None,
        deadline_s: float,
        faces: FaceFinder | None = None,
        leases: RenderLeases | None = None,
    ) -> None:
        """``deadline_s`` applies to each rendition; ``faces`` is None if none are detected.

        ``leases`` is None if no other process uses the store.
        """
        self._faces = faces
        self._leases = leases
        self._store = store
        self._dispatcher = dispatcher
        self._limits = limits
        self._copyright_notice = copyright_notice
        self._deadline_s = deadline_s

    async def with_faces(self, media: Media, facts: MediaFacts) -> MediaFacts:
        """Return the facts from which to plan all sizes: with the faces, if they can be found."""
        return facts if self._faces is None else await self._faces.complete(media, facts)

    async def stored(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of the stored renditions of a medium."""
        return await self._store.digests(media_id)

    async def missing(self, plans: Sequence[RenderPlan]) -> list[RenderPlan]:
        """Return the plans, all for one medium, whose renditions are not in the store."""
        stored = await self.stored(plans[0].media.id) if plans else frozenset()
        missing = [plan for plan in plans if plan.variant.digest not in stored]
        # Another server may have rendered them.
        recalled = await self._store.recall([plan.variant for plan in missing])
        return [plan for plan in missing if plan.variant.digest not in recalled]

    @asynccontextmanager
    async def claimed(self, plans: Sequence[RenderPlan]) -> AsyncIterator[list[RenderPlan]]:
        """Yield which of these plans are missing and not being rendered by another process.

        Others cannot claim them during the block.
        """
        missing = await self.missing(plans)
        if self._leases is None or not missing:
            yield missing
            return
        leases = await self._leases.claim([plan.variant for plan in missing])
        try:
            claimed = {one.key.variant.digest for one in leases}
            # Another process may have stored some before it released its leases.
            if any(one.stored for one in leases):
                missing = await self.missing(missing)
            yield [plan for plan in missing if plan.variant.digest in claimed]
        finally:
            for one in leases:
                self._leases.release(one)

    async def complete(self, plans: Sequence[RenderPlan]) -> int:
        """Render what is missing and drop the drafts it replaces; return how many were rendered.

        What another process is rendering is left to it.

        Raises:
            SmartserveError: as `finish`, or because a rendition failed; the others are stored.
        """
        async with self.claimed(plans) as missing:
            return await self._complete(missing)

    async def _complete(self, missing: Sequence[RenderPlan]) -> int:
        finished = await self.finish(missing)
        stored = await self.stored(missing[0].media.id) if missing else frozenset()
        for one in finished:
            if isinstance(one.outcome, SmartserveError):
                raise one.outcome
            await self.retire(one.plan, stored)
        return len(missing)

    async def finish(self, plans: Sequence[RenderPlan]) -> list[FinalResult]:
        """Render plans for one medium. Complete renditions stay stored if a later one fails.

        Raises:
            SmartserveError: the source cannot be read, or the worker ended.
        """
        largest_first = sorted(plans, key=lambda plan: -pixels_of(plan.variant))
        # All tickets are requested before the first job starts, so that a purge during the render
        # also discards the renditions that are not complete yet.
        tickets = [self._store.ticket(plan.variant) for plan in largest_first]
        finished: list[FinalResult] = []
        for start in range(0, len(largest_first), _MAX_OUTPUTS):
            part = slice(start, start + _MAX_OUTPUTS)
            finished += await self._finish_set(largest_first[part], tickets[part])
        return finished

    async def _finish_set(
        self, plans: Sequence[RenderPlan], tickets: Sequence[WriteTicket]
    ) -> list[FinalResult]:
        """Render plans from one decode."""
        outputs = tuple(output_of(plan.variant) for plan in plans)
        job = RenditionSet(self._limits, outputs, self._copyright_notice, framed=True)
        lengths = [0] * len(plans)
        writes: list[asyncio.Task[None]] = []

        def store(index: int, body: bytes) -> None:
            # The worker sends an empty frame for an output that failed; it is not stored.
            lengths[index] = len(body)
            writes.append(asyncio.create_task(self._store.put(tickets[index], body)))

        try:
            done = await self._dispatcher.run(
                plans[0].media,
                job,
                FrameDecoder(store, outputs=len(outputs)),
                facts=plans[0].facts,
                deadline_s=self._deadline_s,
            )
        finally:
            await asyncio.gather(*writes, return_exceptions=True)
        return [
            FinalResult(
                plan, result.to_error() if isinstance(result, JobFailure) else result, length
            )
            for plan, result, length in zip(plans, done.result.results, lengths, strict=True)
        ]

    async def retire(self, plan: RenderPlan, stored: AbstractSet[str]) -> int:
        """Drop the draft that a final has replaced; return its bytes, 0 if there was none.

        ``stored`` was listed after the final was rendered, once for all finals of a medium: each
        listing reads its directory.
        """
        # What another recipe made may be the final of a server that is not upgraded yet. Nobody
        # reads it after the upgrade, and it is evicted.
        if plan.draft is None or plan.draft.stored_as is not None:
            return 0
        # A store that cannot write drops renditions without an error: keep the draft then.
        if not {plan.draft.digest, plan.variant.digest} <= stored:
            return 0
        return await self._store.delete(plan.draft)
