"""Checks of a reverse proxy on fake responses; a real nginx is in test_reverse_proxy_nginx."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.app.doctor import open_installation
from proxy.doctor import reverse_proxy
from proxy.doctor.check import CheckBlocked, Finding, Verdict
from proxy.doctor.http_client import ProbeResponse
from proxy.doctor.image_requests import ImageResponses
from proxy.doctor.proxy_fixes import ReverseProxy
from proxy.doctor.reverse_proxy import ProxiedResponses
from proxy.domain.media import Media
from proxy.settings import Settings
from tests.doctor.conftest import FakeProbe, response, run_area

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


@pytest.fixture
async def seen(settings: Settings, photo: Media) -> Any:
    """A sound nginx."""
    async with open_installation(settings, None, url="http://127.0.0.1:1", public="") as one:
        yield ProxiedResponses(one, FakeProbe(closed), ReverseProxy.NGINX, photo, SOUND, SOUND)


SYNCHRONOUS: tuple[Callable[[ProxiedResponses], Finding], ...] = (
    reverse_proxy.check_reach,
    reverse_proxy.check_formats,
    reverse_proxy.check_vary,
    reverse_proxy.check_etag,
    reverse_proxy.check_lifetime,
    reverse_proxy.check_range,
)


def test_an_unchanged_response_passes(seen: ProxiedResponses) -> None:
    assert {check(seen).verdict for check in SYNCHRONOUS} == {Verdict.OK}


AVIF = dict.fromkeys(("chrome", "safari", "anything"), image("avif", Vary="Accept"))
JPEG = dict.fromkeys(("chrome", "safari", "anything"), image("jpeg", Vary="Accept"))
BARE = dict.fromkeys(("chrome", "safari", "anything"), image("avif"))


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "text", "advice"),
    [
        (
            reverse_proxy.check_formats,
            {"negotiated": AVIF},
            Verdict.FAIL,
            "safari and anything cannot show it",
            "deploy/nginx/cache.conf",
        ),
        (
            reverse_proxy.check_formats,
            {"negotiated": JPEG},
            Verdict.WARN,
            "not the best format",
            "proxy_set_header Accept",
        ),
        (
            reverse_proxy.check_vary,
            {"negotiated": BARE},
            Verdict.FAIL,
            "the server sends Accept",
            "remove proxy_hide_header Vary",
        ),
        (
            reverse_proxy.check_vary,
            {"named": image(Vary="Accept-Encoding, accept")},
            Verdict.WARN,
            "the server sends none",
            "cache.conf",
        ),
        (
            reverse_proxy.check_etag,
            {"named": image(ETag="")},
            Verdict.FAIL,
            "no ETag",
            "proxy_hide_header ETag",
        ),
        (
            reverse_proxy.check_etag,
            {"revalidated": image()},
            Verdict.FAIL,
            "downloads the image again",
            "gzip_types",
        ),
        (
            reverse_proxy.check_etag,
            {"named": image(ETag='W/"a"')},
            Verdict.WARN,
            "weakened",
            "gzip_types",
        ),
        (
            reverse_proxy.check_etag,
            {"named": image(ETag='"b"')},
            Verdict.WARN,
            'the server sends "a"',
            "rewrites ETag",
        ),
        (
            reverse_proxy.check_lifetime,
            {"named": image(Cache_Control="no-store")},
            Verdict.FAIL,
            "no-store; the server sends max-age=9",
            "remove expires",
        ),
        (
            reverse_proxy.check_range,
            {"part": image()},
            Verdict.WARN,
            "200 with 10 B of 10",
            "max_ranges 0",
        ),
    ],
)
def test_a_changed_response_is_reported_with_the_directive_to_fix(
    check: Callable[[ProxiedResponses], Finding],
    changes: dict[str, Any],
    verdict: Verdict,
    text: str,
    advice: str,
    seen: ProxiedResponses,
) -> None:
    found = check(replace(seen, proxied=replace(SOUND, **changes)))
    assert found.verdict is verdict
    assert text in found.text
    assert advice in found.advice


def test_draft_and_final_may_have_different_lifetimes(seen: ProxiedResponses) -> None:
    final = replace(SOUND, named=image(ETag='"final"', Cache_Control="max-age=31536000"))
    assert reverse_proxy.check_lifetime(replace(seen, proxied=final)).verdict is Verdict.SKIPPED


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
    answer: ProbeResponse | None, verdict: Verdict, text: str, seen: ProxiedResponses
) -> None:
    found = await reverse_proxy.check_closed(replace(seen, probe=FakeProbe(lambda *_: answer)))
    assert found.verdict is verdict
    assert text in found.text


async def test_health_checks_that_are_passed_on_only_warn(seen: ProxiedResponses) -> None:
    def answer(method: str, target: str) -> ProbeResponse | None:
        return response(b'{"status": "alive"}') if target.endswith("z") else closed(method, target)

    found = await reverse_proxy.check_closed(replace(seen, probe=FakeProbe(answer)))
    assert (found.verdict, "GET /readyz, GET /healthz" in found.text) == (Verdict.WARN, True)


Check = Callable[[ProxiedResponses], Awaitable[Finding]]


@pytest.mark.parametrize(
    ("body", "verdict"),
    [(b'{"forwarded": true}', Verdict.OK), (b'{"forwarded": false}', Verdict.FAIL)],
)
async def test_a_missing_x_forwarded_for_fails(
    body: bytes, verdict: Verdict, seen: ProxiedResponses
) -> None:
    probe = FakeProbe(lambda *_: response(body, status=401, headers=PROBLEM))
    found = await reverse_proxy.check_forwarded(replace(seen, probe=probe))
    assert found.verdict is verdict
    assert probe.requests == [("PATCH", "/users/me")]


async def test_x_forwarded_for_cannot_be_checked_if_uploads_are_not_passed_on(
    seen: ProxiedResponses,
) -> None:
    assert (await reverse_proxy.check_forwarded(seen)).verdict is Verdict.SKIPPED


async def test_a_redirect_is_reported_with_its_target(settings: Settings, photo: Media) -> None:
    moved = response(status=301, headers={"Location": "https://img.example.org/", "ETag": '"a"'})
    found = await run_area(
        "proxy", settings, media=photo, responses=SOUND, public=FakeProbe(lambda *_: moved)
    )
    assert found["proxy"].verdict is Verdict.FAIL
    assert "301" in found["proxy"].text
    assert "to https://img.example.org/" in found["proxy"].text
    assert "--public" in found["proxy"].advice


async def test_a_proxy_that_does_not_answer_fails(settings: Settings, photo: Media) -> None:
    found = await run_area(
        "proxy", settings, media=photo, responses=SOUND, public=FakeProbe(lambda *_: None)
    )
    assert "Connection refused" in found["proxy"].text
    assert "is the reverse proxy running" in found["proxy"].advice
    assert {one.verdict for name, one in found.items() if name != "proxy"} == {Verdict.SKIPPED}


@pytest.mark.parametrize("public", ["", FakeProbe(closed)])
async def test_without_a_proxy_or_an_image_the_checks_are_skipped(
    public: str | FakeProbe, settings: Settings
) -> None:
    found = await run_area("proxy", settings, public=public)
    assert {one.verdict for one in found.values()} == {Verdict.SKIPPED}


async def test_a_blocked_inspection_names_the_reason(settings: Settings) -> None:
    async with open_installation(settings, None, url="http://127.0.0.1:1", public="") as one:
        with pytest.raises(CheckBlocked, match="there is no reverse proxy"):
            await reverse_proxy.inspect(one)
