"""The metrics of several server processes as those of one.

prometheus_client's own multiprocess mode loses exemplars and custom collectors. Here each process
takes a snapshot of its registry, as JSON. The parent adds the snapshots of the processes that run
to the totals of those that have ended, so that no counter goes backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Snapshot = list[dict[str, Any]]
"""Metric families: name, documentation, type, unit and samples. A sample is a list of its name,
labels, value and exemplar; the exemplar has labels, value and time, or is None."""

_ADDITIVE = ("counter", "histogram")
_MAX_SUFFIXES = ("_info", "_seconds", "_peak_bytes")
"""Versions, ages and peaks: the sum over processes has no meaning."""
_MAXIMA = frozenset(
    {
        # Each process reads these from the database that all share.
        *("smartserve_pending_images", "smartserve_lost_upload_files"),
        *("smartserve_metadata_pending_jobs", "smartserve_ingest_items"),
        *("smartserve_ingest_stuck", "smartserve_ingest_failed"),
        *("smartserve_ingest_leases_active", "smartserve_ingest_leases_expired"),
        *("smartserve_ingest_leases_held", "smartserve_ingest_leases_run_out"),
        *("smartserve_ingest_retrieve_file", "smartserve_ingest_ai_visual_analysis"),
        *("smartserve_ingest_resize_optimize", "smartserve_ingest_update_callback"),
        "smartserve_ingest_unreadable_entries",
    }
)
_MINIMA = frozenset({"smartserve_sandbox", "smartserve_redis_listening"})
"""1 only if it is 1 in every process."""
_SHARED_TIERS = ("disk",)
"""Values of the label ``tier`` of gauges that describe what all processes share."""

Values = Mapping[tuple[tuple[str, str], ...], float]
"""Values of a metric by their labels."""
_Key = tuple[str, tuple[tuple[str, str], ...]]
_Combine = Callable[[float, float], float]


def snapshot_of(families: Iterable[Any]) -> Snapshot:
    """Return the collected families of a registry as JSON."""
    return [
        {
            "name": family.name,
            "documentation": family.documentation,
            "type": family.type,
            "unit": family.unit,
            "samples": [
                [
                    sample.name,
                    dict(sample.labels),
                    # JSON has no such numbers.
                    sample.value if math.isfinite(sample.value) else 0.0,
                    _exemplar(sample.exemplar),
                ]
                for sample in family.samples
            ],
        }
        for family in families
    ]


def _exemplar(exemplar: Any) -> list[Any] | None:
    if exemplar is None:
        return None
    return [dict(exemplar.labels), exemplar.value, exemplar.timestamp]


def summed(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return one snapshot: sums, or the maximum or minimum where a sum has no meaning.

    Of several exemplars of a bucket the latest is used.
    """
    families: dict[str, dict[str, Any]] = {}
    samples: dict[str, dict[_Key, list[Any]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            name = family["name"]
            families.setdefault(name, {**family, "samples": []})
            _add(samples.setdefault(name, {}), family)
    return [
        {**family, "samples": list(samples[name].values())} for name, family in families.items()
    ]


def _add(into: dict[_Key, list[Any]], family: Mapping[str, Any]) -> None:
    for name, labels, value, exemplar in family["samples"]:
        key = name, tuple(sorted(labels.items()))
        known = into.get(key)
        if known is None:
            into[key] = [name, labels, value, exemplar]
            continue
        known[2] = _rule(family, labels)(known[2], value)
        known[3] = _latest(known[3], exemplar)


def _rule(family: Mapping[str, Any], labels: Mapping[str, str]) -> _Combine:
    name = family["name"]
    if family["type"] in _ADDITIVE:
        return _sum
    if name in _MINIMA:
        return min
    shared = labels.get("tier") in _SHARED_TIERS
    return max if shared or name in _MAXIMA or name.endswith(_MAX_SUFFIXES) else _sum


def _sum(one: float, other: float) -> float:
    return one + other


def _latest(one: list[Any] | None, other: list[Any] | None) -> list[Any] | None:
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda exemplar: exemplar[2] or 0)


def totals_of(snapshot: Snapshot) -> Snapshot:
    """Return what remains of a process that has ended: its counters and histograms."""
    return [family for family in snapshot if family["type"] in _ADDITIVE]


def family(kind: str, name: str, documentation: str, values: Values) -> dict[str, Any]:
    """Return a family of a counter or gauge with these values, by their labels."""
    sample = f"{name}_total" if kind == "counter" else name
    return {
        "name": name,
        "documentation": documentation,
        "type": kind,
        "unit": "",
        "samples": [[sample, dict(labels), value, None] for labels, value in values.items()],
    }


class SummedCollector:
    """Yields a snapshot as the families of a registry."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        """Yield all families."""
        # Imported here: the parent process only adds.
        from prometheus_client.core import Metric  # noqa: PLC0415
        from prometheus_client.samples import Exemplar  # noqa: PLC0415

        for one in self._snapshot:
            metric = Metric(one["name"], one["documentation"], one["type"], one["unit"])
            for name, labels, value, exemplar in one["samples"]:
                found = None if exemplar is None else Exemplar(*exemplar)
                metric.add_sample(name, labels, value, exemplar=found)
            yield metric
