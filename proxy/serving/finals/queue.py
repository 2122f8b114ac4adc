"""Finals queue: replaces drafts by finals in the background, in a worker at idle priority.

The queue is bounded and not persistent: later hits on drafts fill it again after a restart.
Renditions of another recipe wait in a second queue, are remade at a set pace, and only while the
first queue is empty: a change of the recipe concerns every image, and none of them is a draft.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from cachetools import LRUCache

from proxy.domain.errors import ConfigurationError, SmartserveError, SourceChanged
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.worker_protocol import RenderResult
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel
from proxy.serving.finals.renderer import FinalRenderer, FinalResult
from proxy.serving.renderer import EncodeCostModel
from proxy.settings import UpgradeSettings
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import STATE, background_span, current_context

if TYPE_CHECKING:
    from proxy.telemetry.tracing import SpanContext

_START_DELAY_S = 0.5
_MAX_COMPLETE = 10_000
"""Number of images that are remembered as complete, in all their sizes."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Request:
    plan: RenderPlan
    since: float
    times: int
    whole: bool = False
    """Render all sizes of the image, not only the requested one."""
    others: tuple[RenderPlan, ...] = ()
    """More plans for the same medium, rendered from one decode."""
    cause: SpanContext | None = None
    """Span of the request that the draft answered."""
    forgotten: bool = False
    """The medium was purged, or its row has changed, after this request left the queue."""


class UpgradeQueue:
    """Renders requested finals, the most requested first; runs while it is entered.

    Its worker is started with the first request.
    """

    def __init__(
        self,
        *,
        settings: UpgradeSettings,
        pool: AbstractAsyncContextManager[object],
        renderer: FinalRenderer,
        planner: RenderPlanner,
        costs: EncodeCostModel,
        telemetry: Metrics,
        learn: Callable[[int], Awaitable[object]],
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """``pool`` is entered and left here; ``renderer`` uses it.

        ``learn`` is called with the id of a medium whose source differs from its facts.
        """
        self._settings = settings
        self._pool = pool
        self._renderer = renderer
        self._planner = planner
        self._costs = costs
        self._telemetry = telemetry
        self._learn = learn
        self._clock = supervisor.clock
        self._supervisor = supervisor
        self._queue: dict[str, _Request] = {}
        self._remakes: dict[str, _Request] = {}
        """Finals that replace renditions of another recipe."""
        self._remake_at = 0.0
        """Earliest start of the next remake."""
        self._whole: LRUCache[int, str] = LRUCache(_MAX_COMPLETE)
        self._pending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._retry_s = 30.0
        self._delay_s = _START_DELAY_S
        self._running: _Request | None = None
        self._dropped = 0
        self._failed = 0

    async def __aenter__(self) -> Self:
        """Start the background task."""
        self._task = self._supervisor.start(BackgroundTask.FINALS_QUEUE, self._run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Call `stop`."""
        await self.stop()

    async def stop(self) -> None:
        """Drop the queue and cancel the running render; later requests are ignored."""
        self._stopped = True
        self._queue.clear()
        self._remakes.clear()
        if self._task is not None:
            await cancel(self._task)

    def forget(self, media_id: int) -> None:
        """Drop all requests for a medium that was purged or whose row has changed."""
        for queue in (self._queue, self._remakes):
            for key in [key for key, one in queue.items() if one.plan.media.id == media_id]:
                del queue[key]
        if self._running is not None and self._running.plan.media.id == media_id:
            self._running.forgotten = True
        self._whole.pop(media_id, None)

    def request(self, plan: RenderPlan) -> None:
        """Request the final of a plan; never waits, and is ignored if the queue is full."""
        if plan.draft is None or self._stopped:
            return
        if plan.draft.stored_as is not None:
            # 0 pauses all remakes.
            if self._settings.remakes_per_minute:
                self._add(plan.variant.digest, plan, whole=False, queue=self._remakes)
            return
        self._add(plan.variant.digest, plan, whole=False)
        version = plan.variant.version
        # Once per source: a changed image is rendered in all sizes again.
        if self._settings.all_sizes and self._whole.get(plan.media.id) != version:
            self._add(f"{plan.media.id}/{version}", plan, whole=True)

    def request_all(self, plans: Sequence[RenderPlan]) -> None:
        """Request the finals of plans for one medium, rendered from one decode.

        They are rendered after those that visitors have requested.
        """
        staged = [plan for plan in plans if plan.draft is not None]
        if staged and not self._stopped:
            key = f"{staged[0].media.id}/{staged[0].variant.version}/all"
            self._add(key, staged[0], whole=False, others=tuple(staged[1:]))

    def _add(
        self,
        key: str,
        plan: RenderPlan,
        *,
        whole: bool,
        others: tuple[RenderPlan, ...] = (),
        queue: dict[str, _Request] | None = None,
    ) -> None:
        queue = self._queue if queue is None else queue
        # Only a visitor's request counts: whole images and uploads come after all of these.
        by_visitor = not whole and not others
        known = queue.get(key)
        if known is not None:
            known.times += by_visitor
        elif len(queue) >= self._settings.max_backlog:
            # No error: the next hit on the draft requests its final again. The queue of remakes is
            # full after each change of the recipe, which is no fault.
            self._dropped += queue is self._queue
        else:
            cause = None if STATE.tracer is None else current_context()
            queue[key] = _Request(
                plan, self._clock(), by_visitor, whole=whole, others=others, cause=cause
            )
            # The visitor whose draft requested the first final is probably loading more images just
            # now. Their renders go before the start of the worker, 0.3 s of processor time.
            asyncio.get_running_loop().call_later(self._delay_s, self._pending.set)

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            # The worker process is started when there is work for it, and then kept.
            await self._pending.wait()
            await self._start(stack)
            self._delay_s = 0.0
            while True:
                await self._pending.wait()
                await self._next()

    async def _start(self, stack: AsyncExitStack) -> None:
        """Enter the pool; retry until its worker starts."""
        while True:
            try:
                await stack.enter_async_context(self._pool)
            except ConfigurationError as error:
                # Drafts are served meanwhile, and requests for finals stay in the queue.
                log.warning("finals_worker_not_started", cause=str(error), retry_s=self._retry_s)
                await asyncio.sleep(self._retry_s)
            else:
                return

    async def _next(self) -> None:
        """Process the most frequent request, or wait for one, or for the time of a remake."""
        request = self._take()
        if request is None:
            return
        self._running = request
        try:
            await self._process(request)
        except SmartserveError as error:
            self._failed += 1
            log.info("final_failed", media_id=request.plan.media.id, detail=error.detail)
            # All queued plans of the image have the old facts. Later hits request the new ones.
            if isinstance(error, SourceChanged):
                await self._relearn(request.plan.media.id)
        except Exception:
            # An error with one image must not stop the queue for all others.
            self._failed += 1
            log.exception("final_failed", media_id=request.plan.media.id)
        finally:
            self._running = None

    def _take(self) -> _Request | None:
        """Remove and return the most frequent request; of equals the oldest, as dicts are sorted.

        None: there is none that may start now. Then `_pending` is set later.
        """
        queue = self._queue or self._remakes
        if queue is self._remakes:
            wait_s = self._remake_at - self._clock()
            if not queue or wait_s > 0:
                self._pending.clear()
                if queue:
                    asyncio.get_running_loop().call_later(wait_s, self._pending.set)
                return None
            self._remake_at = self._clock() + 60 / self._settings.remakes_per_minute
        return queue.pop(max(queue, key=lambda key: queue[key].times))

    async def _relearn(self, media_id: int) -> None:
        self.forget(media_id)
        with suppress(SmartserveError):
            await self._learn(media_id)

    async def _process(self, request: _Request) -> None:
        plans = [request.plan, *request.others]
        media, facts = request.plan.media, request.plan.facts
        if request.whole:
            facts = await self._renderer.with_faces(media, facts)
            plans = self._planner.all_plans(media, facts)
        # A final may be stored already, or rendered just now: by another process, or with a request
        # for the whole image.
        async with self._renderer.claimed(plans) as missing:
            # Until the render begins a purge voids nothing: its tickets do not exist yet.
            if request.forgotten:
                return
            if missing:
                await self._render(missing, request)
        if request.whole and not request.forgotten:
            self._whole[media.id] = facts.content_hash

    async def _render(self, missing: Sequence[RenderPlan], request: _Request) -> None:
        began = self._clock()
        with self._span(request, len(missing)):
            finished = await self._renderer.finish(missing)
        seconds = (self._clock() - began) / len(finished)
        stored = await self._renderer.stored(request.plan.media.id)
        for one in finished:
            await self._replace(one, request, seconds, stored)

    def _span(self, request: _Request, finals: int) -> AbstractContextManager[object]:
        # As on the request path: without tracing nothing is called or built for it.
        if STATE.tracer is None:
            return nullcontext()
        attributes = {"smartserve.media.id": request.plan.media.id, "smartserve.finals": finals}
        return background_span("finals", attributes, cause=request.cause)

    async def _replace(
        self, finished: FinalResult, request: _Request, seconds: float, stored: AbstractSet[str]
    ) -> None:
        """Delete the draft, now that the final is stored."""
        plan, result = finished.plan, finished.outcome
        if not isinstance(result, RenderResult):
            # One output of the set failed. Its draft stays, and its next hit requests the final
            # again.
            self._failed += 1
            log.info("final_failed", media_id=plan.media.id, detail=result.detail)
            return
        self._costs.learn(plan.variant, result.cpu_s)
        if result.target_missed:
            self._telemetry.missed_target()
        draft_bytes = await self._renderer.retire(plan, stored)
        self._telemetry.upgraded(
            plan.variant.format,
            seconds=seconds,
            lag_s=self._clock() - request.since,
            saved=max(0, draft_bytes - finished.length),
        )

    def statistics(self) -> Mapping[str, float]:
        """Return the requests that wait or run, were dropped by a full queue, and failed."""
        return {
            "backlog": len(self._queue) + (self._running is not None),
            "remakes": len(self._remakes),
            "dropped": self._dropped,
            "failed": self._failed,
        }
