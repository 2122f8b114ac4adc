"""Renders one variant of an image into a byte stream, and predicts what renders cost."""

from __future__ import annotations

from typing import Protocol

from cachetools import LRUCache

from proxy.domain.errors import SourceChanged
from proxy.domain.formats import Format
from proxy.domain.media import Media
from proxy.domain.render_plan import RenderPlan, RenderRules
from proxy.domain.variant import Variant, stage_text
from proxy.domain.worker_protocol import JobFailure, RenditionSet
from proxy.runtime.byte_stream import ByteStream
from proxy.serving.job_dispatch import JobDispatcher, output_of
from proxy.serving.source_facts import SourceFactsService
from proxy.telemetry.tracing import STATE, current_context

_MAX_KINDS = 1000
_WEIGHT = 0.3
"""Weight of the latest measurement: after six more, an old one counts for a tenth."""

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
        kind, latest = _kind(variant), cpu_s / variant.pixels
        before = self._per_pixel.get(kind, latest)
        self._per_pixel[kind] = before + _WEIGHT * (latest - before)

    def estimate_s(self, variant: Variant) -> float | None:
        """Return the predicted processor time in seconds; None without an earlier render."""
        per_pixel = self._per_pixel.get(_kind(variant))
        return None if per_pixel is None else per_pixel * variant.pixels


def _kind(variant: Variant) -> _Kind:
    other = variant.alternative
    alternative = "" if other is None else stage_text(other.profile, other.search)
    return stage_text(variant.profile, variant.search), alternative, variant.pixels.bit_length()


class RenderTelemetry(Protocol):
    """Records durations in seconds."""

    def stage(self, stage: str, seconds: float) -> None:
        """Record one stage of a render: queue, decode, transform, encode or store."""

    def rendered(self, label: str, fmt: Format, seconds: float) -> None:
        """Record a render, from its start in a worker to the reply."""

    def missed_target(self) -> None:
        """Count a final that did not reach its target quality within the bounds of the search."""


class RunningRender:
    """A render in progress, shared by all requests that wait for it."""

    def __init__(self) -> None:
        self.stream = ByteStream()
        self.queue_s: float | None = None
        """Seconds in the queue; None until a worker has started."""
        self.span = None if STATE.tracer is None else current_context()
        """The span of the request that started the render, if that is traced."""

    def admitted(self, queue_s: float) -> None:
        """Record that a worker has started."""
        self.queue_s = queue_s


class Renderer:
    """Renders variants and updates the cost model."""

    def __init__(
        self,
        *,
        dispatcher: JobDispatcher,
        facts: SourceFactsService,
        telemetry: RenderTelemetry,
        costs: EncodeCostModel,
        rules: RenderRules,
    ) -> None:
        """All collaborators are owned by the caller."""
        self._dispatcher = dispatcher
        self._facts = facts
        self._telemetry = telemetry
        self._costs = costs
        self._rules = rules

    def check(self, media: Media) -> None:
        """Raise what `render` would raise at once: a remembered failure or a full queue."""
        self._dispatcher.check(media)

    def estimate_s(self, variant: Variant) -> float | None:
        """Return the predicted cost in seconds of processor time, or None if unknown."""
        return self._costs.estimate_s(variant)

    async def render(self, plan: RenderPlan, variant: Variant, rendering: RunningRender) -> None:
        """Render one of a plan's variants into the stream of ``rendering``.

        Raises:
            SmartserveError: the render failed; the stream may have received some bytes.
        """
        rules = self._rules
        job = RenditionSet(rules.limits, (output_of(variant),), rules.copyright_notice)
        try:
            done = await self._dispatcher.run(
                plan.media,
                job,
                rendering.stream.feed,
                byte_size=plan.facts.byte_size,
                admitted=rendering.admitted,
            )
        except SourceChanged:
            # Save the new facts now: the next request then resolves to the changed image.
            await self._facts.learn(plan.media)
            raise
        (result,) = done.result.results
        if isinstance(result, JobFailure):
            # A set reports failures by output, so the job itself succeeded.
            raise result.to_error()
        # Processor time, because the duration of a render also depends on the load.
        self._costs.learn(variant, result.cpu_s)
        self._telemetry.stage("queue", done.queue_s)
        for stage, seconds in result.stages.items():
            self._telemetry.stage(stage, seconds)
        self._telemetry.rendered(plan.request.label, variant.format, done.work_s)
        if result.target_missed:
            self._telemetry.missed_target()
