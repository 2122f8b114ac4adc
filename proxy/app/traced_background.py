"""Background work: finals, and the steps of an upload, each a trace of its own.

It is linked to what caused it, where that was followed: the request that got the draft, and of an
upload the step before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cachetools import LRUCache

from proxy.domain.ingest_item import LeasedItem
from proxy.domain.pending_image import Step
from proxy.domain.render_plan import RenderPlan
from proxy.domain.trace_context import Attributes, SpanContext, Trace, Tracer, current
from proxy.ingest.step_retry import StepFunction
from proxy.serving.finals.queue import FinalsRenderer
from proxy.serving.finals.renderer import FinalResult
from proxy.telemetry.tracing import error_name, followed

_REMEMBERED = 1000
"""Causes that are kept in mind; what comes of older ones is followed without a link."""


class _Causes:
    """What a piece of work comes from, by what it is about."""

    def __init__(self) -> None:
        self._by_id: LRUCache[int, SpanContext] = LRUCache(_REMEMBERED)

    def note(self, number: int, cause: SpanContext) -> None:
        self._by_id[number] = cause

    def take(self, number: int) -> Sequence[SpanContext]:
        cause = self._by_id.pop(number, None)
        return () if cause is None else (cause,)


class TracedFinals:
    """`FinalsRenderer` that are followed, each set with what a worker did for it."""

    def __init__(self, tracer: Tracer, finals: FinalsRenderer) -> None:
        self._tracer = tracer
        self._finals = finals
        self._causes = _Causes()

    def noting(self, ask: Callable[[RenderPlan], None]) -> Callable[[RenderPlan], None]:
        """``ask`` for a final, keeping in mind which request it was that did."""

        def noted(plan: RenderPlan) -> None:
            if (trace := current.get()) is not None:
                self._causes.note(plan.media.id, trace.context)
            ask(plan)

        return noted

    async def missing(self, plans: Sequence[RenderPlan]) -> list[RenderPlan]:
        """Those whose finals are not there."""
        return await self._finals.missing(plans)

    async def retire(self, plan: RenderPlan) -> int:
        """Let go of the draft that a final has replaced; gives its bytes."""
        return await self._finals.retire(plan)

    async def finish(self, plans: Sequence[RenderPlan]) -> list[FinalResult]:
        """Make the finals of plans for one medium."""
        media_id = plans[0].media.id
        trace = self._tracer.begin(links=self._causes.take(media_id))
        if trace is None:
            return await self._finals.finish(plans)
        told = {"smartserve.media.id": media_id, "smartserve.finals": len(plans)}
        with _all_of(trace, "finals", told):
            return await self._finals.finish(plans)


class TracedSteps:
    """The steps of uploads, of which each attempt is followed."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._causes = _Causes()

    def __call__(self, step: Step, work: StepFunction) -> StepFunction:
        """A step that is followed."""

        async def attempt(item: LeasedItem) -> None:
            trace = self._tracer.begin(links=self._causes.take(item.upload.id))
            if trace is None:
                await work(item)
                return
            self._causes.note(item.upload.id, trace.context)
            with _all_of(trace, f"ingest {step}", _told(item)):
                await work(item)

        return attempt


def _told(item: LeasedItem) -> Attributes:
    return {
        "smartserve.upload.id": item.upload.id,
        "smartserve.upload.type": item.upload.data_type,
        "smartserve.media.id": item.lease.media_id,
    }


@contextmanager
def _all_of(trace: Trace, name: str, told: Attributes) -> Iterator[None]:
    """The block is all that there is of a trace."""
    error = None
    try:
        with followed(trace):
            yield
    except BaseException as raised:
        error = error_name(raised)
        raise
    finally:
        trace.end(name, told, error=error)
