"""Checks of a real nginx in front of a real server, each misconfigured in one way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from proxy.app.doctor import open_installation
from proxy.doctor.check import Verdict
from proxy.doctor.reverse_proxy import check_proxy
from proxy.doctor.server import check_server
from proxy.domain.media import Media
from proxy.settings import Settings
from tests.benchmarks.servers import smartserve
from tests.deploy.conftest import TWO_STAGES
from tests.deploy.front import Change, nginx
from tests.deploy.origin import Origin
from tests.doctor.conftest import Findings, problems
from tests.faults.server import variables
from tests.support.ports import free_port
from tests.support.server import Library, make_settings

pytestmark = pytest.mark.slow

_PASS = "proxy_pass http://smartserve;\n\n"
"""The line of cache.conf that passes images on; it occurs once."""
_KEY = 'proxy_cache_key "$smartserve_class$smartserve_lean $request_uri";'
_PRIVATE = "include smartserve/private.conf;"
_OPEN = "location / { include smartserve/proxy.conf; proxy_pass http://smartserve; }"
_COMPRESSED = "gzip on; gzip_proxied any; gzip_min_length 1; gzip_types image/avif image/webp;"


@pytest.fixture(scope="session")
def origin(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """A server with one stage, shared by tests that do not change it."""
    data_dir = library.copy(tmp_path_factory.mktemp("examined") / "data")
    settings = {"UPGRADES__ENABLED": "false", "WORKERS__COUNT": "1"}
    with smartserve(data_dir, settings=settings) as running:
        yield Origin(running.address[1])


async def check(settings: Settings, port: int, public: str, media: Media) -> Findings:
    """Run the checks of the server and of the proxy in front of it."""
    url = f"http://127.0.0.1:{port}"
    async with open_installation(settings, None, url=url, public=public) as installation:
        installation.media = media
        # Sets the responses to compare with.
        await check_server.run(installation)
        return {finding.check: finding for finding in await check_proxy.run(installation)}


class Examine(Protocol):
    """Checks an nginx that differs from ``deploy/nginx`` in some lines."""

    async def __call__(self, *changes: Change, mode: str = "cache") -> Findings: ...


@pytest.fixture
def examine(tmp_path: Path, origin: Origin, settings: Settings, photo: Media) -> Examine:
    """Checks an nginx that differs from ``deploy/nginx`` in some lines."""

    async def run(*changes: Change, mode: str = "cache") -> Findings:
        folder = tmp_path / "front"
        with nginx(folder, mode, upstream=origin.port, changes=changes) as front:
            return await check(settings, origin.port, front.base, photo)

    return run


def added(line: str) -> Change:
    """Add a line where images are passed on."""
    return ("cache.conf", _PASS, f"{_PASS}{line}\n")


@pytest.mark.parametrize("mode", ["cache", "files"])
async def test_deploy_nginx_passes_all_checks(examine: Examine, mode: str) -> None:
    found = await examine(mode=mode)
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert "through nginx" in found["proxy"].seen


@pytest.mark.parametrize(
    ("changes", "check_name", "verdict", "text"),
    [
        (
            [("cache.conf", _KEY, 'proxy_cache_key "$request_uri";')],
            "proxy formats",
            Verdict.FAIL,
            "image/avif, anything image/avif; safari and anything cannot show it",
        ),
        (
            [("proxy.conf", "Accept $smartserve_accept;", 'Accept "*/*";')],
            "proxy formats",
            Verdict.WARN,
            "not the best format: chrome image/jpeg, safari image/jpeg",
        ),
        (
            [added("proxy_hide_header Vary;")],
            "proxy Vary",
            Verdict.FAIL,
            "negotiated: none; named: none; the server sends Accept",
        ),
        (
            [added("add_header Vary Accept;")],
            "proxy Vary",
            Verdict.WARN,
            "named: Accept; the server sends none",
        ),
        ([added(_COMPRESSED)], "proxy ETag", Verdict.WARN, "W/"),
        ([added("proxy_hide_header ETag;")], "proxy ETag", Verdict.FAIL, "no ETag"),
        (
            [added("expires 1d;")],
            "proxy lifetime",
            Verdict.FAIL,
            "max-age=86400; the server sends public, max-age=31536000",
        ),
        ([added("max_ranges 0;")], "proxy Range", Verdict.WARN, "200 with"),
        (
            [("cache.conf", _PRIVATE, _OPEN)],
            "proxy closed",
            Verdict.FAIL,
            "DELETE /api/media/9223372036854775807/renditions",
        ),
        (
            [("private.conf", "location = /metrics { return 404; }", "")],
            "proxy closed",
            Verdict.FAIL,
            "open to strangers: GET /metrics",
        ),
        (
            [("private.conf", "location = /readyz { return 404; }", "")],
            "proxy closed",
            Verdict.WARN,
            "open to strangers: GET /readyz",
        ),
        (
            [("proxy.conf", "X-Forwarded-For $proxy_add_x_forwarded_for", 'X-Other ""')],
            "proxy forwarded",
            Verdict.FAIL,
            "X-Forwarded-For is not set",
        ),
        (
            [("private.conf", "proxy_set_header Upgrade $http_upgrade;", "")],
            "proxy WebSocket",
            Verdict.FAIL,
            "Upgrade is not passed on",
        ),
    ],
)
async def test_a_misconfigured_nginx_is_reported(
    examine: Examine, changes: Iterable[Change], check_name: str, verdict: Verdict, text: str
) -> None:
    found = await examine(*changes)
    assert found[check_name].verdict is verdict, found
    assert text in found[check_name].seen
    assert found[check_name].advice
    assert found["proxy"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("private.conf", "/metrics { return 404; }", "/metrics { return 444; }"),
        ("private.conf", "/api/media/ { return 404; }", "/api/media/ { return 444; }"),
        ("private.conf", "limit_except GET PATCH { deny all; }", "return 444;"),
    ],
)
async def test_a_route_that_closes_the_connection_is_closed(
    examine: Examine, name: str, old: str, new: str
) -> None:
    found = await examine((name, old, new))
    assert problems(found) == {}
    assert found["proxy closed"].verdict is Verdict.OK


async def test_nothing_is_uploaded(examine: Examine, origin: Origin) -> None:
    refusals = "smartserve_upload_refusals_total"
    before = await origin.metric(refusals), await origin.metric("smartserve_upload_bytes_total")
    await examine()
    # The one request without a token.
    after = await origin.metric(refusals), await origin.metric("smartserve_upload_bytes_total")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


async def test_a_final_that_replaces_a_draft_is_not_a_fault_of_the_proxy(
    data_dir: Path, tmp_path: Path, settings: Settings, photo: Media
) -> None:
    with (
        smartserve(data_dir, settings=variables(TWO_STAGES)) as server,
        nginx(tmp_path / "front", "cache", upstream=server.address[1]) as front,
    ):
        found = await check(settings, server.address[1], front.base, photo)
    assert problems(found) == {}


async def test_a_server_behind_nginx_that_is_away_fails(
    tmp_path: Path, origin: Origin, settings: Settings, photo: Media
) -> None:
    with nginx(tmp_path / "front", "cache", upstream=free_port()) as front:
        found = await check(settings, origin.port, front.base, photo)
    assert problems(found) == {"proxy": Verdict.FAIL}
    assert "502" in found["proxy"].seen
    assert "deploy/nginx/upstream.conf" in found["proxy"].advice


async def test_the_server_itself_is_open_to_strangers(
    origin: Origin, settings: Settings, photo: Media
) -> None:
    found = await check(settings, origin.port, f"http://127.0.0.1:{origin.port}", photo)
    assert problems(found) == {"proxy closed": Verdict.FAIL}
    assert "without a proxy" in found["proxy"].seen
    assert found["proxy forwarded"].verdict is Verdict.SKIPPED


async def test_uploads_that_are_disabled_cannot_show_x_forwarded_for(
    data_dir: Path, tmp_path: Path, photo: Media
) -> None:
    settings = make_settings(tmp_path / "data2", main={"enabled": False})
    with smartserve(data_dir, settings={"MAIN__ENABLED": "false"}) as server:
        port = server.address[1]
        with nginx(tmp_path / "front", "cache", upstream=port) as front:
            found = await check(settings, port, front.base, photo)
    assert found["proxy forwarded"].verdict is Verdict.SKIPPED
