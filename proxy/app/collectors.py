"""Readings: which figures of which room Prometheus sees, and under what name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from proxy.domain.pending_image import Step
from proxy.storage.renditions import RenditionStore
from proxy.telemetry.metrics import MetricReading, Statistics

_TIERS = ("memory", "disk")


@dataclass(frozen=True, slots=True)
class MetricSources:
    """Where the figures come from: the ``statistics`` of each room."""

    connections: Statistics
    admission: Statistics
    pool: Statistics
    delivery: Statistics
    upgrader: Statistics
    originals: Statistics
    queries: Statistics
    rows: Statistics
    store: RenditionStore
    ingest: Statistics
    spans: Statistics
    uploads: Statistics
    deadlines: Statistics


def readings(sources: MetricSources) -> Iterator[MetricReading]:
    """All figures that the services keep themselves."""
    yield from _connections(sources.connections)
    yield from _workers(sources)
    yield from _renditions(sources.store)
    yield from _storage(sources)
    yield from _ingest(sources.ingest)
    yield _counters("spans", "Spans of traces.", "outcome", _by(sources.spans, ""))
    text = "Jobs of pictures that come in, of those at work in a worker."
    yield _gauge("ingest_renders_in_flight", text, sources.uploads, "busy")
    text = "Steps of uploads that were given up and have not come back."
    yield _gauge("ingest_steps_hanging", text, sources.deadlines, "hanging")


def _connections(statistics: Statistics) -> Iterator[MetricReading]:
    yield _gauge("connections", "Connections that are open.", statistics, "open")
    closed = _by(statistics, "closed_")
    yield _counters("connections_closed", "Connections closed.", "reason", closed)


def _workers(sources: MetricSources) -> Iterator[MetricReading]:
    gate, pool = sources.admission, sources.pool
    waiting = _figure(gate, "waiting"), _figure(pool, "waiting")
    depth = {"": lambda: sum(figure() for figure in waiting)}
    yield _gauges("queue_depth", "Jobs waiting for a worker.", None, depth)
    yield _gauge("renders_in_flight", "Jobs at work in a worker.", pool, "busy")
    yield _counter("jobs", "Jobs given to the workers.", pool, "jobs")
    yield _counters("rejections", "Jobs turned away.", "reason", _by(gate, "rejected_"))
    yield _counter(
        "coalesced", "Requests that joined a render under way.", sources.delivery, "joined"
    )
    yield _gauge("workers", "Worker processes that are up.", pool, "up")
    text = "Finals wished for and not yet made."
    yield _gauge("upgrade_backlog", text, sources.upgrader, "backlog")
    text = "Wishes for finals forgotten as the queue was full."
    yield _counter("upgrades_dropped", text, sources.upgrader, "dropped")
    text = "Finals that could not be made."
    yield _counter("upgrades_failed", text, sources.upgrader, "failed")
    restarts = _by(pool, "restarts_")
    yield _counters("worker_restarts", "Worker processes replaced.", "reason", restarts)


def _renditions(store: RenditionStore) -> Iterator[MetricReading]:
    def tier(name: str) -> Statistics:
        return lambda: store.statistics()[name]

    def tiers(key: str) -> Mapping[str, Callable[[], float]]:
        return {name: _figure(tier(name), key) for name in _TIERS}

    yield _gauges("cache_bytes", "Bytes kept.", "tier", tiers("bytes"))
    yield _gauges("cache_items", "Renditions kept.", "tier", tiers("items"))
    yield _counters("cache_hits", "Renditions found.", "tier", tiers("hits"))
    yield _counters("cache_misses", "Renditions not found.", "tier", tiers("misses"))
    yield _counters("cache_evictions", "Renditions dropped for room.", "tier", tiers("evictions"))
    disk = tier("disk")
    yield _counter("cache_corrupt", "Files that failed their check.", disk, "corrupt")
    text = "File operations of the disk cache that failed."
    yield _counters("cache_failures", text, "kind", _by(disk, "failures_"))


def _storage(sources: MetricSources) -> Iterator[MetricReading]:
    queries, rows = sources.queries, sources.rows
    text = "Originals that could not be opened."
    yield _counters("source_errors", text, "kind", _by(sources.originals, "failures_"))
    yield _counter("database_errors", "Queries that failed.", queries, "errors")
    yield _counter("database_queries", "Queries asked.", queries, "queries")
    yield _counter("row_hits", "Rows found in the row cache.", rows, "hits")
    yield _counter("row_misses", "Rows that the database was asked for.", rows, "misses")
    text = "Rows served as last seen while the database was down."
    yield _counter("row_stale", text, rows, "stale_answers")
    yield _gauge("row_items", "Rows in the row cache.", rows, "items")


def _ingest(queue: Statistics) -> Iterator[MetricReading]:
    yield _gauges("ingest_items", "Uploads in the queue.", "state", _by(queue, "items_"))
    for step in Step:
        text = f"Uploads not done, or done within the hour, by how {step} stands."
        yield _gauges(f"ingest_{step}", text, "state", _by(queue, f"{step}_"))
    text = "Uploads neither done nor failed for good an hour after they came."
    yield _gauge("ingest_stuck", text, queue, "stuck")
    text = "How long the oldest upload that is not done has been there; 0 where there is none."
    yield _gauge("ingest_oldest_seconds", text, queue, "oldest_s")
    text = "Uploads that failed for good."
    yield _gauge("ingest_failed", text, queue, "failed_for_good")
    yield _gauge("ingest_leases_held", "Leases that run.", queue, "held")
    text = "Leases that ran out; their uploads wait to be taken over."
    yield _gauge("ingest_leases_run_out", text, queue, "run_out")
    text = "Uploads taken over from workers that were gone."
    yield _counter("ingest_takeovers", text, queue, "takeovers")


def _gauge(name: str, text: str, statistics: Statistics, key: str) -> MetricReading:
    return MetricReading(
        name, text, counter=False, label=None, figures={"": _figure(statistics, key)}
    )


def _counter(name: str, text: str, statistics: Statistics, key: str) -> MetricReading:
    return MetricReading(
        name, text, counter=True, label=None, figures={"": _figure(statistics, key)}
    )


def _gauges(
    name: str, text: str, label: str | None, figures: Mapping[str, Callable[[], float]]
) -> MetricReading:
    return MetricReading(name, text, counter=False, label=label, figures=figures)


def _counters(
    name: str, text: str, label: str, figures: Mapping[str, Callable[[], float]]
) -> MetricReading:
    return MetricReading(name, text, counter=True, label=label, figures=figures)


def _by(statistics: Statistics, prefix: str) -> Mapping[str, Callable[[], float]]:
    """A label value for each figure that begins with ``prefix``; a room's figures never change."""
    return {
        name.removeprefix(prefix): _figure(statistics, name)
        for name in statistics()
        if name.startswith(prefix)
    }


def _figure(statistics: Statistics, key: str) -> Callable[[], float]:
    return lambda: statistics()[key]
