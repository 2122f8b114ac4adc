"""Rendering: one variant of a picture, made by a worker into a stream."""

from __future__ import annotations

from typing import Protocol

from proxy.domain.errors import SourceChanged
from proxy.domain.formats import Format
from proxy.domain.media import Media
from proxy.domain.render_plan import RenderPlan, RenderRules
from proxy.domain.trace_context import current
from proxy.domain.variant import Variant
from proxy.domain.worker_protocol import JobFailure, RenderJob, RenderResult, RenderSetJob
from proxy.rendering.pool.frame_decoder import FrameDecoder
from proxy.runtime.byte_stream import ByteStream
from proxy.serving.encode_cost import EncodeCostModel
from proxy.serving.finals.renderer import output_of
from proxy.serving.job_dispatch import JobDispatcher, JobResult
from proxy.serving.source_facts import SourceFactsService


class RenderTelemetry(Protocol):
    """Takes note of how long things took, in seconds."""

    def stage(self, stage: str, seconds: float) -> None:
        """One stage of a request or a render: queue, decode, transform, encode, store."""

    def rendered(self, label: str, fmt: Format, seconds: float) -> None:
        """A whole render, from the worker's start to its answer."""

    def missed_target(self) -> None:
        """A final did not reach its target of perceived quality within its bounds."""


class RunningRender:
    """A render under way: its stream, and the seconds it waited for a worker once that is known."""

    def __init__(self) -> None:
        self.stream = ByteStream()
        self.queue_s: float | None = None
        self.trace = current.get()
        """Of the request that began it, where that is followed."""

    def admitted(self, queue_s: float) -> None:
        """Take note that a worker is free now."""
        self.queue_s = queue_s


class Renderer:
    """Has variants made, and learns from what they cost."""

    def __init__(
        self,
        *,
        workshop: JobDispatcher,
        inspector: SourceFactsService,
        telemetry: RenderTelemetry,
        costs: EncodeCostModel,
        rules: RenderRules,
    ) -> None:
        """The rooms it works with, none of which it owns."""
        self._workshop = workshop
        self._inspector = inspector
        self._telemetry = telemetry
        self._costs = costs
        self._rules = rules

    def check(self, media: Media) -> None:
        """Raise what `render` would at once: remembered of the picture, or as the queue is."""
        self._workshop.check(media)

    def estimate_s(self, variant: Variant) -> float | None:
        """What a variant will probably cost, in seconds of a processor; None while unknown."""
        return self._costs.estimate_s(variant)

    async def render(self, plan: RenderPlan, variant: Variant, rendering: RunningRender) -> None:
        """Have a worker make one of a plan's variants, and feed it to the stream.

        Raises:
            SmartserveError: it was not made; some bytes may have been fed.
        """
        work = self._alone if _stands_alone(variant) else self._as_set
        try:
            done = await work(plan, variant, rendering)
        except SourceChanged:
            await self._inspector.learn(plan.media)
            raise
        self._costs.learn(variant, done.result.cpu_s)
        self._note(plan, variant, done)

    async def _alone(
        self, plan: RenderPlan, variant: Variant, rendering: RunningRender
    ) -> JobResult[RenderResult]:
        job = RenderJob(
            limits=self._rules.limits,
            geometry=variant.geometry,
            profile=variant.profile,
            remove_background=variant.background_removed,
            animated=variant.animated,
            copyright=self._rules.copyright_notice,
        )
        return await self._workshop.run(
            plan.media,
            job,
            rendering.stream.feed,
            byte_size=plan.facts.byte_size,
            admitted=rendering.admitted,
        )

    async def _as_set(
        self, plan: RenderPlan, variant: Variant, rendering: RunningRender
    ) -> JobResult[RenderResult]:
        """What has a search, a rival or a base comes out of a set of one as out of any other."""
        rules = self._rules
        job = RenderSetJob(rules.limits, (output_of(variant),), rules.copyright_notice)

        def feed(_place: int, body: bytes) -> None:
            if body:
                rendering.stream.feed(body)

        done = await self._workshop.run(
            plan.media,
            job,
            FrameDecoder(feed),
            byte_size=plan.facts.byte_size,
            admitted=rendering.admitted,
        )
        (result,) = done.result.results
        if isinstance(result, JobFailure):
            raise TypeError  # the workshop has raised what it means
        return JobResult(result, done.queue_s, done.work_s)

    def _note(self, plan: RenderPlan, variant: Variant, done: JobResult[RenderResult]) -> None:
        self._telemetry.stage("queue", done.queue_s)
        for stage, seconds in done.result.stages.items():
            self._telemetry.stage(stage, seconds)
        self._telemetry.rendered(plan.request.label, variant.format, done.work_s)
        if done.result.target_missed:
            self._telemetry.missed_target()


def _stands_alone(variant: Variant) -> bool:
    return variant.search is None and variant.rival is None and variant.base is None
