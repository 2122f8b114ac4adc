"""The page's routes: when they exist, their headers, and their responses."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest

from proxy.settings import Settings, has_local_uploads, has_page
from proxy.web.handlers.page import CSP
from tests.support.server import CHROME, Serve, Serving

PAGE = ("/", "/static/page.js", "/api/gallery", "/api/page/accept", "/api/page/accept.gif")


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize(
    ("sections", "shown"),
    [
        ({}, True),
        ({"server": {"host": "::1"}}, True),
        ({"server": {"host": "0.0.0.0"}}, False),
        ({"server": {"public_url": "https://img.example.org"}}, False),
        ({"database": {"url": "sqlite+aiosqlite:///elsewhere.db"}}, False),
        ({"page": {"enabled": False}}, False),
        ({"page": {"enabled": True}, "server": {"host": "0.0.0.0"}}, True),
    ],
)
def test_the_page_is_enabled_for_local_servers_or_by_the_settings(
    sections: dict[str, Any], *, shown: bool
) -> None:
    assert has_page(settings(**sections)) is shown


@pytest.mark.parametrize(
    ("sections", "given"),
    [
        ({}, True),
        ({"page": {"enabled": True}, "server": {"host": "0.0.0.0"}}, False),
        ({"page": {"enabled": False}}, False),
        ({"main": {"enabled": False}}, False),
        ({"users": {"jwt_public_key_file": "/etc/key.pem"}}, False),
    ],
)
def test_upload_tokens_are_offered_on_local_servers_only(
    sections: dict[str, Any], *, given: bool
) -> None:
    assert has_local_uploads(settings(**sections)) is given


async def test_the_page_forbids_resources_of_other_origins(shared: Serving) -> None:
    answer = await shared.client.get("/")
    assert answer.status == 200
    assert answer.content_type == "text/html"
    assert answer.headers["Content-Security-Policy"] == CSP
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'"):
        assert part in CSP
    assert "unsafe" not in CSP


async def test_without_the_page_only_the_component_is_served(serve: Serve) -> None:
    server = await serve(page={"enabled": False})
    for target in (*PAGE, "/api/page/token", "/api/page/uploads/1"):
        assert (await server.client.get(target)).status == 404
    component = await server.client.get("/static/smart-image.js")
    assert component.status == 200
    assert component.headers["Access-Control-Allow-Origin"] == "*"
    assert component.headers["Cache-Control"].startswith("public, max-age=3600")


async def test_the_pixel_returns_the_accept_header_in_server_timing(shared: Serving) -> None:
    answer = await shared.client.get("/api/page/accept.gif", headers={"Accept": CHROME})
    assert answer.content_type == "image/gif"
    found = re.fullmatch(r'accept;desc="([^"]*)"', answer.headers["Server-Timing"])
    assert found is not None
    assert unquote(found[1]) == CHROME


async def test_a_hostile_accept_header_is_escaped(shared: Serving) -> None:
    hostile = 'image/avif", evil;dur=1, "\\'
    answer = await shared.client.get("/api/page/accept.gif", headers={"Accept": hostile})
    assert answer.headers["Server-Timing"].count('"') == 2
    assert "," not in answer.headers["Server-Timing"]


async def test_the_chosen_format_is_explained(shared: Serving) -> None:
    found = await (
        await shared.client.get("/api/page/accept", headers={"Accept": "image/webp,*/*"})
    ).json()
    assert found["chosen"] == "webp"
    assert [one["format"] for one in found["formats"]] == ["avif", "webp", "jpeg"]
