"""Smartserve's own counts, read from ``/metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import parser

from tests.benchmarks.client import get
from tests.benchmarks.servers import Address

Kind = tuple[str, str, str, str]
"""Source, size, format and status of a response."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Image requests by kind, and seconds and counts by stage, since the start."""

    requests: Counter[Kind]
    stages: dict[str, tuple[float, float]]
    """Count and seconds."""

    def since(self, before: Scrape) -> Counter[Kind]:
        """Return the image requests that were answered since another scrape."""
        return self.requests - before.requests

    def mean_ms(self, stage: str) -> float:
        """Return the average milliseconds of a stage."""
        count, seconds = self.stages.get(stage, (0.0, 0.0))
        return 1000 * seconds / count if count else 0.0


def scrape(address: Address) -> Scrape:
    """Return what a server has counted so far."""
    samples = list(_samples(get(address, "/metrics").body.decode()))
    requests: Counter[Kind] = Counter()
    for sample in samples:
        labels = sample.labels
        if sample.name == "smartserve_requests_total" and labels["route"] == "serve":
            kind = (labels["source"], labels["size"], labels["format"], labels["status"])
            requests[kind] += int(sample.value)
    counts = _by_stage(samples, "count")
    seconds = _by_stage(samples, "sum")
    return Scrape(requests, {stage: (counts[stage], seconds[stage]) for stage in counts})


def figure(address: Address, name: str) -> float:
    """Return the sum of a metric's samples, or 0 if there are none."""
    samples = _samples(get(address, "/metrics").body.decode())
    return float(sum(sample.value for sample in samples if sample.name == name))


def _samples(text: str) -> Iterable[Any]:
    for family in parser.text_string_to_metric_families(text):
        yield from family.samples


def _by_stage(samples: Iterable[Any], suffix: str) -> dict[str, float]:
    name = f"smartserve_stage_seconds_{suffix}"
    return {sample.labels["stage"]: sample.value for sample in samples if sample.name == name}
