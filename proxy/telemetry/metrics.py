"""The Prometheus metrics of a process and their text formats.

Services count events themselves; `service_metrics` reads their counts at each scrape. Durations are
recorded here when they are known. Label values come from closed sets.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections import Counter as Totals
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import accumulate, product
from operator import attrgetter
from typing import NamedTuple, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.samples import Exemplar

from proxy import __version__
from proxy.domain.formats import Format
from proxy.domain.media import DataType
from proxy.domain.request import Origin, Outcome
from proxy.domain.upload import METADATA_STEP, ItemOutcome, PendingStatus, Step
from proxy.domain.worker_protocol import HOLDS, WorkerInfo
from proxy.runtime.supervised_task import BackgroundTask
from proxy.telemetry.summed_metrics import SummedCollector
from proxy.telemetry.tracing import STATE, current_trace_id

_NAMESPACE = "smartserve"
_OPENMETRICS = "application/openmetrics-text"
LAG_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""Seconds: background work waits until processors are idle."""
BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds: from a hit in memory to a render that waited in the queue."""
_BOUNDS = [*map(str, BUCKETS), "+Inf"]

STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds: from an HTTP callback to the analysis by a large model."""

SHARE_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
METADATA_STAGES = ("queue", "walk", "engine", "credentials", "validate", "describe")
"""Stages of an extraction, in their order."""

# They would double the number of series: each counter and histogram would have a `_created` one.
disable_created_metrics()  # type: ignore[no-untyped-call]

Statistics = Callable[[], Mapping[str, float]]


def _exemplar() -> dict[str, str] | None:
    """Return the labels of an exemplar inside a sampled trace."""
    # Checked first: without tracing no function of `tracing` is called on the request path.
    if STATE.tracer is None:
        return None
    trace_id = current_trace_id()
    return {"trace_id": trace_id} if trace_id else None


class RequestLabels(NamedTuple):
    """The labels of a finished request."""

    route: str
    size: str
    format: str
    status: int
    source: Origin
    lean: bool
    """No label: a counter of its own. Most servers read no client hints."""


class RequestHistogram:
    """Counts the requests with one set of labels.

    Updated on the event loop only, so without locks: a Prometheus child takes a lock for each of
    the four updates, which is measurable on a cache hit.
    """

    __slots__ = (
        *("body_bytes", "count", "first_byte", "first_byte_s", "last_byte", "last_byte_s"),
        *("first_byte_examples", "last_byte_examples"),
    )

    def __init__(self) -> None:
        self.count = 0
        self.body_bytes = 0
        self.last_byte_s = 0.0
        self.first_byte_s = 0.0
        self.last_byte = [0] * (len(BUCKETS) + 1)
        self.first_byte = [0] * (len(BUCKETS) + 1)
        self.first_byte_examples: dict[int, Exemplar] = {}
        self.last_byte_examples: dict[int, Exemplar] = {}

    def add(self, first_byte_s: float, last_byte_s: float, body_bytes: int) -> None:
        """Count a request: seconds until its first and last byte, and the bytes of its body."""
        self.count += 1
        self.body_bytes += body_bytes
        self.first_byte_s += first_byte_s
        self.last_byte_s += last_byte_s
        # bisect_left: the upper bound of a Prometheus bucket is inclusive.
        self.first_byte[bisect_left(BUCKETS, first_byte_s)] += 1
        self.last_byte[bisect_left(BUCKETS, last_byte_s)] += 1

    def exemplify(self, first_byte_s: float, last_byte_s: float, trace_id: str) -> None:
        """Make the trace of a counted request the exemplar of its buckets."""
        for examples, seconds in (
            (self.first_byte_examples, first_byte_s),
            (self.last_byte_examples, last_byte_s),
        ):
            # The name of the label is the one that Grafana expects.
            example = Exemplar({"trace_id": trace_id}, seconds, time.time())
            examples[bisect_left(BUCKETS, seconds)] = example


class Metrics:
    """All metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauge = partial(Gauge, namespace=_NAMESPACE, registry=self.registry)
        counter = partial(Counter, namespace=_NAMESPACE, registry=self.registry)
        histogram = partial(
            Histogram, namespace=_NAMESPACE, registry=self.registry, buckets=BUCKETS
        )
        stages = histogram(
            "stage_seconds", "Duration of a stage of a request or of a render.", ["stage"]
        )
        renders = histogram(
            "render_seconds", "Duration of a render in a worker.", ["size", "format"]
        )
        # A render records six stages, and `labels` takes longer than `observe`.
        self._stage, self._render = cache(stages.labels), cache(renders.labels)
        self.loop_lag = histogram(
            "loop_lag_seconds",
            "Delay of a timer of the event loop, measured at least once a second.",
        ).observe
        self._upgrades = histogram("upgrade_seconds", "Time to render a final in the background.")
        self._upgrade_lag = histogram(
            "upgrade_lag_seconds",
            "Time from the first request for a final until it is stored.",
            buckets=LAG_BUCKETS,
        )
        self._saved = counter(
            "bytes_saved", "Bytes by which finals are smaller than their drafts.", ["format"]
        )
        self.missed_target = counter(
            "quality_target_missed", "Finals that did not reach their target of perceived quality."
        ).inc
        self._refused = counter(
            "auth_failures", "Requests rejected for a missing or invalid key or token.", ["reason"]
        )
        self._signatures = counter(
            "signature_refusals",
            "Requests for private images without a valid signature.",
            ["reason"],
        )
        self._restarts = counter(
            "background_restarts",
            "Background tasks restarted after an unexpected error (background_task_failed).",
            ["task"],
        )
        self.ingest = IngestMetrics(self.registry)
        self.metadata = MetadataMetrics(self.registry)
        self._uploads = counter("uploads", "Uploaded files.")
        self._uploaded = counter("upload_bytes", "Bytes of uploaded files.")
        self._upload_refusals = counter("upload_refusals", "Rejected uploads.", ["reason"])
        self._pending = self._gauge(
            "pending_images",
            "Uploads in the main database by status, read in each round of URL replacement.",
            ["status"],
        )
        self._lost_uploads = self._gauge(
            "lost_upload_files", "Uploaded files in lost+found, which no row of the queue names."
        )
        # Label values exist from the start: an alert on a rate misses the first event of a series
        # that begins with it.
        for task in BackgroundTask:
            self._restarts.labels(task)
        for status in PendingStatus:
            self._pending.labels(status)
        self._request_histograms: dict[RequestLabels, RequestHistogram] = {}
        self.registry.register(RequestHistograms(self._request_histograms))

    def histogram_of(self, outcome: Outcome, status: int) -> RequestHistogram:
        """Return the counts of the responses with these labels; the label sets are bounded."""
        request = RequestLabels(
            outcome.route, outcome.size, outcome.format, status, outcome.source, outcome.lean
        )
        found = self._request_histograms.get(request)
        if found is None:
            found = self._request_histograms[request] = RequestHistogram()
        return found

    def stage(self, stage: str, seconds: float) -> None:
        """Record one stage: database, queue, decode, transform, encode or store."""
        self._stage(stage).observe(seconds, _exemplar())

    def rendered(self, label: str, fmt: Format, seconds: float) -> None:
        """Record a render, from its start in a worker to the reply."""
        self._render(label, fmt).observe(seconds, _exemplar())

    def upgraded(self, fmt: Format, *, seconds: float, lag_s: float, saved: int) -> None:
        """Record a final that replaced a draft; ``lag_s`` is the time since it was requested."""
        self._upgrades.observe(seconds)
        self._upgrade_lag.observe(lag_s)
        self._saved.labels(fmt).inc(saved)

    def background_restarted(self, task: BackgroundTask) -> None:
        """Count a restart of a background task."""
        self._restarts.labels(task).inc()

    def refusals(self, reasons: Iterable[str]) -> Callable[[str], None]:
        """Return a counter of rejected requests; all its reasons are exposed from the start."""
        return _by_reason(self._refused, reasons)

    def signature_refusals(self, reasons: Iterable[str]) -> Callable[[str], None]:
        """Return a counter of refused requests for private images."""
        return _by_reason(self._signatures, reasons)

    def uploaded(self, files: int, byte_size: int) -> None:
        """Count the files of one upload after they were queued."""
        self._uploads.inc(files)
        self._uploaded.inc(byte_size)

    def upload_refusals(self, reasons: Iterable[str]) -> Callable[[str], None]:
        """Return a counter of rejected uploads; all its reasons are exposed from the start."""
        return _by_reason(self._upload_refusals, reasons)

    def pending_images(self, counts: Mapping[PendingStatus, int]) -> None:
        """Set the number of uploads by status."""
        for status, count in counts.items():
            self._pending.labels(status).set(count)

    def lost_uploads(self, files: int) -> None:
        """Set the number of uploaded files in lost+found."""
        self._lost_uploads.set(files)

    def worker(self, info: WorkerInfo) -> None:
        """Expose the versions of this package, Python and a worker, and what confines it."""
        build = self._gauge(
            "build_info", "1, with versions as labels.", ["version", "libvips", "python"]
        )
        build.labels(__version__, info.libvips, platform.python_version()).set(1)
        codecs = self._gauge(
            "codec_info",
            "1, with the name and version of a library that workers use.",
            ["codec", "version"],
        )
        for codec, version in {"libvips": info.libvips, **info.codecs}.items():
            codecs.labels(codec, version).set(1)
        sandbox = self._gauge(
            "sandbox",
            "1 if this feature confines the workers, 0 if it is not available here.",
            ["feature"],
        )
        for feature, state in info.sandbox.items():
            sandbox.labels(feature).set(state == HOLDS)

    def exposition(
        self, accept: str = "", *, of: SummedCollector | None = None
    ) -> tuple[bytes, str]:
        """Return all metrics and their media type; with ``of``, those of all processes.

        Clients that accept OpenMetrics, as Prometheus does, get that format with exemplars; all
        others get the text format.
        """
        # Not `choose_encoder`: it echoes any version from the header, and fails if that is not a
        # number.
        named = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        source = cast("CollectorRegistry", of or self.registry)
        if _OPENMETRICS in named:
            text: bytes = openmetrics.generate_latest(source)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return exposition.generate_latest(source), exposition.CONTENT_TYPE_PLAIN_0_0_4

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """As `exposition`."""
        return self.exposition(accept)


def _by_reason(counter: Counter, reasons: Iterable[str]) -> Callable[[str], None]:
    children = {str(reason): counter.labels(reason) for reason in reasons}
    return lambda reason: children[reason].inc()


class IngestMetrics:
    """Metrics of the ingest worker; those of its queue are read at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, namespace=_NAMESPACE, registry=registry)
        self._steps = Histogram(
            "ingest_step_seconds",
            "Duration of an attempt at a step of an upload.",
            ["step", "type"],
            namespace=_NAMESPACE,
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._attempts = counter(
            "ingest_attempts", "Attempts at a step of an upload.", ["step", "outcome"]
        )
        self._polls = counter(
            "ingest_polls", "Requests to the main API for pending uploads.", ["outcome"]
        )
        self._unreadable = Gauge(
            "ingest_unreadable_entries",
            "Entries without a valid id in the main API's list at the last poll.",
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._processed = counter("ingest_uploads", "Uploads processed.", ["outcome"])
        for outcome in ("ok", "failed"):
            self._polls.labels(outcome)
        for step, outcome in product((*Step, METADATA_STEP), ("ok", "failed", "overdue")):
            self._attempts.labels(step, outcome)
        for item_outcome in ItemOutcome:
            self._processed.labels(item_outcome)

    def step(self, step: str, data_type: DataType, *, seconds: float, outcome: str) -> None:
        """Record an attempt at a step with its outcome: ``ok``, ``failed`` or ``overdue``."""
        self._steps.labels(step, data_type).observe(seconds)
        self._attempts.labels(step, outcome).inc()

    def polled(self, outcome: str, *, unreadable: int | None = None) -> None:
        """Count a request for pending uploads: ``ok`` or ``failed``.

        ``unreadable`` is the number of entries without a valid id; None if there was no list.
        """
        self._polls.labels(outcome).inc()
        if unreadable is not None:
            self._unreadable.set(unreadable)

    def processed(self, outcome: str) -> None:
        """Count a processed upload; ``outcome`` is an `ItemOutcome`."""
        self._processed.labels(outcome).inc()


class MetadataMetrics:
    """Metrics of metadata extraction that are recorded when they are known."""

    def __init__(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, namespace=_NAMESPACE, registry=registry)
        self._requests = Counter(
            "metadata_requests",
            'Responses of the metadata routes; code is "OK" or that of the error.',
            ["route", "tier", "code"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._stages = histogram(
            "metadata_stage_seconds",
            "Duration of a stage of an extraction.",
            ["stage"],
            buckets=STEP_BUCKETS,
        )
        self.completeness = histogram(
            "metadata_completeness",
            "Part of the bytes of a file's metadata from which a tag was read.",
            buckets=SHARE_BUCKETS,
        ).observe
        for stage in METADATA_STAGES:
            self._stages.labels(stage)

    def request(self, route: str, tier: str, code: str) -> None:
        """Count a response; ``tier`` is empty if the request was rejected before it was known."""
        self._requests.labels(route, tier, code).inc()

    def stage(self, stage: str, seconds: float) -> None:
        """Record a stage of `METADATA_STAGES`."""
        self._stages.labels(stage).observe(seconds)


class RequestHistograms:
    """A Prometheus collector of request counts and durations."""

    def __init__(self, histograms: Mapping[RequestLabels, RequestHistogram]) -> None:
        """``histograms`` may grow later; each scrape reads it anew."""
        self._request_histograms = histograms

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families of requests."""
        # A copy: a request may add labels while a scrape consumes this generator.
        histograms = dict(self._request_histograms)
        labels = ("route", "size", "format", "status", "source")
        yield _counts("smartserve_requests", "Responses sent.", histograms, labels)
        lean = {request: found for request, found in histograms.items() if request.lean}
        yield _counts(
            "smartserve_lean_responses",
            "Responses to requests whose client hints request fewer bytes.",
            lean,
            ("size", "format", "source"),
        )
        yield _sent(histograms)
        yield _durations(
            "smartserve_request_seconds",
            "Time from the arrival of a request to the last byte of its response.",
            histograms,
            labels=("route", "source"),
            read=attrgetter("last_byte", "last_byte_s", "last_byte_examples"),
        )
        yield _durations(
            "smartserve_first_byte_seconds",
            "Time from the arrival of a request to the first byte of its response.",
            histograms,
            labels=("source",),
            read=attrgetter("first_byte", "first_byte_s", "first_byte_examples"),
        )


def _counts(
    name: str,
    text: str,
    histograms: Mapping[RequestLabels, RequestHistogram],
    labels: tuple[str, ...],
) -> Metric:
    """Return a counter family; counts with equal labels are added."""
    family = CounterMetricFamily(name, text, labels=labels)
    totals: Totals[tuple[str, ...]] = Totals()
    for request, histogram in histograms.items():
        totals[tuple(str(getattr(request, label)) for label in labels)] += histogram.count
    for values, total in totals.items():
        family.add_metric(values, total)
    return family


def _sent(histograms: Mapping[RequestLabels, RequestHistogram]) -> Metric:
    family = CounterMetricFamily(
        "smartserve_sent_bytes", "Bytes of response bodies sent.", labels=["format"]
    )
    totals: Totals[str] = Totals()
    for request, histogram in histograms.items():
        totals[request.format] += histogram.body_bytes
    for fmt, total in totals.items():
        family.add_metric([fmt], total)
    return family


def _durations(
    name: str,
    text: str,
    histograms: Mapping[RequestLabels, RequestHistogram],
    *,
    labels: tuple[str, ...],
    read: Callable[[RequestHistogram], tuple[list[int], float, dict[int, Exemplar]]],
) -> Metric:
    """Return a histogram family: counts with equal labels are added, buckets are cumulative.

    Of several exemplars of a bucket the latest is used.
    """
    counts: dict[tuple[str, ...], list[int]] = {}
    sums: Totals[tuple[str, ...]] = Totals()
    latest: dict[tuple[tuple[str, ...], int], Exemplar] = {}
    for request, histogram in histograms.items():
        values = tuple(str(getattr(request, label)) for label in labels)
        buckets, seconds, examples = read(histogram)
        before = counts.get(values, [0] * len(buckets))
        counts[values] = [a + b for a, b in zip(before, buckets, strict=True)]
        sums[values] += seconds  # type: ignore[assignment]  # a Counter adds floats as well
        for at, example in examples.items():
            # Several label sets share a bucket here, each with an exemplar of its own.
            known = latest.get((values, at), example)
            latest[values, at] = max(known, example, key=lambda one: one.timestamp or 0)
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, buckets in counts.items():
        rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for at, (bound, count) in enumerate(zip(_BOUNDS, accumulate(buckets), strict=True)):
            found = latest.get((values, at))
            rows.append((bound, count) if found is None else (bound, count, found))
        family.add_metric(values, rows, sums[values])
    return family
