"""Metrics: the only module that makes what Prometheus reads.

Rooms count for themselves and are read when a scrape comes; what has a duration is told here as it
happens. All label values come from closed sets.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections import Counter as Totals
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, product
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.samples import Exemplar

from proxy import __version__
from proxy.delivered import Origin
from proxy.formats import Format
from proxy.ingest.taking import Outcome as Taken
from proxy.jobs import HOLDS
from proxy.media import DataType
from proxy.pending import PendingStatus, Step
from proxy.variant import Variant

BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds: from a hit in memory to a render that has waited."""
_OPENMETRICS = "application/openmetrics-text"
_BOUNDS = [*map(str, BUCKETS), "+Inf"]
LAG_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""Seconds: background work waits for idle processors."""
STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds: from a callback to a model that thinks."""

disable_created_metrics()  # type: ignore[no-untyped-call]

Statistics = Callable[[], Mapping[str, float]]


class Outcome(NamedTuple):
    """What the metrics and the access log say of an answer; all but the id from closed sets."""

    route: str
    size: str = "none"
    format: str = "none"
    source: Origin = Origin.NONE
    media_id: int | None = None
    variant: Variant | None = None
    """What went out, for traces; no label."""
    stage: str = ""
    """``draft`` or ``final``, where the variant is what was asked for."""
    error: str | None = None
    """The kind of error that the answer tells of."""


class Request(NamedTuple):
    """What an answered request is counted under."""

    route: str
    size: str
    format: str
    status: int
    source: Origin


class Tally:
    """The counts of equal requests: plain numbers, as a hit has no microseconds to spare.

    A Prometheus child takes a lock for each of four updates; this is read out at a scrape instead.
    Changed on the event loop only.
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
        """Count a request: seconds until the first byte and the last, and how many there were."""
        self.count += 1
        self.body_bytes += body_bytes
        self.first_byte_s += first_byte_s
        self.last_byte_s += last_byte_s
        self.first_byte[bisect_left(BUCKETS, first_byte_s)] += 1
        self.last_byte[bisect_left(BUCKETS, last_byte_s)] += 1

    def exemplify(self, first_byte_s: float, last_byte_s: float, trace_id: str) -> None:
        """A request that was counted is the example of its buckets: its trace says why."""
        for examples, seconds in (
            (self.first_byte_examples, first_byte_s),
            (self.last_byte_examples, last_byte_s),
        ):
            example = Exemplar(_example(trace_id), seconds, time.time())
            examples[bisect_left(BUCKETS, seconds)] = example


def _example(trace_id: str) -> dict[str, str]:
    """The labels of an exemplar, as Grafana looks for them."""
    return {"trace_id": trace_id}


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stages = self._histogram(
            "stage_seconds", "Parts of a request and of a render.", ["stage"]
        )
        self._renders = self._histogram(
            "render_seconds", "Whole renders in a worker.", ["size", "format"]
        )
        self._loop_lag = self._histogram(
            "loop_lag_seconds", "By how much the event loop was late.", []
        )
        self._upgrades = self._histogram("upgrade_seconds", "Finals made in the background.", [])
        self._upgrade_lag = self._histogram(
            "upgrade_lag_seconds",
            "From the first wish for a final until it was there.",
            [],
            buckets=LAG_BUCKETS,
        )
        self._saved = self._counter(
            "bytes_saved", "By how much finals are smaller than their drafts.", ["format"]
        )
        self._missed = self._counter(
            "quality_target_missed", "Finals below their target of perceived quality.", []
        )
        self._refused = self._counter("auth_failures", "Requests without the key.", ["reason"])
        self.ingest = IngestMetrics(self.registry)
        self._uploads = self._counter("uploads", "Files that were uploaded.", [])
        self._uploaded = self._counter("upload_bytes", "Bytes of files that were uploaded.", [])
        self._upload_refusals = self._counter("upload_refusals", "Uploads refused.", ["reason"])
        self._pending = Gauge(
            "smartserve_pending_images",
            "Uploads in the main database by status, looked at in each round of replacement.",
            ["status"],
            registry=self.registry,
        )
        for status in PendingStatus:
            self._pending.labels(status)
        self._tallies: dict[Request, Tally] = {}
        self.registry.register(_Requests(self._tallies))

    def _histogram(
        self, name: str, text: str, labels: list[str], *, buckets: tuple[float, ...] = BUCKETS
    ) -> Histogram:
        return Histogram(
            f"smartserve_{name}", text, labels, buckets=buckets, registry=self.registry
        )

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"smartserve_{name}", text, labels, registry=self.registry)

    def tally_of(self, outcome: Outcome, status: int) -> Tally:
        """Where such answers are counted; the labels are closed sets, so these are few."""
        request = Request(outcome.route, outcome.size, outcome.format, status, outcome.source)
        found = self._tallies.get(request)
        if found is None:
            found = self._tallies[request] = Tally()
        return found

    def stage(self, stage: str, seconds: float, trace_id: str = "") -> None:
        """One stage: database, queue, decode, transform, encode, store; of a trace, if any."""
        example = _example(trace_id) if trace_id else None
        self._stages.labels(stage).observe(seconds, example)

    def rendered(self, label: str, fmt: Format, seconds: float, trace_id: str = "") -> None:
        """A whole render, from the worker's start to its answer; of a trace, if any."""
        example = _example(trace_id) if trace_id else None
        self._renders.labels(label, fmt).observe(seconds, example)

    def upgraded(self, fmt: Format, *, seconds: float, lag_s: float, saved: int) -> None:
        """A final has replaced a draft: how long it took, how late it came, what it saved."""
        self._upgrades.observe(seconds)
        self._upgrade_lag.observe(lag_s)
        self._saved.labels(fmt).inc(saved)

    def missed_target(self) -> None:
        """A final did not reach its target of perceived quality within its bounds."""
        self._missed.inc()

    def refusals(self, reasons: Iterable[str]) -> Callable[[str], None]:
        """A counter of requests that were refused; all its reasons stand there from the start."""
        counters = {str(reason): self._refused.labels(reason) for reason in reasons}
        return lambda reason: counters[reason].inc()

    def uploaded(self, files: int, byte_size: int) -> None:
        """Files of one upload stand in the queue."""
        self._uploads.inc(files)
        self._uploaded.inc(byte_size)

    def upload_refusals(self, reasons: Iterable[str]) -> Callable[[str], None]:
        """A counter of uploads that were refused; all its reasons stand there from the start."""
        counters = {reason: self._upload_refusals.labels(reason) for reason in reasons}
        return lambda reason: counters[reason].inc()

    def pending_images(self, counts: Mapping[PendingStatus, int]) -> None:
        """How many uploads there are by status, as the main database last said."""
        for status, count in counts.items():
            self._pending.labels(status).set(count)

    def loop_lag(self, seconds: float) -> None:
        """By how much a timer of the event loop came late."""
        self._loop_lag.observe(seconds)

    def build(self, *, libvips: str, codecs: Mapping[str, str]) -> None:
        """Tell which build this is, and the versions of what is inside libvips."""
        info = Gauge(
            "smartserve_build_info",
            "1, with the versions as labels.",
            ["version", "libvips", "python"],
            registry=self.registry,
        )
        info.labels(__version__, libvips, platform.python_version()).set(1)
        inside = Gauge(
            "smartserve_codec_info",
            "1, with a codec that libvips uses and its version, or unknown.",
            ["codec", "version"],
            registry=self.registry,
        )
        for codec, version in codecs.items():
            inside.labels(codec, version).set(1)

    def sandbox(self, states: Mapping[str, str]) -> None:
        """Tell which features lock the workers in."""
        text = "1 where this locks the workers in, 0 where it does not hold here."
        held = Gauge("smartserve_sandbox", text, ["feature"], registry=self.registry)
        for feature, state in states.items():
            held.labels(feature).set(state == HOLDS)

    def watch(self, readings: Iterable[Reading]) -> None:
        """Read the rooms' own statistics at each scrape."""
        self.registry.register(_Rooms(tuple(readings)))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their media type: OpenMetrics, which has exemplars, for who names it.

        Prometheus does; all others get its text format. `choose_encoder` is not for strangers: it
        repeats a version that they make up, and falls over one that is no number.
        """
        named = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        if _OPENMETRICS in named:
            text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return exposition.generate_latest(self.registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


class IngestMetrics:
    """What the ingest worker tells as it happens; its queue is read at a scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._steps = Histogram(
            "smartserve_ingest_step_seconds",
            "Attempts at a step of an upload.",
            ["step", "type"],
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._attempts = self._counter(
            registry, "attempts", "Attempts at a step.", ["step", "outcome"]
        )
        self._polls = self._counter(
            registry, "polls", "Times that the main API was asked what is pending.", ["outcome"]
        )
        self._taken = self._counter(registry, "uploads", "Uploads worked on.", ["outcome"])
        for outcome in ("ok", "failed"):
            self._polls.labels(outcome)
        for step, outcome in product(Step, ("ok", "failed", "overdue")):
            self._attempts.labels(step, outcome)
        for taken in Taken:
            self._taken.labels(taken)

    @staticmethod
    def _counter(registry: CollectorRegistry, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"smartserve_ingest_{name}", text, labels, registry=registry)

    def step(self, step: Step, data_type: DataType, *, seconds: float, outcome: str) -> None:
        """An attempt at a step has ended: ``ok``, ``failed`` or ``overdue``."""
        self._steps.labels(step, data_type).observe(seconds)
        self._attempts.labels(step, outcome).inc()

    def polled(self, outcome: str) -> None:
        """The main API was asked: ``ok``, or ``failed``."""
        self._polls.labels(outcome).inc()

    def taken(self, outcome: str) -> None:
        """An upload was brought to an end: ``done``, ``later``, ``failed``, ``owed``."""
        self._taken.labels(outcome).inc()


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric that is read from a room: for each label value the figure of that name.

    ``figures`` maps a label value (empty where there is no label) to a function that gives it now.
    """

    name: str
    text: str
    counter: bool
    label: str | None
    figures: Mapping[str, Callable[[], float]]


class _Requests:
    """A Prometheus collector over the tallies."""

    def __init__(self, tallies: Mapping[Request, Tally]) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        tallies = dict(self._tallies)
        requests = CounterMetricFamily(
            "smartserve_requests", "Requests answered.", labels=Request._fields
        )
        for request, tally in tallies.items():
            requests.add_metric([str(value) for value in request], tally.count)
        yield requests
        yield _sent(tallies)
        yield _durations(
            "smartserve_request_seconds",
            "From the request's arrival to its last byte.",
            tallies,
            labels=("route", "source"),
            read=lambda tally: (tally.last_byte, tally.last_byte_s, tally.last_byte_examples),
        )
        yield _durations(
            "smartserve_first_byte_seconds",
            "From the request's arrival to its first byte.",
            tallies,
            labels=("source",),
            read=lambda tally: (tally.first_byte, tally.first_byte_s, tally.first_byte_examples),
        )


def _sent(tallies: Mapping[Request, Tally]) -> Metric:
    family = CounterMetricFamily(
        "smartserve_sent_bytes", "Bytes of bodies sent.", labels=["format"]
    )
    totals: Totals[str] = Totals()
    for request, tally in tallies.items():
        totals[request.format] += tally.body_bytes
    for fmt, total in totals.items():
        family.add_metric([fmt], total)
    return family


def _durations(
    name: str,
    text: str,
    tallies: Mapping[Request, Tally],
    *,
    labels: tuple[str, ...],
    read: Callable[[Tally], tuple[list[int], float, dict[int, Exemplar]]],
) -> Metric:
    """A histogram family: tallies with equal label values added up, buckets made cumulative.

    Of the examples of a bucket the latest is told.
    """
    counts: dict[tuple[str, ...], list[int]] = {}
    sums: Totals[tuple[str, ...]] = Totals()
    latest: dict[tuple[tuple[str, ...], int], Exemplar] = {}
    for request, tally in tallies.items():
        values = tuple(str(getattr(request, label)) for label in labels)
        buckets, seconds, examples = read(tally)
        before = counts.get(values, [0] * len(buckets))
        counts[values] = [a + b for a, b in zip(before, buckets, strict=True)]
        sums[values] += seconds  # type: ignore[assignment]  # a Counter adds floats as well
        for at, example in examples.items():
            known = latest.get((values, at), example)
            latest[values, at] = max(known, example, key=lambda one: one.timestamp or 0)
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, buckets in counts.items():
        told: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for at, (bound, count) in enumerate(zip(_BOUNDS, accumulate(buckets), strict=True)):
            found = latest.get((values, at))
            told.append((bound, count) if found is None else (bound, count, found))
        family.add_metric(values, told, sums[values])
    return family


class _Rooms:
    """A Prometheus collector over the readings."""

    def __init__(self, readings: tuple[Reading, ...]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            yield _family(reading)


def _family(reading: Reading) -> Metric:
    labels = [reading.label] if reading.label is not None else []
    kind = CounterMetricFamily if reading.counter else GaugeMetricFamily
    family = kind(f"smartserve_{reading.name}", reading.text, labels=labels)
    for value, figure in reading.figures.items():
        family.add_metric([value] if labels else [], figure())
    return family
