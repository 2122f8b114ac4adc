"""A real nginx in front of a real server, wrong in one way at a time: found, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.doctor import CheckBlocked, Diagnosis, Verdict, failed, looked, well
from proxy.doctor.front import look
from proxy.doctor.http_client import ProbeResponse
from proxy.doctor.http_client.client import AiohttpProbe
from proxy.doctor.recipes import FORMATS, ReverseProxy, front_of
from proxy.doctor.serving import look_at_picture
from proxy.doctor.table import FRONT
from proxy.domain.media import Media
from proxy.settings import Settings
from tests.benchmarks.servers import free_port, smartserve
from tests.deploy.conftest import TWO_STAGES
from tests.deploy.front import Change, nginx
from tests.deploy.origin import Origin
from tests.doctor.conftest import Diagnoses, diagnoses
from tests.faults.server import variables
from tests.support.server import make_settings

_PASS = "proxy_pass http://smartserve;\n\n"
"""Stands where pictures are passed on, and nowhere else."""
_KEY = 'proxy_cache_key "$smartserve_class $request_uri";'
_PRIVATE = "include smartserve/private.conf;"
_OPEN = "location / { include smartserve/proxy.conf; proxy_pass http://smartserve; }"
_PACKED = "gzip on; gzip_proxied any; gzip_min_length 1; gzip_types image/avif image/webp;"


class Examine(Protocol):
    """Examines an nginx that differs from ``deploy/nginx`` in some lines."""

    async def __call__(
        self, *changes: Change, mode: str = "cache", **main: object
    ) -> Diagnoses: ...


def added(line: str) -> Change:
    """A line where pictures are passed on."""
    return ("cache.conf", _PASS, f"{_PASS}{line}\n")


async def through(
    base: str, direct: AiohttpProbe, settings: Settings, media: Media, mark: str
) -> Diagnoses:
    """What the doctor says of what answers at an address."""
    picture = await looked(look_at_picture(direct, settings, media, mark))
    async with AiohttpProbe(base, timeout_s=20) as public:
        seen = await looked(look(public, direct, picture, settings, mark))
    return diagnoses(FRONT, seen)


@pytest.fixture
def examined(
    tmp_path: Path, origin: Origin, direct: AiohttpProbe, photo: Media, mark: str
) -> Examine:
    """Examines an nginx that differs from ``deploy/nginx`` in some lines."""

    async def examine(*changes: Change, mode: str = "cache", **main: object) -> Diagnoses:
        settings = make_settings(tmp_path / "data", main=main)
        folder = tmp_path / "front"
        with nginx(folder, mode, upstream=origin.port, changes=changes) as front:
            return await through(front.base, direct, settings, photo, mark)

    return examine


def unwell(found: Diagnoses) -> dict[str, Diagnosis]:
    return {name: one for name, one in found.items() if one.verdict in (Verdict.WARN, Verdict.FAIL)}


@pytest.mark.parametrize("mode", ["cache", "files"])
async def test_deploy_nginx_is_well_in_all(examined: Examine, mode: str) -> None:
    found = await examined(mode=mode)
    assert unwell(found) == {}
    assert {one.verdict for one in found.values()} == {Verdict.OK}
    assert "through nginx" in found["front"].seen


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "seen", "advice"),
    [
        (
            [("cache.conf", _KEY, 'proxy_cache_key "$request_uri";')],
            "front formats",
            Verdict.FAIL,
            "image/avif, anything image/avif; safari and anything cannot show it",
            "deploy/nginx/cache.conf, proxy.conf and formats.conf",
        ),
        (
            [("proxy.conf", "Accept $smartserve_accept;", 'Accept "*/*";')],
            "front formats",
            Verdict.WARN,
            "not the best format: chrome image/jpeg, safari image/jpeg",
            "proxy_set_header Accept $smartserve_accept",
        ),
        (
            [("cache.conf", _KEY, 'proxy_cache_key "$smartserve_class $uri";')],
            "front query",
            Verdict.FAIL,
            "two sizes are one picture",
            "$request_uri, with its query, belongs into proxy_cache_key",
        ),
        (
            [added("proxy_hide_header Vary;")],
            "front Vary",
            Verdict.FAIL,
            "negotiated: none; named: none; the server says Accept",
            "take out proxy_hide_header Vary",
        ),
        (
            [added("add_header Vary Accept;")],
            "front Vary",
            Verdict.WARN,
            "named: Accept; the server says none",
            "deploy/nginx/cache.conf",
        ),
        ([added(_PACKED)], "front ETag", Verdict.WARN, "weakened", "image/* out of gzip_types"),
        (
            [added(_PACKED)],
            "front body",
            Verdict.WARN,
            "Content-Encoding: gzip on a picture",
            "gzip_types image/*",
        ),
        (
            [added("proxy_hide_header ETag;")],
            "front ETag",
            Verdict.FAIL,
            "no ETag",
            "proxy_hide_header ETag",
        ),
        (
            [added("expires 1d;")],
            "front lifetime",
            Verdict.FAIL,
            "max-age=86400; the server says public, max-age=31536000",
            "take out expires",
        ),
        (
            [added('proxy_hide_header Cache-Control; add_header Cache-Control "no-store";')],
            "front lifetime",
            Verdict.FAIL,
            "no-store; the server says public, max-age=31536000",
            "add_header Cache-Control",
        ),
        (
            [added("max_ranges 0;")],
            "front Range",
            Verdict.WARN,
            "200 with",
            "take out max_ranges 0",
        ),
        (
            [added("if ($request_method = HEAD) { return 405; }")],
            "front HEAD",
            Verdict.WARN,
            "405, and differs in Content-Type",
            "limit_except GET HEAD",
        ),
        (
            [("cache.conf", _PRIVATE, _OPEN)],
            "front closed",
            Verdict.FAIL,
            "DELETE /api/media/9223372036854775807/renditions",
            "include smartserve/private.conf",
        ),
        (
            [("private.conf", "location = /metrics { return 404; }", "")],
            "front closed",
            Verdict.FAIL,
            "passed on to strangers: GET /metrics",
            "deploy/nginx/private.conf",
        ),
        (
            [("private.conf", "location = /readyz { return 404; }", "")],
            "front closed",
            Verdict.WARN,
            "passed on to strangers: GET /readyz",
            "deploy/nginx/private.conf",
        ),
        (
            [("proxy.conf", "X-Forwarded-For $proxy_add_x_forwarded_for", 'X-Other ""')],
            "front forwarded",
            Verdict.FAIL,
            "X-Forwarded-For is not set",
            "deploy/nginx/proxy.conf",
        ),
        (
            [("private.conf", "client_max_body_size 52m;", "")],
            "front uploads",
            Verdict.FAIL,
            "a single file of 5 MiB is refused with 413",
            "client_max_body_size 52m; in location = /users/me",
        ),
        (
            [("private.conf", "client_max_body_size 52m;", "client_max_body_size 20m;")],
            "front uploads",
            Verdict.WARN,
            "ten files at once, 50 MiB, are refused with 413",
            "deploy/nginx/private.conf",
        ),
    ],
)
async def test_what_is_wrong_is_told_with_the_line_that_mends_it(
    examined: Examine,
    changes: Iterable[Change],
    check: str,
    verdict: Verdict,
    seen: str,
    advice: str,
) -> None:
    found = await examined(*changes)
    assert found[check].verdict is verdict, found
    assert seen in found[check].seen
    assert advice in found[check].advice
    assert found["front"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("private.conf", "/metrics { return 404; }", "/metrics { return 444; }"),
        ("private.conf", "/api/media/ { return 404; }", "/api/media/ { return 444; }"),
        ("private.conf", "limit_except PATCH { deny all; }", "return 444;"),
    ],
)
async def test_who_closes_a_route_by_hanging_up_has_closed_it(
    examined: Examine, name: str, old: str, new: str
) -> None:
    found = await examined((name, old, new))
    assert unwell(found) == {}
    assert found["front"].verdict is found["front closed"].verdict is Verdict.OK


async def test_only_what_is_wrong_is_told(examined: Examine) -> None:
    assert set(unwell(await examined(added("expires 1d;")))) == {"front lifetime"}


async def test_nothing_is_uploaded(examined: Examine, origin: Origin) -> None:
    refusals = "smartserve_upload_refusals_total"
    before = await origin.metric(refusals), await origin.metric("smartserve_upload_bytes_total")
    await examined()
    # The one question without a token; of the bodies that were announced it has not heard.
    after = await origin.metric(refusals), await origin.metric("smartserve_upload_bytes_total")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


async def test_without_uploads_there_is_nothing_to_ask(examined: Examine) -> None:
    found = await examined(enabled=False)
    for check in ("front forwarded", "front uploads"):
        assert found[check].verdict is Verdict.SKIPPED


async def test_a_draft_that_becomes_final_is_no_fault_of_what_is_in_front(
    data_dir: Path, tmp_path: Path, settings: Settings, photo: Media, mark: str
) -> None:
    with (
        smartserve(data_dir, settings=variables(TWO_STAGES)) as server,
        nginx(tmp_path / "front", "cache", upstream=server.address[1]) as front,
    ):
        base = f"http://127.0.0.1:{server.address[1]}"
        async with AiohttpProbe(base, timeout_s=20) as direct:
            found = await through(front.base, direct, settings, photo, mark)
    assert unwell(found) == {}


async def test_a_server_behind_it_that_is_away(
    tmp_path: Path, direct: AiohttpProbe, settings: Settings, photo: Media, mark: str
) -> None:
    with nginx(tmp_path / "front", "cache", upstream=free_port()) as front:
        found = await through(front.base, direct, settings, photo, mark)
    assert found["front"].verdict is Verdict.FAIL
    assert "502" in found["front"].seen
    assert "deploy/nginx/upstream.conf" in found["front"].advice
    assert {one.verdict for name, one in found.items() if name != "front"} == {Verdict.SKIPPED}


async def test_nobody_listens_in_front(
    direct: AiohttpProbe, settings: Settings, photo: Media, mark: str
) -> None:
    found = await through(f"http://127.0.0.1:{free_port()}", direct, settings, photo, mark)
    assert "Connection refused" in found["front"].seen
    assert "is what stands in front up" in found["front"].advice


async def test_a_redirect_is_told_with_where_it_leads(
    direct: AiohttpProbe, settings: Settings, photo: Media, mark: str
) -> None:
    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPMovedPermanently(f"https://img.example.org{request.path_qs}")

    app = web.Application()
    app.router.add_get("/{path:.*}", moved)
    async with TestServer(app) as server:
        found = await through(str(server.make_url("/")), direct, settings, photo, mark)
    assert "301" in found["front"].seen
    assert "https://img.example.org/serve/" in found["front"].seen
    assert "--public" in found["front"].advice


async def test_the_server_itself_is_open_to_strangers_where_nobody_is_in_front(
    direct: AiohttpProbe, settings: Settings, photo: Media, mark: str
) -> None:
    found = await through(direct.base, direct, settings, photo, mark)
    assert set(unwell(found)) == {"front closed"}
    assert "nobody in front" in found["front"].seen
    assert found["front forwarded"].verdict is Verdict.SKIPPED


async def test_no_address_and_no_picture_are_no_faults(
    direct: AiohttpProbe, settings: Settings, mark: str
) -> None:
    obstacle = CheckBlocked(failed("away", "start it"))
    async with nullcontext(direct) as public:
        for front in (None, public):
            seen = await looked(look(front, direct, obstacle, settings, mark))
            assert {one.verdict for one in diagnoses(FRONT, seen).values()} == {Verdict.SKIPPED}


@pytest.mark.parametrize(
    ("headers", "front", "file"),
    [
        ({"Server": "cloudflare", "CF-Ray": "1"}, ReverseProxy.CLOUDFLARE, "cloudflare/worker.js"),
        (
            {"Via": "1.1 a.cloudfront.net (CloudFront)"},
            ReverseProxy.CLOUDFRONT,
            "cloudfront/function.js",
        ),
        ({"X-Served-By": "cache-fra-1"}, ReverseProxy.FASTLY, "fastly/smartserve.vcl"),
        ({"Server": "BunnyCDN-DE1-1"}, ReverseProxy.BUNNY, "bunny/script.js"),
        ({"Server": "nginx"}, ReverseProxy.NGINX, "nginx/cache.conf"),
        ({"Server": "Caddy"}, ReverseProxy.OTHER, "nginx/cache.conf"),
        ({"Server": "smartserve"}, ReverseProxy.NOBODY, "nginx/cache.conf"),
    ],
)
def test_who_is_in_front_gets_a_recipe_that_is_there(
    headers: dict[str, str], front: ReverseProxy, file: str
) -> None:
    found = front_of(ProbeResponse(HTTPStatus.OK, headers, b"", 0.0))
    assert found is front
    assert f"deploy/{'cdn/' if 'cache' not in file else ''}{file}" in FORMATS.advice(found)


def test_a_diagnosis_that_is_well_has_no_advice() -> None:
    assert well("all").advice == ""
