"""The metrics that the services count themselves, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.domain.upload import Step
from proxy.telemetry.metrics import Statistics

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

    def read(self, sources: Mapping[str, Statistics]) -> Mapping[str, float]:
        """Return the figure of each label value; of "" without a label."""
        figures = sources[self.source]()
        if self.label is None:
            return {"": figures[self.key]}
        # The figures of a service are fixed, so the label values are a closed set.
        names = [name for name in figures if name.startswith(self.key)]
        return {name.removeprefix(self.key): figures[name] for name in names}


_GAUGES = (
    _Row("connections", "connections", "open", "Open connections."),
    _Row("renders_in_flight", "pool", "busy", "Jobs that workers process now."),
    _Row("queue_depth", "queue", "depth", "Jobs that wait for a worker."),
    _Row("workers", "pool", "up", "Running worker processes."),
    _Row("upgrade_backlog", "finals", "backlog", "Finals that are queued or being rendered."),
    _Row("upgrade_remakes", "finals", "remakes", "Renditions of another recipe that are queued."),
    _Row("face_workers", "faces", "up", "Running processes that detect faces."),
    _Row("cache_bytes", "tiers", "bytes_", "Bytes of stored renditions.", "tier"),
    _Row("cache_items", "tiers", "items_", "Stored renditions.", "tier"),
    _Row("cache_inodes", "disk", "inodes", "Inodes of the rendition disk; 0: no fixed number."),
    _Row("cache_inodes_free", "disk", "inodes_free", "Free inodes of the rendition disk."),
    _Row("object_tier_queued_bytes", "objects", "queued_bytes", "Renditions to write to a bucket."),
    _Row("object_tier_pending_purges", "objects", "pending_purges", "Media to purge in a bucket."),
    _Row("purge_lag_seconds", "purges", "lag_s", "Time since all purges of others were applied."),
    _Row("purges_unrecorded", "purges", "unrecorded", "Purges that other servers do not know yet."),
    _Row("redis_listening", "redis", "listening", "1 if messages of Redis arrive, else 0."),
    _Row("purge_shards", "disk", "discarded", "Shards (of 256) that a full purge has to delete."),
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
    _Row("http_originals_kept_bytes", "http_originals", "kept_bytes", "Fetched originals kept."),
    _Row("http_originals_open_circuits", "http_originals", "open_circuits", "Hosts paused."),
    _Row("metadata_engines", "metadata", "engines_up", "Running exiftool processes."),
    _Row("metadata_engines_expected", "metadata", "engines_expected", "Exiftools that should run."),
    _Row(
        "metadata_engine_peak_bytes", "metadata", "engine_peak_bytes", "Peak memory of an exiftool."
    ),
    _Row("metadata_workers", "metadata", "workers_up", "Processes that parse files."),
    _Row("metadata_waiting", "metadata", "waiting", "Files that wait for their extraction."),
    _Row("metadata_uploads", "metadata", "uploads", "Files that arrive, wait or are extracted."),
    _Row("metadata_pending_jobs", "metadata", "pending_jobs", "Unfinished jobs of all servers."),
    _Row("metadata_in_progress", "metadata", "inside", "Files that wait or are extracted."),
    _Row("metadata_sockets", "sockets", "open", "Open WebSockets."),
    _Row(
        "metadata_sockets_unsent_bytes",
        "sockets",
        "unsent_bytes",
        "Results that clients must read.",
    ),
)

_COUNTERS = (
    _Row("connections_closed", "connections", "closed_", "Closed connections.", "reason"),
    _Row("jobs", "pool", "jobs", "Jobs passed to the worker pool."),
    _Row("rejections", "admission", "rejected_", "Jobs rejected by admission.", "reason"),
    _Row("coalesced", "delivery", "joined", "Requests that waited for a render in progress."),
    _Row("render_waits", "leases", "waits_", "Waits for another process's render.", "outcome"),
    _Row("upgrades_dropped", "finals", "dropped", "Finals not queued, as the queue was full."),
    _Row("upgrades_failed", "finals", "failed", "Finals that could not be rendered."),
    _Row("face_detections", "faces", "detections_", "Detections of faces.", "outcome"),
    _Row("face_detection_seconds", "faces", "seconds", "Time of all detections of faces."),
    _Row("worker_exceptions", "pool", "exceptions", "Unexpected exceptions that workers caught."),
    _Row("worker_restarts", "pool", "restarts_", "Worker processes replaced.", "reason"),
    _Row("cache_hits", "tiers", "hits_", "Renditions found in a tier.", "tier"),
    _Row("cache_misses", "tiers", "misses_", "Renditions not found in a tier.", "tier"),
    _Row("cache_evictions", "tiers", "evictions_", "Renditions evicted from a tier.", "tier"),
    # Of the disk only: the memory tier has no such failures.
    _Row("cache_corrupt", "disk", "corrupt", "Rendition files deleted after a failed check."),
    _Row("cache_failures", "disk", "failures_", "Failed operations of the rendition disk.", "kind"),
    _Row("object_tier_reads", "objects", "reads_", "Look-ups in the bucket.", "outcome"),
    _Row("object_tier_writes", "objects", "writes_", "Renditions written to it.", "outcome"),
    _Row("object_tier_dropped", "objects", "dropped_", "Renditions not written to it.", "reason"),
    _Row("object_tier_failures", "objects", "failures_", "Failed requests to it.", "kind"),
    _Row("source_errors", "originals", "failures_", "Originals that cannot be opened.", "kind"),
    _Row("http_originals_requests", "http_originals", "requests", "Requests for originals."),
    _Row("http_originals_not_modified", "http_originals", "not_modified", "Answers with 304."),
    _Row("http_originals_fetched_bytes", "http_originals", "fetched_bytes", "Bytes received."),
    _Row("http_originals_refused", "http_originals", "refused", "Addresses that [http] forbids."),
    _Row("database_errors", "queries", "errors", "Failed queries."),
    _Row("database_queries", "queries", "queries", "Queries sent to the database."),
    _Row("row_hits", "rows", "hits", "Rows found in the row cache."),
    _Row("row_misses", "rows", "misses", "Rows read from the database."),
    _Row("purges_applied", "purges", "applied", "Purges of other servers that were applied."),
    _Row("purge_wake_ups", "purges", "wake_ups", "Reads of the purge table at once, by Redis."),
    _Row("redis_failures", "redis", "failures", "Failed commands and connections to Redis."),
    _Row("rows_changed", "purges", "changed", "Cached rows that somebody has changed."),
    _Row("row_stale", "rows", "stale_answers", "Expired rows served while the database failed."),
    _Row("ingest_takeovers", "ingest", "takeovers", "Uploads taken over after a lease expired."),
    _Row("metadata_extractions", "metadata", "extractions_", "Extractions.", "outcome"),
    _Row("metadata_cache_hits", "metadata", "cached", "Extractions found in the cache."),
    _Row("metadata_cache_misses", "metadata", "extracted", "Files that were extracted."),
    _Row("metadata_rejections", "metadata", "rejected_", "Files that were rejected.", "reason"),
    _Row("metadata_jobs", "metadata", "jobs_", "Metadata jobs that ended.", "outcome"),
    _Row("metadata_callbacks", "metadata", "callbacks_", "Callbacks that ended.", "outcome"),
    _Row("metadata_start_failures", "metadata", "failed_starts", "Engines that did not start."),
    _Row("metadata_fallbacks", "metadata", "fallbacks_", "Files read by the fallback.", "reason"),
    _Row("metadata_sockets_accepted", "sockets", "accepted", "WebSockets that were opened."),
    _Row("metadata_sockets_refused", "sockets", "refused", "WebSockets that were refused."),
    _Row("metadata_socket_analyses", "sockets", "analyses", "Analyses requested on WebSockets."),
    _Row("metadata_socket_failures", "sockets", "failed", "Socket analyses that failed."),
    _Row("metadata_engine_restarts", "metadata", "restarts_", "exiftool replaced.", "reason"),
    _Row("metadata_worker_restarts", "metadata", "worker_restarts_", "Parsers replaced.", "reason"),
    _Row("log_lines_dropped", "log", "dropped", "Log lines that nobody read or that failed."),
    _Row("spans", "spans", "", "Spans of traces.", "outcome"),
)


class ServiceCollector:
    """A Prometheus collector of the figures that services count themselves."""

    def __init__(self, sources: Mapping[str, Statistics]) -> None:
        """Log which metrics are renamed. ``sources`` are named as in the tables above."""
        self._sources = sources
        log.warning(
            "metrics_renamed",
            advice="the next release exposes only the new names",
            **{f"smartserve_{old}": f"smartserve_{new}" for old, new in RENAMED.items()},
        )

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, and after a renamed one the metric under its old name."""
        old_names = {new: old for old, new in RENAMED.items()}
        for rows, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for row in rows:
                yield self._family(kind, row)
                if old := old_names.get(row.name):
                    text = f"Deprecated, removed in the next release: use smartserve_{row.name}."
                    yield self._family(kind, row._replace(name=old, text=text))

    def _family(self, kind: type[GaugeMetricFamily | CounterMetricFamily], row: _Row) -> Metric:
        labels = [] if row.label is None else [row.label]
        family = kind(f"smartserve_{row.name}", row.text, labels=labels)
        for value, figure in row.read(self._sources).items():
            family.add_metric([value] if labels else [], figure)
        return family
