"""Tracing, joined: what stands around the rooms where traces are switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.app.startup_checks import tracing_faults
from proxy.app.traced_background import TracedFinals, TracedSteps
from proxy.app.traced_services import (
    TracedDatabase,
    TracedJobDispatcher,
    TracedStore,
    TracedTelemetry,
    joined,
)
from proxy.domain.errors import ConfigurationError
from proxy.domain.pending_image import Step
from proxy.domain.render_plan import RenderPlan
from proxy.domain.trace_context import Sink, Trace, Tracer
from proxy.ingest.step_retry import StepFunction
from proxy.serving.finals.queue import FinalsRenderer
from proxy.serving.job_dispatch import JobDispatcher
from proxy.serving.renderer import RenderTelemetry
from proxy.settings import TracingSettings
from proxy.storage.database import MediaRepository
from proxy.storage.renditions import RenditionStore
from proxy.telemetry.metrics import Metrics, Statistics
from proxy.web.server.request_tracing import RequestTraces


def _nothing_sent() -> Mapping[str, float]:
    return {"sent": 0, "queue_full": 0, "failed": 0}


@dataclass(frozen=True, slots=True)
class Tracing:
    """Puts what follows around what is followed; without a tracer all stays as it is."""

    tracer: Tracer | None = None
    statistics: Statistics = _nothing_sent

    @property
    def workshop(self) -> type[JobDispatcher]:
        """What workshops are made of."""
        return JobDispatcher if self.tracer is None else TracedJobDispatcher

    def requests(self) -> RequestTraces | None:
        """For the front desk."""
        return None if self.tracer is None else RequestTraces(self.tracer)

    def database(self, database: MediaRepository) -> MediaRepository:
        """For what visitors ask."""
        return database if self.tracer is None else TracedDatabase(database)

    def store(self, store: RenditionStore) -> RenditionStore:
        """For what is read and written beside the hot answers."""
        return store if self.tracer is None else TracedStore(store)

    def telemetry(self, metrics: Metrics) -> RenderTelemetry:
        """For what is measured of requests."""
        return metrics if self.tracer is None else TracedTelemetry(metrics)

    @property
    def joined(self) -> Callable[[float, Trace | None], None]:
        """Told of requests that waited for another's render."""
        return _nobody if self.tracer is None else joined

    def finals(self, finals: FinalsRenderer) -> FinalsRenderer:
        """For the upgrader."""
        return finals if self.tracer is None else TracedFinals(self.tracer, finals)

    def steps(self, steps: Mapping[Step, StepFunction]) -> Mapping[Step, StepFunction]:
        """Of uploads."""
        if self.tracer is None:
            return steps
        follow = TracedSteps(self.tracer)
        return {step: follow(step, work) for step, work in steps.items()}


def _nobody(_began: float, _leader: Trace | None) -> None:
    """Is told nothing."""


def asking(
    finals: FinalsRenderer, ask: Callable[[RenderPlan], None]
) -> Callable[[RenderPlan], None]:
    """``ask`` for finals; followed ones are to know who did."""
    return finals.noting(ask) if isinstance(finals, TracedFinals) else ask


OFF = Tracing()
"""Traces nothing."""


def follow(settings: TracingSettings, sink: Sink, statistics: Statistics) -> Tracing:
    """Tracing into a sink."""
    tracer = Tracer(sink, ratio=settings.ratio, honour_parent=settings.honour_parent)
    return Tracing(tracer, statistics)


@asynccontextmanager
async def open_tracing(settings: TracingSettings) -> AsyncIterator[Tracing]:
    """Tracing as the settings have it; what waits to be sent goes out in the end, in bounded time.

    Raises:
        ConfigurationError: it is switched on, and what it needs is not installed.
    """
    if not settings.enabled:
        yield OFF
        return
    if faults := tracing_faults(settings):
        raise ConfigurationError(faults)
    # Not before: it takes 0.2 s and 20 MB, which nobody should pay who wants no traces.
    from proxy.telemetry.tracing.exporter import Exporter  # noqa: PLC0415

    exporter = Exporter(settings)
    try:
        yield follow(settings, exporter.send, exporter.statistics)
    finally:
        await exporter.aclose()
