"""Request counts and durations as plain numbers, and their Prometheus collector."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Totals
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar

from proxy.domain.request import Origin

BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds: from a hit in memory to a render that waited in the queue."""
_BOUNDS = [*map(str, BUCKETS), "+Inf"]


class RequestLabels(NamedTuple):
    """The labels of a finished request."""

    route: str
    size: str
    format: str
    status: int
    source: Origin


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


class RequestHistograms:
    """A Prometheus collector of request counts and durations."""

    def __init__(self, histograms: Mapping[RequestLabels, RequestHistogram]) -> None:
        """``histograms`` may grow later; each scrape reads it anew."""
        self._request_histograms = histograms

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families of requests."""
        # A copy: a request may add labels while a scrape consumes this generator.
        histograms = dict(self._request_histograms)
        requests = CounterMetricFamily(
            "smartserve_requests", "Responses sent.", labels=RequestLabels._fields
        )
        for request, histogram in histograms.items():
            requests.add_metric([str(value) for value in request], histogram.count)
        yield requests
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
