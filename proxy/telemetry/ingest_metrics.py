"""Metrics of the ingest worker."""

from __future__ import annotations

from functools import partial
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Histogram

from proxy.domain.media import DataType
from proxy.domain.upload import ItemOutcome, Step

_NAMESPACE = "smartserve"
STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds: from an HTTP callback to the analysis by a large model."""


class IngestMetrics:
    """Metrics of the ingest worker; those of its queue are read at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, namespace=_NAMESPACE, registry=registry)
        self._steps = Histogram(
            "ingest_step_seconds",
            "Duration of an attempt at a step of an upload.",
            ["step", "type"],
            namespace=_NAMESPACE,
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._attempts = counter(
            "ingest_attempts", "Attempts at a step of an upload.", ["step", "outcome"]
        )
        self._polls = counter(
            "ingest_polls", "Requests to the main API for pending uploads.", ["outcome"]
        )
        self._processed = counter("ingest_uploads", "Uploads processed.", ["outcome"])
        for outcome in ("ok", "failed"):
            self._polls.labels(outcome)
        for step, outcome in product(Step, ("ok", "failed", "overdue")):
            self._attempts.labels(step, outcome)
        for item_outcome in ItemOutcome:
            self._processed.labels(item_outcome)

    def step(self, step: Step, data_type: DataType, *, seconds: float, outcome: str) -> None:
        """Record an attempt at a step with its outcome: ``ok``, ``failed`` or ``overdue``."""
        self._steps.labels(step, data_type).observe(seconds)
        self._attempts.labels(step, outcome).inc()

    def polled(self, outcome: str) -> None:
        """Count a request for pending uploads: ``ok`` or ``failed``."""
        self._polls.labels(outcome).inc()

    def processed(self, outcome: str) -> None:
        """Count a processed upload; ``outcome`` is an `ItemOutcome`."""
        self._processed.labels(outcome).inc()
