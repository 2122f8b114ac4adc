"""What Prometheus asks for, OpenMetrics, holds the same as its text format, and exemplars."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.samples import Sample

from proxy.domain.formats import Format
from proxy.domain.outcome import Origin, Outcome
from proxy.telemetry.metrics import Metrics
from tests.support.server import CHROME, Library, Serving

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
"""As Prometheus 2.42 asks."""
text_families: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
open_families: Callable[[str], Iterable[Metric]] = openmetrics.text_string_to_metric_families
ONE, OTHER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_both_formats_tell_the_same_under_the_same_names(
    server: Serving, library: Library
) -> None:
    for _ in range(2):
        await server.client.get(f"/serve/{library.ids['photo']}", headers={"Accept": CHROME})
    registry = server.services.metrics
    plain, opened = registry.exposition(), registry.exposition(PROMETHEUS)
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
async def test_whatever_a_stranger_asks_for_is_one_of_the_two(
    shared: Serving, accept: str, media_type: str
) -> None:
    answer = await shared.client.get("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(media_type)


def exemplars(metrics: Metrics, name: str) -> dict[str, tuple[str, float]]:
    """Trace and value of each exemplar of a histogram, by the bucket that it stands at."""
    text = metrics.exposition(PROMETHEUS)[0].decode()
    return {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in open_families(text)
        for sample in family.samples
        if sample.name == f"{name}_bucket" and sample.exemplar is not None
    }


def test_a_request_of_a_trace_is_the_example_of_its_bucket() -> None:
    metrics = Metrics()
    tally = metrics.tally_of(Outcome("serve", source=Origin.MEMORY), 200)
    tally.add(0.0003, 0.7, 10)
    assert exemplars(metrics, "smartserve_first_byte_seconds") == {}
    tally.exemplify(0.0003, 0.7, ONE)
    assert exemplars(metrics, "smartserve_first_byte_seconds") == {"0.0005": (ONE, 0.0003)}
    assert exemplars(metrics, "smartserve_request_seconds") == {"1.0": (ONE, 0.7)}


def test_of_several_examples_of_a_bucket_the_latest_is_told() -> None:
    metrics = Metrics()
    tallies = [metrics.tally_of(Outcome("serve", size), 200) for size in ("grid", "zoom")]
    for tally, trace_id in zip(tallies, (ONE, OTHER), strict=True):
        tally.add(0.03, 20.0, 10)
        tally.exemplify(0.03, 20.0, trace_id)
    assert exemplars(metrics, "smartserve_first_byte_seconds") == {"0.05": (OTHER, 0.03)}
    assert exemplars(metrics, "smartserve_request_seconds") == {"+Inf": (OTHER, 20.0)}


def test_stages_and_renders_have_examples_where_there_is_a_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics()
    metrics.stage("queue", 0.002)
    metrics.rendered("grid", Format.AVIF, 0.2)
    assert exemplars(metrics, "smartserve_stage_seconds") == {}
    monkeypatch.setattr("proxy.telemetry.metrics.current_trace_id", lambda: ONE)
    metrics.stage("queue", 0.002)
    metrics.rendered("grid", Format.AVIF, 0.2)
    assert exemplars(metrics, "smartserve_stage_seconds") == {"0.0025": (ONE, 0.002)}
    assert exemplars(metrics, "smartserve_render_seconds") == {"0.25": (ONE, 0.2)}
