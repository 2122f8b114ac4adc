"""The HTTP server and the metrics of all services."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.services import open_services
from proxy.app.uploads import open_uploads
from proxy.app.web import build_http_server
from tests.support.server import Library, Serving, make_settings


async def test_every_service_has_its_metrics(shared: Serving) -> None:
    names = {family.name for family in shared.services.metrics.registry.collect()}
    assert {
        "smartserve_connections",
        "smartserve_queue_depth",
        "smartserve_cache_bytes",
        "smartserve_row_items",
        "smartserve_ingest_items",
        "smartserve_spans",
        "smartserve_background_restarts",
    } <= names


async def test_the_queue_depth_counts_jobs_before_and_behind_the_admission(
    shared: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendering = shared.services.rendering
    for part, waiting in ((rendering.admission, 2), (rendering.pool, 4)):
        figures = {**part.statistics(), "waiting": waiting}
        monkeypatch.setattr(part, "statistics", lambda figures=figures: figures)
    assert shared.metric("smartserve_queue_depth") == 6


async def test_without_admin_and_uploads_their_routes_do_not_exist(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "data", workers={"count": 1}, admin={"enabled": False}, main={"enabled": False}
    )
    async with open_services(settings) as services, open_uploads(settings) as uploads:
        assert uploads is None
        server = build_http_server(services, uploads)
        paths = {
            route.resource.canonical
            for route in server.runner.app.router.routes()
            if route.resource
        }
    assert "/serve/{name}" in paths
    assert not any(path.startswith("/api/media/pending") for path in paths)
    assert not any(path.endswith("/renditions") for path in paths)


async def test_the_access_log_is_optional(shared: Serving, library: Library) -> None:
    assert (shared.surface.access_log is not None) == shared.services.settings.log.access
