"""The headers of a picture, and that nothing of a stranger's text leaves its place in them."""

from __future__ import annotations

import re
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.formats import TRAITS, Format
from proxy.domain.outcome import Origin
from proxy.domain.render_plan import RenderPlan
from proxy.settings import LifetimeSettings
from proxy.web.cache_headers import ImageRoute
from proxy.web.headers import (
    SECURITY,
    DateLine,
    content_disposition,
    content_headers,
    server_timing,
    to_head,
    validators,
)
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


@pytest.mark.parametrize("origin", Origin)
def test_every_origin_is_a_token_that_server_timing_may_name(origin: Origin) -> None:
    assert re.fullmatch(r"[a-z_]+", origin)


def test_a_head_ends_each_line_and_leaves_its_own_end_open() -> None:
    head = to_head(206, [("Content-Type", "image/webp"), ("Content-Length", "5")])
    assert head == (
        b"HTTP/1.1 206 Partial Content\r\nServer: smartserve\r\n"
        b"Content-Type: image/webp\r\nContent-Length: 5\r\n"
    )


@given(st.text())
def test_no_name_adds_a_line_to_the_head(name: str) -> None:
    of = plan(name=name)
    headers = content_headers(of, of.variant.format)
    assert to_head(200, headers).count(b"\n") == 2 + len(headers)


def test_the_date_line_is_a_date_of_now() -> None:
    line = DateLine().now().decode()
    assert line.endswith(" GMT\r\n")
    assert parsedate_to_datetime(line.removeprefix("Date: ").strip()).tzinfo is not None
