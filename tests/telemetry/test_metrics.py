"""The metrics of a process in both text formats, with exemplars."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.samples import Sample

from proxy.domain.formats import Format
from proxy.domain.media import DataType
from proxy.domain.request import Origin, Outcome
from proxy.domain.upload import ItemOutcome, Step
from proxy.runtime.supervised_task import BackgroundTask
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import TracingState
from tests.support.server import CHROME, Library, Serving

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
"""The Accept header of Prometheus 2.42."""
text_families: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
open_families: Callable[[str], Iterable[Metric]] = openmetrics.text_string_to_metric_families
ONE, OTHER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_both_formats_have_the_same_samples(server: Serving, library: Library) -> None:
    for _ in range(2):
        await server.client.get(f"/serve/{library.ids['photo']}", headers={"Accept": CHROME})
    metrics = server.services.metrics
    plain, opened = metrics.exposition(), metrics.exposition(PROMETHEUS)
    assert plain[1] == "text/plain; version=0.0.4; charset=utf-8"
    assert opened[1] == "application/openmetrics-text; version=1.0.0; charset=utf-8"

    def names(samples: list[Sample]) -> set[tuple[str, ...]]:
        return {(one.name, *(f"{key}={one.labels[key]}" for key in one.labels)) for one in samples}

    first = [one for family in text_families(plain[0].decode()) for one in family.samples]
    second = [one for family in open_families(opened[0].decode()) for one in family.samples]
    assert names(first) == names(second)
    assert len(first) > 200


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("Application/OpenMetrics-Text", "application/openmetrics-text; version=1.0.0"),
        (
            "application/openmetrics-text;version=evil",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("application/openmetrics-text;version=9", "application/openmetrics-text; version=1.0.0"),
        ("text/plain;version=evil", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("", "text/plain; version=0.0.4"),
        (", ;,;;=", "text/plain; version=0.0.4"),
    ],
)
async def test_any_accept_header_gets_one_of_the_two_formats(
    shared: Serving, accept: str, media_type: str
) -> None:
    answer = await shared.client.get("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(media_type)


def exemplars(metrics: Metrics, name: str) -> dict[str, tuple[str, float]]:
    """Return trace and value of each exemplar of a histogram by bucket."""
    text = metrics.exposition(PROMETHEUS)[0].decode()
    return {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in open_families(text)
        for sample in family.samples
        if sample.name == f"{name}_bucket" and sample.exemplar is not None
    }


def test_stages_and_renders_have_exemplars_in_a_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics()
    metrics.stage("queue", 0.002)
    metrics.rendered("grid", Format.AVIF, 0.2)
    assert exemplars(metrics, "smartserve_stage_seconds") == {}
    monkeypatch.setattr("proxy.telemetry.metrics.STATE", TracingState(tracer=NoOpTracer()))
    monkeypatch.setattr("proxy.telemetry.metrics.current_trace_id", lambda: ONE)
    metrics.stage("queue", 0.002)
    metrics.rendered("grid", Format.AVIF, 0.2)
    assert exemplars(metrics, "smartserve_stage_seconds") == {"0.0025": (ONE, 0.002)}
    assert exemplars(metrics, "smartserve_render_seconds") == {"0.25": (ONE, 0.2)}


def test_label_values_exist_before_the_first_event() -> None:
    registry = Metrics().registry
    for task in BackgroundTask:
        labels = {"task": str(task)}
        assert registry.get_sample_value("smartserve_background_restarts_total", labels) == 0
    refused = {"reason": "missing"}
    metrics = Metrics()
    metrics.refusals(["missing"])
    assert metrics.registry.get_sample_value("smartserve_auth_failures_total", refused) == 0


def test_finals_are_counted_with_what_they_save() -> None:
    metrics = Metrics()
    metrics.upgraded(Format.AVIF, seconds=2.0, lag_s=3.0, saved=100)
    metrics.missed_target()
    value = metrics.registry.get_sample_value
    assert value("smartserve_upgrade_seconds_sum") == 2
    assert value("smartserve_upgrade_lag_seconds_sum") == 3
    assert value("smartserve_bytes_saved_total", {"format": "avif"}) == 100
    assert value("smartserve_quality_target_missed_total") == 1


def test_requests_with_equal_labels_are_counted_together() -> None:
    metrics = Metrics()
    for seconds in (0.003, 0.2):
        outcome = Outcome("serve", "grid", source=Origin.MEMORY)
        metrics.histogram_of(outcome, 200).add(seconds, 2 * seconds, 10)
    value = metrics.registry.get_sample_value
    labels = {"route": "serve", "size": "grid", "format": "none", "status": "200"}
    assert value("smartserve_requests_total", {**labels, "source": "memory"}) == 2
    assert value("smartserve_sent_bytes_total", {"format": "none"}) == 20


def test_requests_with_client_hints_are_counted_with_the_others_and_apart() -> None:
    metrics = Metrics()
    for lean in (True, False, True):
        outcome = Outcome("serve", "grid", source=Origin.MEMORY, lean=lean)
        metrics.histogram_of(outcome, 200).add(0.1, 0.1, 10)
    value = metrics.registry.get_sample_value
    labels = {"size": "grid", "format": "none", "source": "memory"}
    every = {**labels, "route": "serve", "status": "200"}
    assert value("smartserve_requests_total", every) == 3
    assert value("smartserve_lean_responses_total", labels) == 2


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


def test_an_attempt_at_a_step_is_counted_and_timed() -> None:
    metrics = Metrics()
    metrics.ingest.step(Step.RETRIEVE_FILE, DataType.PRODUCT, seconds=0.2, outcome="ok")
    value = metrics.registry.get_sample_value
    labels = {"step": "retrieve_file", "outcome": "ok"}
    assert value("smartserve_ingest_attempts_total", labels) == 1
    assert (
        value("smartserve_ingest_step_seconds_sum", {"step": "retrieve_file", "type": "product"})
        == 0.2
    )


def test_outcomes_exist_before_they_are_counted() -> None:
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    for outcome in ItemOutcome:
        assert value("smartserve_ingest_uploads_total", {"outcome": outcome}) == 0
    metrics.ingest.processed(ItemOutcome.DONE)
    metrics.ingest.polled("failed")
    assert value("smartserve_ingest_uploads_total", {"outcome": ItemOutcome.DONE}) == 1
    assert value("smartserve_ingest_polls_total", {"outcome": "failed"}) == 1


def test_metadata_requests_are_counted_by_route_tier_and_code() -> None:
    metrics = Metrics()
    metrics.metadata.request("extract", "free", "OK")
    metrics.metadata.request("extract", "free", "OK")
    metrics.metadata.request("extract", "", "UNAUTHORIZED")
    count = partial(metrics.registry.get_sample_value, "smartserve_metadata_requests_total")
    assert count({"route": "extract", "tier": "free", "code": "OK"}) == 2
    assert count({"route": "extract", "tier": "", "code": "UNAUTHORIZED"}) == 1


def test_the_stages_and_the_completeness_of_extractions_are_histograms() -> None:
    metrics = Metrics()
    metrics.metadata.stage("walk", 0.2)
    metrics.metadata.completeness(0.8)
    value = metrics.registry.get_sample_value
    assert value("smartserve_metadata_stage_seconds_sum", {"stage": "walk"}) == 0.2
    # All stages exist from the start: a rate misses the first event of a new series.
    assert value("smartserve_metadata_stage_seconds_count", {"stage": "engine"}) == 0
    assert value("smartserve_metadata_completeness_bucket", {"le": "0.75"}) == 0
    assert value("smartserve_metadata_completeness_bucket", {"le": "0.9"}) == 1
