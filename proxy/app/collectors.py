"""The metrics that the services count themselves, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import structlog

from proxy.domain.pending_image import Step
from proxy.storage.renditions import RenditionStore
from proxy.telemetry.metrics import MetricReading, Statistics

log = structlog.get_logger(__name__)

RENAMED: Mapping[str, str] = {
    "ingest_leases_held": "ingest_leases_active",
    "ingest_leases_run_out": "ingest_leases_expired",
}
"""Metrics by their old name, which is exposed for one more release."""


class _Row(NamedTuple):
    """A metric: the figure ``key`` of a service's statistics.

    With a label, the figures whose names begin with ``key``: the rest of the name is its value.
    """

    name: str
    text: str
    source: str
    key: str
    counter: bool = False
    label: str | None = None


_GAUGES = (
    _Row("connections", "Open connections.", "connections", "open"),
    _Row("renders_in_flight", "Jobs that workers process now.", "pool", "busy"),
    _Row("workers", "Running worker processes.", "pool", "up"),
    _Row("upgrade_backlog", "Finals that are queued or being rendered.", "finals", "backlog"),
    _Row("cache_bytes", "Bytes of stored renditions.", "tiers", "bytes_", label="tier"),
    _Row("cache_items", "Stored renditions.", "tiers", "items_", label="tier"),
    _Row("row_items", "Rows in the row cache.", "rows", "items"),
    _Row("ingest_items", "Uploads in the ingest queue.", "ingest", "items_", label="state"),
    *(
        _Row(
            f"ingest_{step}",
            f"Uploads, unfinished or finished within the last hour, by state of the step {step}.",
            "ingest",
            f"{step}_",
            label="state",
        )
        for step in Step
    ),
    _Row(
        "ingest_stuck",
        "Uploads neither finished nor finally failed one hour after they arrived.",
        "ingest",
        "stuck",
    ),
    _Row(
        "ingest_oldest_seconds",
        "Age of the oldest unfinished upload; 0 if there is none.",
        "ingest",
        "oldest_s",
    ),
    _Row("ingest_failed", "Uploads that failed finally.", "ingest", "failed_for_good"),
    _Row("ingest_leases_active", "Leases held by ingest workers.", "ingest", "held"),
    _Row(
        "ingest_leases_expired",
        "Leases that expired; any worker may take over their uploads.",
        "ingest",
        "run_out",
    ),
    _Row(
        "ingest_renders_in_flight",
        "Jobs for uploads that workers process now.",
        "upload_usage",
        "busy",
    ),
    _Row(
        "ingest_steps_hanging",
        "Steps that exceeded their time limit and cannot be cancelled.",
        "step_timeouts",
        "hanging",
    ),
)

_COUNTERS = (
    _Row("connections_closed", "Closed connections.", "connections", "closed_", label="reason"),
    _Row("jobs", "Jobs passed to the worker pool.", "pool", "jobs"),
    _Row("rejections", "Jobs rejected by admission.", "admission", "rejected_", label="reason"),
    _Row("coalesced", "Requests that waited for a render in progress.", "delivery", "joined"),
    _Row("upgrades_dropped", "Finals not queued because the queue was full.", "finals", "dropped"),
    _Row("upgrades_failed", "Finals that could not be rendered.", "finals", "failed"),
    _Row("worker_restarts", "Worker processes replaced.", "pool", "restarts_", label="reason"),
    _Row("cache_hits", "Renditions found in a tier.", "tiers", "hits_", label="tier"),
    _Row("cache_misses", "Renditions not found in a tier.", "tiers", "misses_", label="tier"),
    _Row("cache_evictions", "Renditions evicted from a tier.", "tiers", "evictions_", label="tier"),
    _Row("cache_corrupt", "Rendition files deleted after a failed check.", "disk", "corrupt"),
    _Row(
        "cache_failures",
        "Failed file operations of the rendition disk.",
        "disk",
        "failures_",
        label="kind",
    ),
    _Row(
        "source_errors",
        "Originals that could not be opened.",
        "originals",
        "failures_",
        label="kind",
    ),
    _Row("database_errors", "Failed queries.", "queries", "errors"),
    _Row("database_queries", "Queries sent to the database.", "queries", "queries"),
    _Row("row_hits", "Rows found in the row cache.", "rows", "hits"),
    _Row("row_misses", "Rows read from the database.", "rows", "misses"),
    _Row("row_stale", "Expired rows served while the database failed.", "rows", "stale_answers"),
    _Row("ingest_takeovers", "Uploads taken over after a lease expired.", "ingest", "takeovers"),
    _Row("spans", "Spans of traces.", "spans", "", label="outcome"),
)


def readings(sources: Mapping[str, Statistics]) -> Iterator[MetricReading]:
    """Yield all metrics. ``sources`` has the statistics of the services by the names used above."""
    for row in (*_GAUGES, *(row._replace(counter=True) for row in _COUNTERS)):
        yield _reading(row, sources[row.source])
    yield MetricReading(
        "queue_depth",
        "Jobs that wait for a worker.",
        counter=False,
        label=None,
        read=lambda: {"": sources["admission"]()["waiting"] + sources["pool"]()["waiting"]},
    )


def with_old_names(metrics: Iterator[MetricReading]) -> Iterator[MetricReading]:
    """Yield each metric, and after it the metric under its old name; log which are renamed."""
    log.warning(
        "metrics_renamed",
        advice="the next release exposes only the new names",
        **{f"smartserve_{old}": f"smartserve_{new}" for old, new in RENAMED.items()},
    )
    old_names = {new: old for old, new in RENAMED.items()}
    for metric in metrics:
        yield metric
        if old := old_names.get(metric.name):
            text = f"Deprecated, removed in the next release: use smartserve_{metric.name}."
            yield replace(metric, name=old, text=text)


def by_tier(store: RenditionStore) -> Mapping[str, float]:
    """Return the statistics of all tiers in one mapping, as ``<figure>_<tier>``."""
    return {
        f"{key}_{tier}": value
        for tier, statistics in store.statistics().items()
        for key, value in statistics.items()
    }


def _reading(row: _Row, statistics: Statistics) -> MetricReading:
    read = partial(_labelled if row.label else _single, statistics, row.key)
    return MetricReading(row.name, row.text, counter=row.counter, label=row.label, read=read)


def _single(statistics: Statistics, key: str) -> Mapping[str, float]:
    return {"": statistics()[key]}


def _labelled(statistics: Statistics, prefix: str) -> Mapping[str, float]:
    return {
        name.removeprefix(prefix): figure
        for name, figure in statistics().items()
        if name.startswith(prefix)
    }
