"""The metrics of several processes as those of one."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from proxy.telemetry.metrics import Metrics
from proxy.telemetry.summed_metrics import (
    SummedCollector,
    family,
    snapshot_of,
    summed,
    totals_of,
)
from tests.support.server import Serving

families: Any = openmetrics_parser.text_string_to_metric_families


class Process:
    """A registry with a metric of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests.", ["route"], registry=self.registry)
        self.open = Gauge("open", "Open.", registry=self.registry)
        self.lag = Gauge("lag_seconds", "Lag.", registry=self.registry)
        self.sandbox = Gauge("smartserve_sandbox", "S.", ["feature"], registry=self.registry)
        self.items = Gauge("items", "Items.", ["tier"], registry=self.registry)
        self.seconds = Histogram("s", "Seconds.", buckets=(1, 2), registry=self.registry)

    def snapshot(self) -> Any:
        # As it travels between the processes.
        return orjson.loads(orjson.dumps(snapshot_of(self.registry.collect())))


def value(snapshot: Any, name: str, **labels: str) -> float:
    """Return the value of a sample."""
    (found,) = [
        sample[2] for one in snapshot for sample in one["samples"] if sample[:2] == [name, labels]
    ]
    return float(found)


def test_counters_gauges_and_histograms_are_added() -> None:
    one, other = Process(), Process()
    one.requests.labels("a").inc(3)
    other.requests.labels("a").inc(4)
    other.requests.labels("b").inc()
    one.open.set(5)
    other.open.set(6)
    for seconds in (0.5, 1.5, 3):
        one.seconds.observe(seconds)
    other.seconds.observe(0.5)
    both = summed([one.snapshot(), other.snapshot()])
    assert value(both, "requests_total", route="a") == 7
    assert value(both, "requests_total", route="b") == 1
    assert value(both, "open") == 11
    assert [value(both, "s_bucket", le=le) for le in ("1.0", "2.0", "+Inf")] == [2, 3, 4]
    assert (value(both, "s_count"), value(both, "s_sum")) == (4, 5.5)


def test_where_a_sum_has_no_meaning_the_worst_value_is_shown() -> None:
    one, other = Process(), Process()
    one.lag.set(3)
    other.lag.set(2)
    one.sandbox.labels("landlock").set(1)
    other.sandbox.labels("landlock").set(0)
    # Both processes count one directory, but each has a memory of its own.
    for process in (one, other):
        process.items.labels("disk").set(10)
        process.items.labels("memory").set(10)
    both = summed([one.snapshot(), other.snapshot()])
    assert value(both, "lag_seconds") == 3
    assert value(both, "smartserve_sandbox", feature="landlock") == 0
    assert value(both, "items", tier="disk") == 10
    assert value(both, "items", tier="memory") == 20


def test_a_process_that_has_ended_leaves_its_counters_and_no_gauges() -> None:
    ended, running = Process(), Process()
    for process in (ended, running):
        process.requests.labels("a").inc(2)
        process.open.set(4)
        process.seconds.observe(1)
    totals = totals_of(summed([totals_of(ended.snapshot()), totals_of(ended.snapshot())]))
    left = summed([totals, running.snapshot()])
    assert value(left, "requests_total", route="a") == 6
    assert value(left, "s_count") == 3
    assert value(left, "open") == 4


def test_of_several_exemplars_of_a_bucket_the_latest_is_kept() -> None:
    one, other = Process(), Process()
    one.seconds.observe(0.25, {"trace_id": "older"})
    other.seconds.observe(0.75, {"trace_id": "newer"})
    for snapshots in ([one, other], [other, one]):
        both = SummedCollector(summed([process.snapshot() for process in snapshots]))
        text, media_type = Metrics().exposition("application/openmetrics-text", of=both)
        assert media_type.startswith("application/openmetrics-text")
        (seconds,) = [one for one in families(text.decode()) if one.name == "s"]
        exemplars = [sample.exemplar for sample in seconds.samples if sample.exemplar]
        assert [(one.labels, one.value) for one in exemplars] == [({"trace_id": "newer"}, 0.75)]


def test_values_that_json_does_not_know_are_0() -> None:
    process = Process()
    process.open.set(math.nan)
    assert value(process.snapshot(), "open") == 0


async def test_every_metric_of_a_server_survives_and_of_two_servers_counters_double(
    server: Serving,
) -> None:
    async with server.client.get("/readyz"):
        pass
    own = server.services.metrics.registry
    snapshot = orjson.loads(orjson.dumps(snapshot_of(own.collect())))
    single = Metrics().exposition(of=SummedCollector(summed([snapshot])))[0].decode()
    names = {one.name for one in own.collect()}
    read = {one.name for one in parser.text_string_to_metric_families(single)}
    # The text format has the suffix of a counter in the name of its family.
    assert {name for name in names if name not in read and f"{name}_total" not in read} == set()
    doubled = summed([snapshot, snapshot])
    for before, after in zip(summed([snapshot]), doubled, strict=True):
        if before["type"] in {"counter", "histogram"}:
            for sample, twice in zip(before["samples"], after["samples"], strict=True):
                assert twice[2] == pytest.approx(2 * sample[2]), sample[0]


def test_a_family_of_the_parent_has_its_values_by_label() -> None:
    ends = family("counter", "restarts", "Restarts.", {(("reason", "crash"),): 2.0})
    text = Metrics().exposition(of=SummedCollector([ends]))[0]
    assert b'restarts_total{reason="crash"} 2.0' in text
