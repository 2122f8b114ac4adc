"""Request counts, durations and exemplars."""

from __future__ import annotations

from proxy.domain.request import Origin, Outcome
from proxy.telemetry.metrics import Metrics
from tests.telemetry.test_metrics import exemplars

ONE, OTHER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"


def test_requests_with_equal_labels_are_counted_together() -> None:
    metrics = Metrics()
    for seconds in (0.003, 0.2):
        outcome = Outcome("serve", "grid", source=Origin.MEMORY)
        metrics.histogram_of(outcome, 200).add(seconds, 2 * seconds, 10)
    value = metrics.registry.get_sample_value
    labels = {"route": "serve", "size": "grid", "format": "none", "status": "200"}
    assert value("smartserve_requests_total", {**labels, "source": "memory"}) == 2
    assert value("smartserve_sent_bytes_total", {"format": "none"}) == 20


def test_buckets_are_cumulative_and_add_up_over_the_labels_they_do_not_have() -> None:
    metrics = Metrics()
    for size, seconds in (("grid", 0.003), ("zoom", 0.2)):
        outcome = Outcome("serve", size, source=Origin.MEMORY)
        metrics.histogram_of(outcome, 200).add(seconds, seconds, 0)
    value = metrics.registry.get_sample_value
    for bound, count in (("0.0025", 0), ("0.005", 1), ("0.25", 2), ("+Inf", 2)):
        labels = {"source": "memory", "le": bound}
        assert value("smartserve_first_byte_seconds_bucket", labels) == count
    assert value("smartserve_first_byte_seconds_sum", {"source": "memory"}) == 0.203


def test_a_traced_request_is_the_exemplar_of_its_buckets() -> None:
    metrics = Metrics()
    histogram = metrics.histogram_of(Outcome("serve", source=Origin.MEMORY), 200)
    histogram.add(0.0003, 0.7, 10)
    assert exemplars(metrics, "smartserve_first_byte_seconds") == {}
    histogram.exemplify(0.0003, 0.7, ONE)
    assert exemplars(metrics, "smartserve_first_byte_seconds") == {"0.0005": (ONE, 0.0003)}
    assert exemplars(metrics, "smartserve_request_seconds") == {"1.0": (ONE, 0.7)}


def test_of_several_exemplars_of_a_bucket_the_latest_is_exposed() -> None:
    metrics = Metrics()
    histograms = [metrics.histogram_of(Outcome("serve", size), 200) for size in ("grid", "zoom")]
    for histogram, trace_id in zip(histograms, (ONE, OTHER), strict=True):
        histogram.add(0.03, 20.0, 10)
        histogram.exemplify(0.03, 20.0, trace_id)
    assert exemplars(metrics, "smartserve_first_byte_seconds") == {"0.05": (OTHER, 0.03)}
    assert exemplars(metrics, "smartserve_request_seconds") == {"+Inf": (OTHER, 20.0)}
