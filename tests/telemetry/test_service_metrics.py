"""The metrics that services count themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from proxy.app.metadata import metadata_statistics
from proxy.domain.upload import Step
from proxy.runtime.redis import UNUSED
from proxy.serving.render_lease import NO_WAITS
from proxy.storage.renditions.disk_state import NO_OBJECT_TIER
from proxy.telemetry.metrics import Metrics, Statistics
from proxy.telemetry.service_metrics import RENAMED, ServiceCollector
from proxy.web.handlers.metadata_sockets import OpenSockets

INGEST = dict.fromkeys(
    ("stuck", "oldest_s", "failed_for_good", "held", "run_out", "takeovers", "items_queued"), 1.0
)


def sources(**changed: Mapping[str, float]) -> dict[str, Statistics]:
    figures: dict[str, Mapping[str, float]] = {
        "connections": {"open": 3, "closed_ended": 5, "closed_idle_timeout": 6},
        "admission": {"rejected_queue_full": 0},
        "pool": {"busy": 1, "up": 2, "jobs": 9, "exceptions": 0, "restarts_crash": 0},
        "queue": {"depth": 6},
        "upload_usage": {"busy": 0},
        "faces": {"up": 0, "detections_found": 0, "seconds": 0},
        "delivery": {"joined": 0},
        "leases": NO_WAITS,
        "finals": {"backlog": 0, "remakes": 0, "dropped": 0, "failed": 0},
        "originals": {"failures_missing": 0},
        "http_originals": Counter(),
        "objects": NO_OBJECT_TIER,
        "queries": {"errors": 0, "queries": 0},
        "purges": {"lag_s": 0.5, "unrecorded": 0, "applied": 0, "changed": 0, "wake_ups": 0},
        "redis": UNUSED,
        "rows": {"hits": 0, "misses": 0, "stale_answers": 0, "items": 0},
        "tiers": {"bytes_memory": 10, "bytes_disk": 20},
        "disk": {"inodes": 0, "inodes_free": 0, "corrupt": 0, "discarded": 0, "failures_io": 0},
        "ingest": {**INGEST, **{f"{step}_pending": 0.0 for step in Step}},
        "step_timeouts": {"hanging": 0},
        "metadata": metadata_statistics(None),
        "sockets": OpenSockets(max_sockets=1, max_per_user=1).statistics(),
        "log": {"dropped": 0},
        "spans": {"sent": 0, "queue_full": 0, "failed": 0},
        **changed,
    }
    return {name: lambda values=values: values for name, values in figures.items()}  # type: ignore[misc]


def registry(**changed: Mapping[str, float]) -> CollectorRegistry:
    metrics = Metrics()
    metrics.registry.register(ServiceCollector(sources(**changed)))
    return metrics.registry


def test_a_figure_is_the_value_of_its_metric() -> None:
    assert registry().get_sample_value("smartserve_connections") == 3


def test_figures_with_a_prefix_are_the_label_values_of_one_metric() -> None:
    found = registry()
    for reason, count in (("ended", 5), ("idle_timeout", 6)):
        value = found.get_sample_value("smartserve_connections_closed_total", {"reason": reason})
        assert value == count
    assert found.get_sample_value("smartserve_cache_bytes", {"tier": "disk"}) == 20


def test_figures_are_read_at_each_scrape() -> None:
    pool = {"busy": 1.0, "up": 2, "jobs": 9, "exceptions": 0, "restarts_crash": 0}
    found = registry(pool=pool)
    pool["up"] = 1
    assert found.get_sample_value("smartserve_workers") == 1


def test_a_renamed_metric_is_exposed_under_both_names_and_logged_once() -> None:
    with capture_logs() as logs:
        found = registry()
    for old, new in RENAMED.items():
        assert found.get_sample_value(f"smartserve_{old}") == 1
        assert found.get_sample_value(f"smartserve_{new}") == 1
    (line,) = logs
    assert line["event"] == "metrics_renamed"
    assert line["smartserve_ingest_leases_held"] == "smartserve_ingest_leases_active"


def test_the_help_text_of_an_old_name_says_what_to_use() -> None:
    metrics = Metrics()
    metrics.registry.register(ServiceCollector(sources()))
    text = metrics.exposition()[0].decode()
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("# HELP smartserve_ingest_leases_held ")
    ]
    assert "use smartserve_ingest_leases_active" in line


def test_every_figure_of_the_extraction_is_exported() -> None:
    found = registry(metadata={**metadata_statistics(None), "engines_up": 2, "restarts_crash": 3})
    assert found.get_sample_value("smartserve_metadata_engines") == 2
    restarts = "smartserve_metadata_engine_restarts_total"
    assert found.get_sample_value(restarts, {"reason": "crash"}) == 3
    assert found.get_sample_value("smartserve_metadata_fallbacks_total", {"reason": "died"}) == 0


def test_every_figure_of_the_sockets_is_exported() -> None:
    figures = OpenSockets(max_sockets=1, max_per_user=1).statistics()
    found = registry(sockets={name: number for number, name in enumerate(figures, 1)})
    names = ("sockets", "sockets_unsent_bytes", "sockets_accepted_total", "sockets_refused_total")
    others = ("socket_analyses_total", "socket_failures_total")
    values = [found.get_sample_value(f"smartserve_metadata_{name}") for name in (*names, *others)]
    assert values == [1, 2, 3, 4, 5, 6]
