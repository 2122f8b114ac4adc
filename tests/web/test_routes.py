"""The application's routes: all of them are described, and disabled ones do not exist."""

from __future__ import annotations

import re

from aiohttp import web

from proxy.app.web import HttpServer
from proxy.settings import Settings
from proxy.web.openapi.document import describe
from tests.support.server import Serve, Serving

_NOT_DESCRIBED = {"/", "/static/{name}", "/static/smart-image.js"}
"""Files for browsers, not part of the API."""


def routes(surface: HttpServer) -> set[tuple[str, str]]:
    """Return method and path template of each route."""
    app = surface.runner.app
    assert isinstance(app, web.Application)
    return {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }


def described(settings: Settings) -> set[tuple[str, str]]:
    return {(method, path) for path, item in describe(settings)["paths"].items() for method in item}


async def test_every_route_is_described_and_every_description_has_a_route(server: Serving) -> None:
    found = routes(server.surface)
    documented = described(server.services.settings)
    assert documented <= found
    # aiohttp adds HEAD to each GET; it is described only where it does something else.
    undocumented = {(method, path) for method, path in found - documented if method != "head"}
    assert {path for _, path in undocumented} == _NOT_DESCRIBED


async def test_the_document_is_served_as_json_that_nobody_stores(shared: Serving) -> None:
    async with shared.client.get("/openapi.json") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert await answer.json() == describe(shared.services.settings)


async def test_metrics_are_served_in_the_text_format(shared: Serving) -> None:
    async with shared.client.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert re.search(r"^smartserve_build_info\{", await answer.text(), re.MULTILINE)


async def test_disabled_parts_have_neither_routes_nor_a_description(serve: Serve) -> None:
    disabled = {"enabled": False}
    server = await serve(page=disabled, admin=disabled, main=disabled)
    paths = {path for _, path in routes(server.surface)}
    assert paths - {path for _, path in described(server.services.settings)} == {
        "/static/smart-image.js"
    }
    for path in ("/api/gallery", "/users/me", "/api/media/{id}/renditions"):
        assert path not in paths
