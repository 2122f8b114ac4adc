"""The metrics that the services count themselves, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import structlog

from proxy.domain.upload import Step
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
    source: str
    key: str
    text: str
    label: str | None = None


_GAUGES = (
    _Row("connections", "connections", "open", "Open connections."),
    _Row("renders_in_flight", "pool", "busy", "Jobs that workers process now."),
    _Row("workers", "pool", "up", "Running worker processes."),
    _Row("upgrade_backlog", "finals", "backlog", "Finals that are queued or being rendered."),
    _Row("cache_bytes", "tiers", "bytes_", "Bytes of stored renditions.", "tier"),
    _Row("cache_items", "tiers", "items_", "Stored renditions.", "tier"),
    _Row("row_items", "rows", "items", "Rows in the row cache."),
    _Row("ingest_items", "ingest", "items_", "Uploads in the ingest queue.", "state"),
    *(
        _Row(f"ingest_{step}", "ingest", f"{step}_", f"Recent uploads by state of {step}.", "state")
        for step in Step
    ),
    _Row("ingest_stuck", "ingest", "stuck", "Uploads neither done nor failed after an hour."),
    _Row("ingest_oldest_seconds", "ingest", "oldest_s", "Age of the oldest unfinished upload."),
    _Row("ingest_failed", "ingest", "failed_for_good", "Uploads that failed permanently."),
    _Row("ingest_leases_active", "ingest", "held", "Leases held by ingest workers."),
    _Row("ingest_leases_expired", "ingest", "run_out", "Leases that any worker may take over."),
    _Row("ingest_renders_in_flight", "upload_usage", "busy", "Jobs for uploads in workers now."),
    _Row("ingest_steps_hanging", "step_timeouts", "hanging", "Overdue steps that do not end."),
)

_COUNTERS = (
    _Row("connections_closed", "connections", "closed_", "Closed connections.", "reason"),
    _Row("jobs", "pool", "jobs", "Jobs passed to the worker pool."),
    _Row("rejections", "admission", "rejected_", "Jobs rejected by admission.", "reason"),
    _Row("coalesced", "delivery", "joined", "Requests that waited for a render in progress."),
    _Row("upgrades_dropped", "finals", "dropped", "Finals not queued, as the queue was full."),
    _Row("upgrades_failed", "finals", "failed", "Finals that could not be rendered."),
    _Row("worker_restarts", "pool", "restarts_", "Worker processes replaced.", "reason"),
    _Row("cache_hits", "tiers", "hits_", "Renditions found in a tier.", "tier"),
    _Row("cache_misses", "tiers", "misses_", "Renditions not found in a tier.", "tier"),
    _Row("cache_evictions", "tiers", "evictions_", "Renditions evicted from a tier.", "tier"),
    # Of the disk only: the memory tier has no such failures.
    _Row("cache_corrupt", "disk", "corrupt", "Rendition files deleted after a failed check."),
    _Row("cache_failures", "disk", "failures_", "Failed operations of the rendition disk.", "kind"),
    _Row("source_errors", "originals", "failures_", "Originals that cannot be opened.", "kind"),
    _Row("database_errors", "queries", "errors", "Failed queries."),
    _Row("database_queries", "queries", "queries", "Queries sent to the database."),
    _Row("row_hits", "rows", "hits", "Rows found in the row cache."),
    _Row("row_misses", "rows", "misses", "Rows read from the database."),
    _Row("row_stale", "rows", "stale_answers", "Expired rows served while the database failed."),
    _Row("ingest_takeovers", "ingest", "takeovers", "Uploads taken over after a lease expired."),
    _Row("spans", "spans", "", "Spans of traces.", "outcome"),
)


def readings(sources: Mapping[str, Statistics]) -> Iterator[MetricReading]:
    """Yield all metrics. ``sources`` has the statistics of the services by the names used above."""
    for rows, counter in ((_GAUGES, False), (_COUNTERS, True)):
        for row in rows:
            read = partial(_labelled if row.label else _single, sources[row.source], row.key)
            yield MetricReading(row.name, row.text, counter=counter, label=row.label, read=read)
    # Not a row of the tables: jobs wait in admission first, then in the pool.
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


def _single(statistics: Statistics, key: str) -> Mapping[str, float]:
    return {"": statistics()[key]}


def _labelled(statistics: Statistics, prefix: str) -> Mapping[str, float]:
    # The figures of a service are fixed, so the label values are a closed set.
    return {
        name.removeprefix(prefix): figure
        for name, figure in statistics().items()
        if name.startswith(prefix)
    }
