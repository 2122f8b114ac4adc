"""What the running server has counted since it started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

from proxy.doctor import CheckBlocked, Diagnosis, failed, skipped, warned, well
from proxy.doctor.figures import as_time
from proxy.doctor.http_client import HttpProbe
from proxy.doctor.http_client.figures import Figures, Labels, read_figures
from proxy.domain.errors import NoAnswer

_DEATHS = frozenset({"crash", "deadline", "oversize", "protocol", "start"})
_P99 = 0.99
_SLOW_S, _LATE_S = 0.1, 0.1
_FEW = 100
"""Fewer requests than these tell nothing of a ratio."""
_NOT_FOR_LONG = "since it started; rate() in Prometheus tells whether it goes on"


async def look(server: HttpProbe) -> Figures:
    """Read the figures."""
    try:
        answer = await server.ask("/metrics")
        if answer.status != HTTPStatus.OK:
            raise CheckBlocked(skipped(f"/metrics is answered {answer.status} at {server.base}"))
        return read_figures(answer.body)
    except NoAnswer as error:
        raise CheckBlocked(skipped(f"/metrics: {error.detail}")) from error


def version_of(figures: Figures) -> str:
    """The version that runs."""
    infos = figures.of("smartserve_build_info")
    return next((one.labels.get("version", "") for one in infos), "")


def judge_hits(seen: Figures) -> Diagnosis:
    """How much comes out of the cache, and how quickly."""
    by_source = seen.by("smartserve_requests_total", "source")
    hits = sum(by_source.get(tier, 0.0) for tier in ("memory", "disk", "not_modified"))
    made = sum(by_source.get(source, 0.0) for source in ("render", "coalesced", "fallback"))
    p99 = seen.quantile("smartserve_first_byte_seconds", _P99, _kept)
    count = hits + made
    if not count:
        return well("no picture was asked for yet")
    ratio = f"{hits / count:.1%} of {count:g} pictures were there"
    if math.isnan(p99):
        return well(ratio)
    told = f"{ratio}; first byte of these below {as_time(p99)} in 99 of 100"
    if p99 <= _SLOW_S or count < _FEW:
        return well(told)
    return warned(told, "a core for the server itself (fewer workers.count), or a quicker disk")


def _kept(labels: Labels) -> bool:
    return labels.get("source") in {"memory", "disk"}


def judge_loop(seen: Figures) -> Diagnosis:
    """Whether the event loop is late."""
    p99 = seen.quantile("smartserve_loop_lag_seconds", _P99)
    if math.isnan(p99):
        return skipped("nothing is measured yet")
    told = f"late by less than {as_time(p99)} in 99 of 100"
    if p99 <= _LATE_S:
        return well(told)
    return warned(told, "the server lacks a core: fewer workers.count, or more cores")


def judge_workers(seen: Figures) -> Diagnosis:
    """Whether workers are up and stay so."""
    up = seen.total("smartserve_workers")
    restarts = seen.by("smartserve_worker_restarts_total", "reason")
    deaths = {reason: count for reason, count in restarts.items() if reason in _DEATHS}
    told = f"{up:g} up" + (f"; ended by {_listed(deaths)} {_NOT_FOR_LONG}" if deaths else "")
    if not up:
        return warned(told, "the server's log has worker_start_failed, with the reason")
    if not deaths:
        return well(told)
    advice = (
        "worker_died and answer_failed in the log name the media_id; dmesg tells whether memory"
        " was short"
    )
    return warned(told, advice)


def judge_refused(seen: Figures) -> Diagnosis:
    """Whether pictures are refused: those that killed two workers are, for a while."""
    refused = seen.total("smartserve_requests_total", _unprocessable)
    if not refused:
        return well("no picture was refused")
    advice = (
        "answer_failed in the log names the media_id: damaged, past a limit, or in quarantine as"
        " it killed two workers"
    )
    return warned(f"{refused:g} answers were 422 {_NOT_FOR_LONG}", advice)


def _unprocessable(labels: Labels) -> bool:
    return labels.get("status") == str(int(HTTPStatus.UNPROCESSABLE_ENTITY))


def judge_rejections(seen: Figures) -> Diagnosis:
    """Whether renders are turned away."""
    found = seen.by("smartserve_rejections_total", "reason")
    found.pop("shutdown", None)
    if not found:
        return well("none was turned away")
    advice = (
        "more misses than the cores can render: 'smartserve warm' ahead of time, a CDN that"
        " caches, more cores"
    )
    return warned(f"{_listed(found)} {_NOT_FOR_LONG}", advice)


def judge_disk(seen: Figures) -> Diagnosis:
    """Whether the disk cache failed, or gave back what was not put in."""
    found = seen.by("smartserve_cache_failures_total", "kind")
    if corrupt := seen.total("smartserve_cache_corrupt_total"):
        found["damaged files"] = corrupt
    if not found:
        return well("no failure")
    advice = (
        "no_space: free some, or lower renditions.disk_max_bytes (df -i too); else dmesg: the"
        " disk is failing"
    )
    return warned(f"{_listed(found)} {_NOT_FOR_LONG}", advice)


def judge_database(seen: Figures) -> Diagnosis:
    """Whether queries failed."""
    errors = seen.total("smartserve_database_errors_total")
    queries = seen.total("smartserve_database_queries_total")
    told = f"{errors:g} of {queries:g} queries failed"
    if not errors:
        return well(told)
    advice = "was it up all the time, and is max_connections enough? Known pictures went on"
    return warned(f"{told} {_NOT_FOR_LONG}", advice)


def judge_sources(seen: Figures) -> Diagnosis:
    """Whether originals could not be opened."""
    found = seen.by("smartserve_source_errors_total", "kind")
    if not found:
        return well("all could be opened")
    advice = "answer_failed in the log has the media_id; unavailable and timeout: see the mount"
    return warned(f"{_listed(found)} {_NOT_FOR_LONG}", advice)


def judge_errors(seen: Figures) -> Diagnosis:
    """Whether answers were our own fault, or connections were turned away."""
    statuses = seen.by("smartserve_requests_total", "status")
    found = {status: count for status, count in statuses.items() if status.startswith("5")}
    closed = seen.by("smartserve_connections_closed_total", "reason")
    if over := closed.get("over_limit"):
        found["connections over the limit"] = over
    if not found:
        return well("no answer was 5xx")
    advice = (
        "500: request_failed in the log has the traceback, report it; 503: see what is turned"
        " away here; over the limit: server.max_connections, LimitNOFILE="
    )
    return warned(f"{_listed(found)} {_NOT_FOR_LONG}", advice)


def judge_steps(seen: Figures) -> Diagnosis:
    """Whether steps of uploads were given up and cannot even be ended."""
    hanging = seen.total("smartserve_ingest_steps_hanging")
    if not hanging:
        return well("none hangs")
    advice = "step_hangs in the log names the steps: see the mount of the storage they wait for"
    return failed(f"{hanging:g} given up, and not back", advice)


def judge_sandbox(seen: Figures) -> Diagnosis:
    """Whether the server's own workers are locked in."""
    gaps = sorted(
        one.labels.get("feature", "") for one in seen.of("smartserve_sandbox") if not one.value
    )
    held = sorted(
        one.labels.get("feature", "") for one in seen.of("smartserve_sandbox") if one.value
    )
    if gaps:
        advice = "sandbox_incomplete in the server's log has the reason of each"
        return warned(f"does not hold: {', '.join(gaps)}", advice)
    if not held:
        return warned("workers.sandbox = false", "set it to true, and restart")
    return well(", ".join(held))


def _listed(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in sorted(found.items()))
