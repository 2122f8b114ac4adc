"""Renders variants, each once for all requests that wait for it, and stores them.

Also predicts what renders cost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from cachetools import LRUCache

from proxy.domain.errors import ShuttingDown, SmartserveError, SourceChanged, StorageError
from proxy.domain.render_plan import RenderPlan, RenderRules
from proxy.domain.variant import Variant, stage_text, streams
from proxy.domain.worker_protocol import JobFailure, RenditionSet
from proxy.runtime.supervised_task import cancel
from proxy.serving.job_dispatch import JobDispatcher, output_of
from proxy.serving.render_lease import RenderLeases
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.renditions.rendition_file import WriteTicket
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import STATE, current_context, record

_MAX_KINDS = 1000
_WEIGHT = 0.3
"""Weight of the latest measurement: after six more, an old one counts for a tenth."""
_STREAMED_PIXELS = 640 * 640

_Kind = tuple[str, str, int]


class EncodeCostModel:
    """Predicts processor time per pixel from earlier renders, by encoding and octave of the size.

    The octave matters because opening and shrinking the source costs a small image the same as a
    large one.
    """

    def __init__(self) -> None:
        self._per_pixel: LRUCache[_Kind, float] = LRUCache(_MAX_KINDS)

    def learn(self, variant: Variant, cpu_s: float) -> None:
        """Record the processor time of a rendition."""
        kind, latest = _kind(variant), cpu_s / pixels_of(variant)
        before = self._per_pixel.get(kind, latest)
        self._per_pixel[kind] = before + _WEIGHT * (latest - before)

    def estimate_s(self, variant: Variant) -> float | None:
        """Return the predicted processor time in seconds; None without an earlier render."""
        per_pixel = self._per_pixel.get(_kind(variant))
        return None if per_pixel is None else per_pixel * pixels_of(variant)


def pixels_of(variant: Variant) -> int:
    """Return the pixels of one page."""
    return variant.geometry.width * variant.geometry.height


def _kind(variant: Variant) -> _Kind:
    other = variant.alternative
    alternative = "" if other is None else stage_text(other.profile, other.search)
    return stage_text(variant.profile, variant.search), alternative, pixels_of(variant).bit_length()


def sends_early(variant: Variant) -> bool:
    """Return whether a render is sent while it is being encoded.

    Only baseline JPEG is encoded from the first byte on. A small one is complete before a client
    could read its first part, and is better sent with a Content-Length. Of two competing formats
    no byte is sent before both are encoded.
    """
    large = pixels_of(variant) >= _STREAMED_PIXELS
    return large and variant.alternative is None and streams(variant.profile)


class RunningRender:
    """A render in progress, whose bytes go to all requests that wait for it.

    `Renderer` feeds and ends it. Requests may start to read at any time, even after the end, and
    get all bytes from the beginning. They do not affect each other.
    """

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.early = sends_early(variant)
        self.body: bytes | None = None
        """All bytes, once it has ended without an error."""
        self.queue_s: float | None = None
        """Seconds in the queue; None until a worker has started."""
        self.elsewhere = False
        """Whether another process has rendered it, and this one read its result."""
        self.span = None if STATE.tracer is None else current_context()
        """The span of the request that started the render, if that is traced."""
        self._chunks: list[bytes] = []
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()

    def on_start(self, queue_s: float) -> None:
        """Record that a worker has started."""
        self.queue_s = queue_s

    def feed(self, chunk: bytes) -> None:
        """Append bytes and wake all readers."""
        self._chunks.append(chunk)
        self._wake()

    def finish(self) -> bytes:
        """End the stream, all bytes being fed, and return them."""
        self.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._finished.set()
        self._wake()
        return self.body

    def fail(self, error: Exception) -> None:
        """End the stream: readers get the bytes so far, then ``error`` is raised."""
        self._error = error
        self._finished.set()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        # An event that stays set would end the next wait at once.
        self._changed = asyncio.Event()

    async def started(self) -> None:
        """Wait for the first byte. If the stream fails before it, raise that error."""
        while not self._chunks and not self._finished.is_set():
            await self._changed.wait()
        if not self._chunks and self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes from the beginning as they arrive; raise the error of the stream."""
        position = 0
        while True:
            while position < len(self._chunks):
                yield self._chunks[position]
                position += 1
            if self._finished.is_set():
                break
            # No await lies between the check above and this one, so no chunk is missed.
            await self._changed.wait()
        if self._error is not None:
            raise self._error

    async def whole(self) -> bytes:
        """Wait for the end and return all bytes, the same object for all callers."""
        # An event of its own: readers of the whole are not woken by each chunk.
        await self._finished.wait()
        if self.body is None:
            raise self._error or AssertionError
        return self.body


class Renderer:
    """Renders and stores variants; requests for the same variant share one render."""

    def __init__(
        self,
        *,
        store: TieredStore,
        dispatcher: JobDispatcher,
        facts: SourceFactsService,
        telemetry: Metrics,
        costs: EncodeCostModel,
        rules: RenderRules,
        budget_s: float,
        leases: RenderLeases | None = None,
    ) -> None:
        """If a final is predicted to take at most ``budget_s``, its draft is not rendered.

        ``budget_s`` is processor time. ``leases`` is None if no other process uses the store. All
        collaborators are owned by the caller.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._facts = facts
        self._telemetry = telemetry
        self._costs = costs
        self._rules = rules
        self._budget_s = budget_s
        self._leases = leases
        self._running: dict[str, RunningRender] = {}
        """Renders that requests may join, by digest."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._joined = 0

    def renders(self, media_id: int) -> bool:
        """Return whether a rendition of the image is being rendered."""
        return any(one.variant.media_id == media_id for one in self._running.values())

    async def can_render(self, plan: RenderPlan) -> bool:
        """Return whether a render would be accepted now; no worker is needed to find out."""
        return await self._dispatcher.available(plan.media, byte_size=plan.facts.byte_size)

    async def render(
        self, plan: RenderPlan, on_wait: Callable[[bool], None] = lambda _: None
    ) -> tuple[RunningRender, bool]:
        """Start the render of a plan, or join it; return it and whether it was started here.

        Return a render that `sends_early` with its first byte, all others with the last. Before the
        wait, ``on_wait`` is called with whether the render is new; it may raise.

        Raises:
            SmartserveError: the render failed, or the queue or the failure cache rejects it.
        """
        variant = self._first(plan)
        rendering = self._running.get(variant.digest)
        new = rendering is None
        on_wait(new)
        if rendering is None:
            # Nothing is started that would be rejected at once: a task costs more than this check.
            self._dispatcher.check(plan.media)
            rendering = self._start(plan, variant)
        else:
            self._joined += 1
        began = time.perf_counter()
        if rendering.early:
            await rendering.started()
        else:
            # The encoder writes everything at its end, so one wait replaces two.
            await rendering.whole()
        if not new:
            record("coalesced", began, links=[rendering.span])
        return rendering, new

    def _first(self, plan: RenderPlan) -> Variant:
        """Return the final if it is predicted to be quick, else the draft."""
        if plan.draft is None:
            return plan.variant
        estimate_s = self._costs.estimate_s(plan.variant)
        quick = estimate_s is not None and estimate_s <= self._budget_s
        return plan.variant if quick else plan.draft

    def _start(self, plan: RenderPlan, variant: Variant) -> RunningRender:
        rendering = self._running[variant.digest] = RunningRender(variant)
        # A task of its own: a request that leaves, even the first one, does not end the render.
        task = asyncio.create_task(self._run(plan, rendering))
        # asyncio itself keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._release(rendering))
        return rendering

    def _release(self, rendering: RunningRender) -> None:
        """Make the next request start a new render, although this one may not have ended yet."""
        # After an earlier release the digest may belong to a newer render.
        if self._running.get(rendering.variant.digest) is rendering:
            del self._running[rendering.variant.digest]

    async def _run(self, plan: RenderPlan, rendering: RunningRender) -> None:
        """Render, then store; end when stored, so the next request finds it."""
        try:
            # Requested before the render: a purge meanwhile also discards what is being rendered.
            ticket = self._store.ticket(rendering.variant)
            if self._leases is None:
                await self._render_here(plan, rendering, ticket)
            else:
                await self._render_once(plan, rendering, ticket, self._leases)
        except SmartserveError as error:
            # The requests that wait get the error; nothing awaits this task, so it is not raised
            # here.
            self._fail(rendering, error)
        except BaseException:
            # A cancellation. Without an end of the stream, the requests would wait for ever.
            self._fail(rendering, ShuttingDown("the server is stopping", retry_after_s=1))
            raise

    async def _render_here(
        self, plan: RenderPlan, rendering: RunningRender, ticket: WriteTicket
    ) -> bytes | None:
        """Render and store; return the rendition, or None if it was purged meanwhile."""
        await self._encode(plan, rendering)
        # The requests get the bytes now, and do not wait for the disk.
        body = rendering.finish()
        finished, purged = time.perf_counter(), ticket.void
        await self._store.put(ticket, body)
        self._telemetry.stage("store", time.perf_counter() - finished)
        return None if purged else body

    async def _render_once(
        self,
        plan: RenderPlan,
        rendering: RunningRender,
        ticket: WriteTicket,
        leases: RenderLeases,
    ) -> None:
        """Render unless another process does; then read what it has stored."""
        began = time.perf_counter()
        lease = await leases.acquire(rendering.variant, lambda: rendering.queue_s is not None)
        record("lease", began)
        passed_on: bytes | None = None
        try:
            body = lease.body
            if lease.stored:
                body = await self._read(rendering.variant)
            # It may have been evicted or purged meanwhile.
            if body is None:
                passed_on = await self._render_here(plan, rendering, ticket)
                return
            rendering.elsewhere = True
            rendering.feed(body)
            rendering.finish()
            if lease.body is not None:
                # What was passed on may be on another machine's disk only.
                await self._store.put(ticket, body)
        finally:
            # Not before it is stored: the others read it from there.
            leases.release(lease, passed_on)

    async def _read(self, variant: Variant) -> bytes | None:
        """Return a stored rendition as a whole, or None."""
        rendition = await self._store.get(variant)
        if rendition is None or rendition.body is not None:
            return None if rendition is None else rendition.body
        try:
            # All of it before the first reader gets a byte: if it fails, it is rendered.
            return b"".join([piece async for piece in rendition.chunks(0, rendition.length)])
        except StorageError:
            return None
        finally:
            rendition.close()

    def _fail(self, rendering: RunningRender, error: SmartserveError) -> None:
        """End a render for all waiting requests; first let later ones start a new render."""
        self._release(rendering)
        # A render that is complete was cancelled while it was stored: its bytes are good.
        if rendering.body is None:
            rendering.fail(error)

    async def _encode(self, plan: RenderPlan, rendering: RunningRender) -> None:
        """Have a worker encode the variant into the stream, and record what it took."""
        rules, variant = self._rules, rendering.variant
        job = RenditionSet(rules.limits, (output_of(variant),), rules.copyright_notice)
        try:
            done = await self._dispatcher.run_checked(
                plan.media,
                job,
                rendering.feed,
                facts=plan.facts,
                on_start=rendering.on_start,
            )
        except SourceChanged:
            # Save the new facts now: the next request then resolves to the changed image.
            await self._facts.learn(plan.media)
            raise
        (result,) = done.result.results
        if isinstance(result, JobFailure):
            # A set reports failures by output, so the job itself succeeded.
            raise result.to_error()
        self._telemetry.stage("queue", done.queue_s)
        for stage, seconds in result.stages.items():
            self._telemetry.stage(stage, seconds)
        self._telemetry.rendered(plan.request.box.name, variant.profile.format, done.work_s)
        if result.target_missed:
            self._telemetry.missed_target()
        # Processor time, because the duration of a render also depends on the load.
        self._costs.learn(variant, result.cpu_s)

    async def drain(self) -> None:
        """Return when all renders under way have ended and are stored."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Cancel all renders under way and wait for their end."""
        # A task cancelled before its first step never runs, and its requests would wait for ever.
        await asyncio.sleep(0)
        await cancel(*self._tasks)

    def statistics(self) -> Mapping[str, float]:
        """Return the renders under way, and the requests that joined one since the start."""
        return {"under_way": len(self._running), "joined": self._joined}
