"""The headers of a picture, and that nothing of a stranger's text leaves its place in them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.formats import TRAITS, Format
from proxy.domain.render_plan import RenderPlan
from proxy.domain.request import Origin, parse_request
from proxy.settings import LifetimeSettings, Settings
from proxy.web.headers import (
    SECURITY,
    ImageRoute,
    cache_control,
    cache_status,
    content_disposition,
    content_headers,
    http_date,
    server_timing,
    tags,
    validators,
    varies_by,
)
from proxy.web.responses import to_head
from tests.web.plans import MEDIA, plan

# RFC 6266, 4.1: a quoted string without escapes, then for other alphabets an RFC 8187 value.
_DISPOSITION = re.compile(
    r'inline; filename="([A-Za-z0-9._-]+)"(?:; filename\*=UTF-8\'\'((?:%[0-9A-F]{2}|[\w.~-])+))?',
    re.ASCII,
)


def disposed(name: str | None, query: str = "") -> tuple[str, str | None]:
    """The plain name and the readable one that a Content-Disposition gives."""
    of = plan(query, name=name)
    match = _DISPOSITION.fullmatch(content_disposition(of, of.variant.format))
    assert match is not None
    return match[1], None if match[2] is None else unquote(match[2], errors="strict")


def kept(of: RenderPlan, origin: Origin = Origin.MEMORY) -> dict[str, str]:
    pairs = validators(of, of.variant, origin, route=ImageRoute.SERVE, lifetimes=LifetimeSettings())
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("name", "plain", "readable"),
    [
        ("bicycle.jpg", "bicycle-detail.webp", None),
        ("bicycle", "bicycle-detail.webp", None),
        ("bicycle.tar.gz", "bicycle.tar-detail.webp", None),
        ("Red Bicycle.jpg", "Red-Bicycle-detail.webp", "Red Bicycle-detail.webp"),
        ("Überfahrt.jpg", "Uberfahrt-detail.webp", "Überfahrt-detail.webp"),
        ("自転車.jpg", "media-789-detail.webp", "自転車-detail.webp"),
        ("🚢.jpg", "media-789-detail.webp", "🚢-detail.webp"),
        ("100%25.jpg", "100-25-detail.webp", "100%25-detail.webp"),
        ('a"; filename="b.exe', "a-filename-b-detail.webp", 'a"; filename="b-detail.webp'),
        ("a\\", "a-detail.webp", None),
        ("a'b*c;d,e.jpg", "a-b-c-d-e-detail.webp", "a'b*c;d,e-detail.webp"),
    ],
)
def test_a_picture_is_saved_under_the_name_that_it_came_with(
    name: str, plain: str, readable: str | None
) -> None:
    assert disposed(name) == (plain, readable)


@pytest.mark.parametrize("name", [None, "", " ", ".", "..", "/", "\\", "...", "a/", "-.-", "C:"])
def test_a_picture_without_a_name_has_that_of_its_id(name: str | None) -> None:
    plain, _ = disposed(name)
    assert plain in ("media-789-detail.webp", "a-detail.webp")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\Users\\me\\passwd.jpg",
        "C:\\fakepath\\passwd.jpg",
        "..\\..\\passwd.jpg",
        "https://example.org/a/passwd.jpg",
    ],
)
def test_of_a_path_only_its_last_part_is_kept(name: str) -> None:
    assert disposed(name) == ("passwd-detail.webp", None)


@pytest.mark.parametrize(
    "name",
    [
        "a\r\nSet-Cookie: b=c.jpg",
        "a\nb.jpg",
        "a\0b.jpg",
        "a\x7f\x1b[31mb.jpg",
        "a\u2028b.jpg",
        "a\u202egpj.exe",
        "\ud800.jpg",
        "a\x85b.jpg",
    ],
)
def test_a_name_that_would_break_the_header_is_made_safe(name: str) -> None:
    of = plan(name=name)
    text = content_disposition(of, of.variant.format)
    assert text.isascii()
    assert text.isprintable()
    disposed(name)


def test_a_long_name_is_cut() -> None:
    plain, _ = disposed("x" * 5000 + ".jpg")
    assert plain == "x" * 80 + "-detail.webp"


@given(st.text())
@example('";\r\n\\')
@example("\ud800\udfff")
@example("." * 100)
def test_any_name_gives_a_header_of_the_right_form(name: str) -> None:
    plain, readable = disposed(name)
    assert plain.endswith("-detail.webp")
    assert not plain.startswith((".", "-"))
    assert readable is None or "/" not in readable.replace("\\", "/")
    # A second reader, which knows RFC 2231, agrees about the name.
    of = plan(name=name)
    message = Message()
    message["Content-Disposition"] = content_disposition(of, of.variant.format)
    assert message.get_filename() in (plain, readable)


@pytest.mark.parametrize("fmt", Format)
def test_the_name_tells_size_and_format(fmt: Format) -> None:
    of = plan("size=grid", fmt=fmt, name="a.jpg")
    expected = f'inline; filename="a-grid.{TRAITS[fmt].suffix}"'
    assert content_disposition(of, of.variant.format) == expected


@pytest.mark.parametrize("fmt", Format)
def test_the_content_type_is_that_of_our_encoder(fmt: Format) -> None:
    of = plan(fmt=fmt)
    headers = dict(content_headers(of, of.variant.format))
    assert headers["Content-Type"] == f"image/{fmt.value}"
    assert headers["Accept-Ranges"] == "bytes"


def test_a_background_that_stayed_is_told() -> None:
    stayed, removed = plan("bg=removed"), plan("bg=removed", flat_background=True)
    assert "Smartserve-Background" in dict(content_headers(stayed, stayed.variant.format))
    assert "Smartserve-Background" not in dict(content_headers(removed, removed.variant.format))


def test_a_304_carries_what_a_cache_updates() -> None:
    headers = kept(plan())
    assert headers["ETag"] == plan().variant.etag
    assert headers["Last-Modified"] == "Fri, 20 Nov 2026 10:30:15 GMT"
    assert headers["Cache-Control"].startswith("public, max-age=")
    assert headers["Cache-Tag"] == "m-789,u-42,s-detail"
    assert headers["Surrogate-Key"] == "m-789 u-42 s-detail"


def test_last_modified_is_never_later_than_the_row() -> None:
    moment = parsedate_to_datetime(kept(plan())["Last-Modified"])
    assert moment == MEDIA.updated_at.replace(microsecond=0)


@pytest.mark.parametrize("origin", Origin)
def test_only_a_negotiated_answer_varies(origin: Origin) -> None:
    assert kept(plan(), origin)["Vary"] == "Accept"
    assert kept(plan("format=auto"), origin)["Vary"] == "Accept"
    assert "Vary" not in kept(plan("format=webp"), origin)


@pytest.mark.parametrize("origin", Origin)
def test_every_answer_may_be_shown_anywhere_and_does_nothing_else(origin: Origin) -> None:
    assert kept(plan(), origin).items() >= dict(SECURITY).items()
    assert dict(SECURITY)["X-Content-Type-Options"] == "nosniff"
    assert dict(SECURITY)["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("timings", "text"),
    [
        ([], ""),
        ([("memory", 0.0)], "memory;dur=0.0"),
        ([("queue", 0.25), ("render", 0.0123456)], "queue;dur=250.0, render;dur=12.3"),
        ([("disk", 1e-7)], "disk;dur=0.0"),
    ],
)
def test_server_timing_is_in_milliseconds(timings: list[tuple[str, float]], text: str) -> None:
    assert server_timing(timings) == text


def test_server_timing_names_a_draft_before_its_times() -> None:
    assert server_timing([("render", 0.1)], draft=True) == "draft, render;dur=100.0"
    assert server_timing([("memory", None)], draft=True) == "draft, memory"
    assert server_timing([("memory", None)]) == "memory"


@pytest.mark.parametrize("origin", Origin)
def test_every_origin_is_a_token_that_server_timing_may_name(origin: Origin) -> None:
    assert re.fullmatch(r"[a-z_]+", origin)


@given(st.text())
def test_no_name_adds_a_line_to_the_head(name: str) -> None:
    of = plan(name=name)
    headers = content_headers(of, of.variant.format)
    assert to_head(200, headers).count(b"\n") == 2 + len(headers)


def test_a_date_is_that_of_http() -> None:
    moment = datetime(2026, 3, 1, 12, 30, 45, 999, tzinfo=UTC)
    assert http_date(moment) == "Sun, 01 Mar 2026 12:30:45 GMT"
    assert http_date(moment.astimezone(timezone(timedelta(hours=5)))) == http_date(moment)


LIFETIMES = LifetimeSettings()
STAND_INS = {Origin.FALLBACK}
KEPT_LONG = [origin for origin in Origin if origin not in STAND_INS]


def control(
    of: RenderPlan, origin: Origin = Origin.MEMORY, *, route: ImageRoute = ImageRoute.SERVE
) -> str:
    return cache_control(of, origin, route=route, lifetimes=LIFETIMES)


@pytest.mark.parametrize("origin", KEPT_LONG)
def test_the_picture_asked_for_may_be_kept_for_a_year(origin: Origin) -> None:
    assert control(plan(), origin) == "public, max-age=31536000"


def test_a_url_that_names_the_version_never_has_to_be_asked_for_again() -> None:
    assert control(plan("v=3")) == "public, max-age=31536000, immutable"
    assert control(plan("v=")) == "public, max-age=31536000"


@pytest.mark.parametrize("query", ["", "v=3"])
def test_the_api_gives_an_hour_and_a_day_of_grace(query: str) -> None:
    expected = "public, max-age=3600, stale-while-revalidate=86400"
    assert control(plan(query), route=ImageRoute.API_IMAGES) == expected


@pytest.mark.parametrize("route", ImageRoute)
@pytest.mark.parametrize("query", ["", "v=3"])
def test_what_stands_in_for_the_picture_is_asked_for_again_soon(
    route: ImageRoute, query: str
) -> None:
    assert control(plan(query), Origin.FALLBACK, route=route) == "public, max-age=30"


@pytest.mark.parametrize("route", ImageRoute)
@pytest.mark.parametrize("origin", Origin)
def test_a_background_that_stayed_is_asked_for_again_soon(
    route: ImageRoute, origin: Origin
) -> None:
    assert control(plan("bg=removed&v=3"), origin, route=route) == "public, max-age=30"


def test_a_background_that_was_removed_may_be_kept_for_a_year() -> None:
    removed = plan("bg=removed", flat_background=True)
    assert control(removed) == "public, max-age=31536000"


@pytest.mark.parametrize("route", ImageRoute)
@pytest.mark.parametrize("status", ["processing", "downloading"])
def test_a_medium_that_is_not_settled_is_asked_for_again_soon(
    route: ImageRoute, status: str
) -> None:
    assert control(plan("v=3", status=status), route=route) == "public, max-age=30"


def test_the_lifetimes_are_those_of_the_settings() -> None:
    lifetimes = LifetimeSettings(serve_s=1, api_s=2, api_stale_s=3, processing_s=4, fallback_s=5)

    def told(of: RenderPlan, origin: Origin, route: ImageRoute = ImageRoute.SERVE) -> str:
        return cache_control(of, origin, route=route, lifetimes=lifetimes)

    api = "public, max-age=2, stale-while-revalidate=3"
    assert told(plan(), Origin.DISK) == "public, max-age=1"
    assert told(plan(), Origin.DISK, ImageRoute.API_IMAGES) == api
    assert told(plan(status="processing"), Origin.DISK) == "public, max-age=4"
    assert told(plan(), Origin.FALLBACK) == "public, max-age=5"


_TOKEN = r"[A-Za-z][A-Za-z0-9_.*/:-]*"
_ITEM = re.compile(rf"smartserve(?:; (?:hit|stored|collapsed|(?:fwd|detail)={_TOKEN}))+")


@pytest.mark.parametrize("origin", Origin)
def test_cache_status_is_an_item_of_rfc_9211(origin: Origin) -> None:
    status = cache_status(origin)
    assert _ITEM.fullmatch(status)
    # RFC 9211, 2.2: fwd and hit exclude each other.
    assert ("; hit" in status) != ("; fwd=" in status)


def test_cache_status_tells_each_origin_apart() -> None:
    assert len({cache_status(origin) for origin in Origin}) == len(Origin)


@pytest.mark.parametrize(
    ("query", "size"),
    [("", "detail"), ("size=grid&dpr=3", "grid"), ("w=600", "w640"), ("w=300&dpr=2", "w640")],
)
def test_an_answer_can_be_purged_by_medium_user_and_size(query: str, size: str) -> None:
    assert tags(plan(query)) == ("m-789", "u-42", f"s-{size}")


@pytest.mark.parametrize("size", Settings().sizes)
def test_tags_hold_no_separators(size: str) -> None:
    assert all(re.fullmatch(r"[a-z]-\w+", tag) for tag in tags(plan(f"size={size}")))


@pytest.mark.parametrize(
    ("query", "lean", "vary"),
    [
        ("", None, "Accept"),
        ("format=webp", None, ""),
        ("", True, "Accept, Save-Data, ECT"),
        ("", False, "Accept, Save-Data, ECT"),
        ("format=webp", True, "Save-Data, ECT"),
        ("format=webp", False, "Save-Data, ECT"),
    ],
)
def test_vary_names_the_headers_that_decide(query: str, *, lean: bool | None, vary: str) -> None:
    request = parse_request(query, sizes=Settings().size_specs(), lean=lean)
    assert varies_by(request) == vary
    kept_headers = kept(replace(plan(query), request=request))
    assert kept_headers.get("Vary", "") == vary
