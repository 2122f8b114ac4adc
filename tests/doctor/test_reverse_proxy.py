"""Checks of a reverse proxy on fake responses; a real nginx is in test_reverse_proxy_nginx."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.doctor.check import Finding, Verdict
from proxy.doctor.probe import ImageResponses, ProbeResponse
from proxy.doctor.reverse_proxy import (
    advice_for,
    check_closed,
    check_forwarded,
    check_sockets,
    detect,
    judge_etag,
    judge_formats,
    judge_lifetime,
    judge_range,
    judge_vary,
)
from proxy.domain.media import Media
from proxy.settings import Settings
from tests.doctor.conftest import FakeProbe, response, run_area
from tests.support.server import make_settings

PROBLEM = {"Content-Type": "application/problem+json"}


def image(
    kind: str = "webp", status: int = 200, body: bytes = b"0123456789", **headers: str
) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    sound = {"Content-Type": f"image/{kind}", "ETag": '"a"', "Cache-Control": "max-age=9"}
    return response(body, status, sound | given)


SOUND = ImageResponses(
    negotiated={
        "chrome": image("avif", Vary="Accept"),
        "safari": image("webp", Vary="Accept"),
        "anything": image("jpeg", Vary="Accept"),
    },
    named=image(),
    revalidated=image(status=304, body=b""),
    part=image(status=206),
)


def closed(_method: str, _target: str) -> ProbeResponse | None:
    """A proxy that passes on neither private routes nor uploads."""
    return response(b"<html>", status=404)


ALLOWED = {"chrome": {"image/avif"}, "safari": {"image/webp"}, "anything": {"image/jpeg"}}
JUDGES: dict[str, Callable[[ImageResponses], Finding]] = {
    "formats": lambda proxied: judge_formats(proxied, ALLOWED),
    "Vary": judge_vary,
    "ETag": lambda proxied: judge_etag(proxied, SOUND),
    "lifetime": lambda proxied: judge_lifetime(proxied, SOUND),
    "Range": lambda proxied: judge_range(proxied.part),
}


@pytest.mark.parametrize("judge", JUDGES)
def test_an_unchanged_response_passes(judge: str) -> None:
    assert JUDGES[judge](SOUND).verdict is Verdict.OK


AVIF = dict.fromkeys(("chrome", "safari", "anything"), image("avif", Vary="Accept"))
JPEG = dict.fromkeys(("chrome", "safari", "anything"), image("jpeg", Vary="Accept"))
BARE = dict.fromkeys(("chrome", "safari", "anything"), image("avif"))


@pytest.mark.parametrize(
    ("judge", "changes", "verdict", "text", "advice"),
    [
        (
            "formats",
            {"negotiated": AVIF},
            Verdict.FAIL,
            "safari and anything cannot show it",
            "deploy/nginx/cache.conf",
        ),
        (
            "formats",
            {"negotiated": JPEG},
            Verdict.WARN,
            "not the best format",
            "proxy_set_header Accept",
        ),
        (
            "Vary",
            {"negotiated": BARE},
            Verdict.FAIL,
            "the server sends Accept",
            "remove proxy_hide_header Vary",
        ),
        (
            "Vary",
            {"named": image(Vary="Accept-Encoding, accept")},
            Verdict.WARN,
            "the server sends none",
            "cache.conf",
        ),
        (
            "ETag",
            {"named": image(ETag=""), "revalidated": image(ETag="")},
            Verdict.FAIL,
            "no ETag, revalidated with 200",
            "proxy_hide_header ETag",
        ),
        (
            "ETag",
            {"revalidated": image()},
            Verdict.FAIL,
            "downloads the image again",
            "gzip_types",
        ),
        (
            "ETag",
            {"named": image(ETag='W/"a"')},
            Verdict.WARN,
            'W/"a", revalidated with 304; the server sends "a"',
            "gzip_types",
        ),
        (
            "ETag",
            {"named": image(ETag='"b"')},
            Verdict.WARN,
            'the server sends "a"',
            "rewrites ETag",
        ),
        (
            "lifetime",
            {"named": image(Cache_Control="no-store")},
            Verdict.FAIL,
            "no-store; the server sends max-age=9",
            "remove expires",
        ),
        (
            "Range",
            {"part": image()},
            Verdict.WARN,
            "200 with 10 B of 10",
            "max_ranges 0",
        ),
    ],
)
def test_a_changed_response_is_reported_with_the_directive_to_fix(
    judge: str, changes: dict[str, Any], verdict: Verdict, text: str, advice: str
) -> None:
    found = JUDGES[judge](replace(SOUND, **changes))
    assert found.verdict is verdict
    assert text in found.seen
    assert advice in found.advice


def test_draft_and_final_may_have_different_lifetimes() -> None:
    final = replace(SOUND, named=image(ETag='"final"', Cache_Control="max-age=31536000"))
    assert judge_lifetime(final, SOUND).verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("headers", "vendor", "file"),
    [
        (
            {"Server": "cloudflare", "CF-Ray": "1"},
            "through Cloudflare",
            "cdn/cloudflare/worker.js",
        ),
        (
            {"Via": "1.1 a.cloudfront.net (CloudFront)", "Server": "nginx"},
            "through CloudFront",
            "cdn/cloudfront/function.js",
        ),
        ({"X-Served-By": "cache-fra-1"}, "through Fastly", "cdn/fastly/smartserve.vcl"),
        ({"Server": "BunnyCDN-DE1-1"}, "through Bunny", "cdn/bunny/script.js"),
        ({"Server": "nginx"}, "through nginx", "nginx/cache.conf"),
        ({"Server": "Caddy"}, "through an unknown proxy", "nginx/cache.conf"),
        (
            {"Server": "smartserve", "Via": "1.1 varnish"},
            "through an unknown proxy",
            "nginx/cache.conf",
        ),
        ({"Server": "smartserve"}, "without a proxy", "nginx/cache.conf"),
    ],
)
def test_each_vendor_is_detected_and_has_its_own_file(
    headers: dict[str, str], vendor: str, file: str
) -> None:
    found = detect(response(headers=headers))
    assert found == vendor
    assert f"deploy/{file}" in advice_for(found, "as in deploy/nginx/cache.conf")


def test_a_cdn_is_also_given_the_fix_of_the_nginx_behind_it() -> None:
    text = advice_for("through Fastly", "proxy_set_header X-Forwarded-For")
    assert "deploy/cdn/fastly" in text
    assert "behind it nginx: proxy_set_header X-Forwarded-For" in text


@pytest.mark.parametrize(
    ("answer", "verdict", "text"),
    [
        (response(b"<html>", status=404), Verdict.OK, "closed"),
        (None, Verdict.OK, "closed"),
        (response(b"{}", status=404, headers=PROBLEM), Verdict.OK, "closed"),
        (response(b"{}", status=401, headers=PROBLEM), Verdict.FAIL, "GET /metrics"),
    ],
)
async def test_private_routes_that_the_server_answers_fail(
    answer: ProbeResponse | None, verdict: Verdict, text: str
) -> None:
    found = await check_closed(FakeProbe(lambda *_: answer))
    assert found.verdict is verdict
    assert text in found.seen


async def test_health_checks_that_are_passed_on_only_warn() -> None:
    def answer(method: str, target: str) -> ProbeResponse | None:
        return response(b'{"status": "alive"}') if target.endswith("z") else closed(method, target)

    found = await check_closed(FakeProbe(answer))
    assert (found.verdict, "GET /readyz, GET /healthz" in found.seen) == (Verdict.WARN, True)


@pytest.mark.parametrize(
    ("told", "verdict", "advice"),
    [
        ("used", Verdict.OK, ""),
        ("ignored", Verdict.FAIL, "server.trusted_proxies"),
        ("missing", Verdict.FAIL, "proxy_set_header X-Forwarded-For"),
    ],
)
async def test_a_client_address_that_is_missing_or_ignored_fails(
    told: str, verdict: Verdict, advice: str
) -> None:
    body = json.dumps({"forwarded": told}).encode()
    probe = FakeProbe(lambda *_: response(body, status=401, headers=PROBLEM))
    finding = await check_forwarded(probe, "through nginx")
    assert (finding.verdict, advice in finding.advice) == (verdict, True)
    assert probe.requests == [("PATCH", "/users/me")]


async def test_x_forwarded_for_cannot_be_checked_if_uploads_are_not_passed_on() -> None:
    found = await check_forwarded(FakeProbe(closed), "through nginx")
    assert found.verdict is Verdict.SKIPPED


async def test_without_a_proxy_no_upload_is_requested() -> None:
    probe = FakeProbe(closed)
    assert (await check_forwarded(probe, "without a proxy")).verdict is Verdict.SKIPPED
    assert probe.requests == []


async def test_a_redirect_is_reported_with_its_target(settings: Settings, photo: Media) -> None:
    moved = response(status=301, headers={"Location": "https://img.example.org/", "ETag": '"a"'})
    found = await run_area(
        "proxy", settings, media=photo, responses=SOUND, public=FakeProbe(lambda *_: moved)
    )
    assert found["proxy"].verdict is Verdict.FAIL
    assert "301" in found["proxy"].seen
    assert "to https://img.example.org/" in found["proxy"].seen
    assert "--public" in found["proxy"].advice


async def test_a_proxy_that_does_not_answer_fails(settings: Settings, photo: Media) -> None:
    found = await run_area(
        "proxy", settings, media=photo, responses=SOUND, public=FakeProbe(lambda *_: None)
    )
    assert "Connection refused" in found["proxy"].seen
    assert "is the reverse proxy running" in found["proxy"].advice
    assert {one.verdict for name, one in found.items() if name != "proxy"} == {Verdict.SKIPPED}


@pytest.mark.parametrize("public", ["", FakeProbe(closed)])
async def test_without_a_proxy_or_an_image_the_checks_are_skipped(
    public: str | FakeProbe, settings: Settings
) -> None:
    found = await run_area("proxy", settings, public=public)
    assert {one.verdict for one in found.values()} == {Verdict.SKIPPED}


async def test_a_server_that_the_proxy_cannot_reach_is_reported(
    settings: Settings, photo: Media
) -> None:
    error = response(b"<html>", status=502, headers={"Server": "nginx", "ETag": '"a"'})
    probe = FakeProbe(lambda *_: error)
    found = await run_area("proxy", settings, media=photo, responses=SOUND, public=probe)
    assert "502" in found["proxy"].seen
    assert found["proxy"].advice.startswith("nginx: check the address in upstream smartserve")


async def test_a_fault_is_reported_with_the_directive_of_the_vendor(
    settings: Settings, photo: Media
) -> None:
    headers = {"Server": "BunnyCDN-DE1", "Content-Type": "image/avif", "ETag": '"a"'}
    probe = FakeProbe(lambda *_: response(headers=headers))
    found = await run_area("proxy", settings, media=photo, responses=SOUND, public=probe)
    assert found["proxy"].seen == "http://fake.example, through Bunny: an image in 10 ms"
    assert found["proxy"].verdict is Verdict.OK
    assert found["proxy Vary"].advice.startswith("Bunny: deploy/cdn/bunny/script.js, see deploy/")
    assert found["proxy closed"].advice == ""


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (101, Verdict.OK),
        (401, Verdict.OK),
        (426, Verdict.FAIL),
        (404, Verdict.SKIPPED),
        (502, Verdict.SKIPPED),
        (None, Verdict.SKIPPED),
    ],
)
async def test_an_upgrade_that_the_proxy_removes_is_reported(
    status: int | None, verdict: Verdict, settings: Settings
) -> None:
    found = None if status is None else response(status=status)
    finding = await check_sockets(FakeProbe(lambda *_: found), settings)
    assert finding.verdict is verdict
    assert ("$http_upgrade" in finding.advice) is (verdict is Verdict.FAIL)


async def test_without_metadata_there_is_no_socket_to_check(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metadata={"enabled": False})
    probe = FakeProbe(lambda *_: None)
    assert (await check_sockets(probe, settings)).verdict is Verdict.SKIPPED
    assert probe.requests == []
