"""Upgrading: finals in place of drafts, made in the background when nobody waits.

The queue is a memory of what was asked for and nothing else: it is bounded, dropped when the
server stops, and filled again by the next hits on drafts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import structlog
from cachetools import LRUCache

from proxy.domain.errors import ConfigurationError, SmartserveError, SourceChanged
from proxy.domain.formats import Format
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.worker_protocol import RenderResult
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel
from proxy.serving.finals.renderer import FinalResult
from proxy.serving.renderer import EncodeCostModel
from proxy.settings import UpgradeSettings
from proxy.telemetry.tracing import background_span, current_context

if TYPE_CHECKING:
    from proxy.telemetry.tracing import SpanContext

_REMEMBERED = 10_000
"""Pictures of which it is known that all sizes are made."""

log = structlog.get_logger(__name__)


class UpgradeTelemetry(Protocol):
    """Takes note of upgrades."""

    def upgraded(self, fmt: Format, *, seconds: float, lag_s: float, saved: int) -> None:
        """A final has replaced a draft: how long it took, how late it came, what it saved."""

    def missed_target(self) -> None:
        """A final did not reach its target of perceived quality within its bounds."""


class FinalsRenderer(Protocol):
    """Makes finals; `proxy.serving.finals.renderer.FinalRenderer` does."""

    async def missing(self, plans: Sequence[RenderPlan]) -> list[RenderPlan]:
        """Those whose finals are not there."""

    async def finish(self, plans: Sequence[RenderPlan]) -> list[FinalResult]:
        """Make the finals of plans for one medium."""

    async def retire(self, plan: RenderPlan) -> int:
        """Let go of the draft that a final has replaced; gives its bytes."""


@dataclass(slots=True)
class _Wanted:
    plan: RenderPlan
    since: float
    times: int
    whole: bool = False
    """All sizes of the picture, and not only what was asked for."""
    others: tuple[RenderPlan, ...] = ()
    """More of the same picture that was wished for with it."""
    cause: SpanContext | None = None
    """The span of the request that got the draft."""


class UpgradeQueue:
    """Takes wishes for finals, the most frequent first, to a worker at idle priority.

    ``async with`` runs it; its worker is started when there is something to do.
    """

    def __init__(
        self,
        *,
        settings: UpgradeSettings,
        pool: AbstractAsyncContextManager[object],
        finisher: FinalsRenderer,
        planner: RenderPlanner,
        costs: EncodeCostModel,
        telemetry: UpgradeTelemetry,
        learn: Callable[[int], Awaitable[object]],
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """``pool`` is its own: entered and left here, and ``finisher`` works with it.

        ``learn`` is called with a medium whose source is another than its facts say.
        """
        self._settings = settings
        self._pool = pool
        self._finisher = finisher
        self._planner = planner
        self._costs = costs
        self._telemetry = telemetry
        self._learn = learn
        self._clock = supervisor.clock
        self._supervisor = supervisor
        self._queue: dict[str, _Wanted] = {}
        self._whole: LRUCache[int, str] = LRUCache(_REMEMBERED)
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._retry_s = 30.0
        self._at_work = 0
        self._dropped = 0
        self._failed = 0

    async def __aenter__(self) -> Self:
        """Begin to work off the queue."""
        self._task = self._supervisor.start(BackgroundTask.FINALS_QUEUE, self._run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As `stop`."""
        await self.stop()

    async def stop(self) -> None:
        """Drop the queue and kill what runs; no wish is taken any more."""
        self._stopped = True
        self._queue.clear()
        if self._task is not None:
            await cancel(self._task)

    def forget(self, media_id: int) -> None:
        """Drop all wishes for a medium: it was purged, or is another picture now."""
        for key in [key for key, one in self._queue.items() if one.plan.media.id == media_id]:
            del self._queue[key]
        self._whole.pop(media_id, None)

    def ask(self, plan: RenderPlan) -> None:
        """Wish for the final of a plan; at once, and forgotten where the queue is full."""
        if plan.draft is None or self._stopped:
            return
        self._want(plan.variant.digest, plan, whole=False)
        version = plan.variant.version
        if self._settings.all_sizes and self._whole.get(plan.media.id) != version:
            self._want(f"{plan.media.id}/{version}", plan, whole=True)

    def ask_all(self, plans: Sequence[RenderPlan]) -> None:
        """Wish for the finals of plans for one medium, from one decode; as `ask` otherwise.

        Nobody waits for these: what a visitor has asked for goes before them.
        """
        staged = [plan for plan in plans if plan.draft is not None]
        if staged and not self._stopped:
            key = f"{staged[0].media.id}/{staged[0].variant.version}/all"
            self._want(key, staged[0], whole=False, others=tuple(staged[1:]))

    def _want(
        self, key: str, plan: RenderPlan, *, whole: bool, others: tuple[RenderPlan, ...] = ()
    ) -> None:
        asked = not whole and not others
        wanted = self._queue.get(key)
        if wanted is not None:
            wanted.times += asked
        elif len(self._queue) >= self._settings.max_backlog:
            self._dropped += 1
        else:
            self._queue[key] = _Wanted(
                plan, self._clock(), asked, whole=whole, others=others, cause=current_context()
            )
            self._asked.set()

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            await self._asked.wait()
            await self._start(stack)
            while True:
                await self._asked.wait()
                await self._next()

    async def _start(self, stack: AsyncExitStack) -> None:
        """Enter the pool, however often that takes."""
        while True:
            try:
                await stack.enter_async_context(self._pool)
            except ConfigurationError as error:
                log.warning("upgrades_cannot_start", cause=str(error), retry_s=self._retry_s)
                await asyncio.sleep(self._retry_s)
            else:
                return

    async def _next(self) -> None:
        """Do what was asked for most often; of equals what has waited longest."""
        if not self._queue:
            self._asked.clear()
            return
        key = max(self._queue, key=lambda key: self._queue[key].times)
        wanted = self._queue.pop(key)
        self._at_work = 1
        try:
            await self._upgrade(wanted)
        except SmartserveError as error:
            self._failed += 1
            log.info("upgrade_failed", media_id=wanted.plan.media.id, detail=error.detail)
            if isinstance(error, SourceChanged):
                await self._relearn(wanted.plan.media.id)
        except Exception:
            # One picture's trouble, whatever it is, must not end the work for all others.
            self._failed += 1
            log.exception("upgrade_failed", media_id=wanted.plan.media.id)
        finally:
            self._at_work = 0

    async def _relearn(self, media_id: int) -> None:
        self.forget(media_id)
        with suppress(SmartserveError):
            await self._learn(media_id)

    async def _upgrade(self, wanted: _Wanted) -> None:
        plans = [wanted.plan, *wanted.others]
        media, facts = wanted.plan.media, wanted.plan.facts
        if wanted.whole:
            plans = self._planner.all_plans(media, facts)
        missing = await self._finisher.missing(plans)
        if missing:
            await self._make(missing, wanted)
        if wanted.whole:
            self._whole[media.id] = facts.content_hash

    async def _make(self, missing: Sequence[RenderPlan], wanted: _Wanted) -> None:
        began = self._clock()
        attributes = {
            "smartserve.media.id": wanted.plan.media.id,
            "smartserve.finals": len(missing),
        }
        with background_span("finals", attributes, cause=wanted.cause):
            finished = await self._finisher.finish(missing)
        seconds = (self._clock() - began) / len(finished)
        for one in finished:
            await self._replace(one, wanted, seconds)

    async def _replace(self, finished: FinalResult, wanted: _Wanted, seconds: float) -> None:
        """Let go of the draft, now that the final is there."""
        plan, result = finished.plan, finished.outcome
        if not isinstance(result, RenderResult):
            self._failed += 1
            log.info("upgrade_failed", media_id=plan.media.id, detail=result.detail)
            return
        self._costs.learn(plan.variant, result.cpu_s)
        if result.target_missed:
            self._telemetry.missed_target()
        draft_bytes = await self._finisher.retire(plan)
        self._telemetry.upgraded(
            plan.variant.format,
            seconds=seconds,
            lag_s=self._clock() - wanted.since,
            saved=max(0, draft_bytes - finished.length),
        )

    def statistics(self) -> Mapping[str, float]:
        """Wishes waiting or at work, those dropped for want of room, and those that failed."""
        return {
            "backlog": len(self._queue) + self._at_work,
            "dropped": self._dropped,
            "failed": self._failed,
        }
