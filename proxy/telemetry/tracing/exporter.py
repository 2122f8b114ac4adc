"""The OpenTelemetry SDK: a tracer, and OTLP over HTTP to a collector.

The only module that imports the SDK; imported only if tracing is enabled.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial

import structlog
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.util.types import Attributes

from proxy import __version__
from proxy.domain.errors import ConfigurationError
from proxy.runtime.thread_pool import ThreadPool
from proxy.settings import TracingSettings

_MAX_BATCH = 512
_LOG_EVERY_S = 60.0
_READS_HEADERS = "opentelemetry.util.re"

log = structlog.get_logger(__name__)


class Exporter:
    """Queues spans and sends them from a thread of its own.

    If the collector is slow or away, at most ``max_queue`` spans wait; further ones are dropped
    and counted.
    """

    def __init__(self, settings: TracingSettings) -> None:
        """Start the sending thread; it ends with `aclose`.

        Raises:
            ConfigurationError: an ``OTEL_*`` variable has an invalid value.
        """
        _noise.attach()
        try:
            self._queue = _BoundedQueue(settings)
            self._provider = TracerProvider(
                sampler=_LinkSampler(TraceIdRatioBased(settings.ratio)),
                resource=_resource(settings.service_name),
                # `aclose` ends it: the SDK's own exit handler would wait without a limit.
                shutdown_on_exit=False,
            )
        except ValueError as error:
            raise ConfigurationError([f"tracing, of an OTEL_* variable: {error}"]) from error
        self._provider.add_span_processor(self._queue)
        self._flush_s = settings.flush_s
        self.tracer: api.Tracer = self._provider.get_tracer("smartserve", __version__)

    def statistics(self) -> Mapping[str, float]:
        """Return the spans sent, those dropped from a full queue, and those lost in sending."""
        return {**self._queue.sender.counts, "queue_full": self._queue.dropped}

    async def aclose(self) -> None:
        """Send what is queued, for at most ``flush_s`` seconds."""
        # A daemon thread: the process must not wait for a collector that hangs.
        threads = ThreadPool("flush-spans", count=1, timeout_s=self._flush_s)
        try:
            await threads.run(partial(self._provider.shutdown))
        except TimeoutError:
            left = self._queue.queued - sum(self._queue.sender.counts.values())
            log.warning("spans_not_sent", left=left)
            self._queue.sender.shutdown()
        await threads.aclose(wait_s=0)


class _LinkSampler(ParentBased):
    """Samples by ratio, but follows a sampled parent, and every span that links to another one."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: api.SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[api.Link] | None = None,
        trace_state: api.TraceState | None = None,
    ) -> SamplingResult:
        """Decide when a span starts; the lower half of the trace id is compared to the ratio."""
        # A link to a trace that was never recorded would lead nowhere, so only sampled spans are
        # linked to, and the linked span is recorded as well.
        decide = ALWAYS_ON.should_sample if links else super().should_sample
        return decide(parent_context, trace_id, name, kind, attributes, links, trace_state)


class _BoundedQueue(BatchSpanProcessor):
    """A batch processor that counts the spans it drops: the SDK's own only logs them."""

    def __init__(self, settings: TracingSettings) -> None:
        self.sender = _Sender(settings)
        self._max_queue = settings.max_queue
        self.queued = 0
        self.dropped = 0
        super().__init__(
            self.sender,
            max_queue_size=settings.max_queue,
            max_export_batch_size=min(_MAX_BATCH, settings.max_queue),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, or drop it if the queue is full."""
        # Checked here, because the SDK's queue would drop its oldest span instead.
        if self.queued - self.sender.received >= self._max_queue:
            self.dropped += 1
            return
        self.queued += 1
        super().on_end(span)


class _Sender(OTLPSpanExporter):
    """Counts what it sends; called by the processor's thread."""

    def __init__(self, settings: TracingSettings) -> None:
        super().__init__(settings.endpoint or None, headers=settings.headers or None)
        self._ended = threading.Lock()
        self.received = 0
        self.counts = {"sent": 0, "failed": 0}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch. If it fails after the exporter's own retries, it is lost."""
        self.received += len(spans)
        # Remains so if the exporter raises.
        outcome = "failed"
        try:
            result = super().export(spans)
            if result is SpanExportResult.SUCCESS:
                outcome = "sent"
            return result
        finally:
            self.counts[outcome] += len(spans)

    def shutdown(self) -> None:
        """Stop all retries; only the first call has an effect."""
        # Called by the provider, and by `aclose` after a time-out. The SDK warns of a second call.
        if self._ended.acquire(blocking=False):
            super().shutdown()  # type: ignore[no-untyped-call]


_QUERY = re.compile(r"\?[^\s)'\"]+")
"""The query of a collector's address: some expect their key in it."""


class _Noise(logging.Handler):
    """Logs warnings of the SDK through structlog: each once a minute, without tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logged: dict[str, float] = {}

    def attach(self) -> None:
        """Handle the SDK's log from now on. Never detached: a thread may outlive its exporter."""
        self._logged.clear()
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self)
        # Otherwise the root handler would log each record as well, with its traceback.
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record, unless one with the same text was logged within the last minute."""
        now = time.monotonic()
        if now - self._logged.get(str(record.msg), -_LOG_EVERY_S) < _LOG_EVERY_S:
            return
        self._logged[str(record.msg)] = now
        # The warning about malformed headers repeats them, and they contain keys.
        whole = record.name != _READS_HEADERS
        detail = record.getMessage() if whole else str(record.msg)
        log.warning("tracing_trouble", detail=_QUERY.sub("?...", detail), logger=record.name)


_noise = _Noise()


def _resource(service_name: str) -> Resource:
    """Return the resource of all spans: from the settings, else from ``OTEL_*`` variables."""
    resource = Resource.create({"service.version": __version__})
    named = str(resource.attributes.get("service.name", ""))
    if service_name:
        return resource.merge(Resource({"service.name": service_name}))
    if not named or named.startswith("unknown_service"):
        return resource.merge(Resource({"service.name": "smartserve"}))
    return resource
