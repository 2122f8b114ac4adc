"""The metrics of the ingest worker."""

from __future__ import annotations

from proxy.domain.media import DataType
from proxy.domain.upload import ItemOutcome, Step
from proxy.telemetry.metrics import Metrics


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
