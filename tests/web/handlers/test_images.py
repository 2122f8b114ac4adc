"""The picture routes on the real application."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from aiohttp import ClientPayloadError
from multidict import CIMultiDict
from PIL import Image
from yarl import URL

from proxy.domain.media import DataType
from proxy.library.import_files import ImportedFile
from tests.support.server import CHROME, WEBP_ONLY, Library, Serve, Serving
from tests.web.wire import answers, exchange

YEAR = "public, max-age=31536000"


def raw(path: str) -> URL:
    """A target that goes out as it is written."""
    return URL(path, encoded=True)


def decoded(body: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(body))
    picture.load()
    return picture


async def get(server: Serving, path: str, accept: str = "*/*", **headers: str) -> Any:
    return await server.client.get(raw(path), headers={"Accept": accept, **headers})


@pytest.fixture
def photo(library: Library) -> str:
    return f"/serve/{library.ids['photo']}"


@pytest.fixture
def badge(library: Library) -> str:
    return f"/serve/{library.ids['badge']}"


@pytest.fixture
def logo(library: Library) -> str:
    return f"/serve/{library.ids['logo']}"


@pytest.mark.parametrize(
    ("accept", "media_type", "kind"),
    [
        (CHROME, "image/avif", "AVIF"),
        (WEBP_ONLY, "image/webp", "WEBP"),
        ("*/*", "image/jpeg", "JPEG"),
        ("image/avif;q=0, image/webp;q=0", "image/jpeg", "JPEG"),
    ],
)
async def test_the_format_follows_the_accept_header(
    shared: Serving, photo: str, accept: str, media_type: str, kind: str
) -> None:
    answer = await get(shared, f"{photo}?size=thumbnail", accept)
    assert (answer.status, answer.content_type) == (200, media_type)
    picture = decoded(await answer.read())
    assert (picture.format, picture.size) == (kind, (300, 300))
    assert answer.headers["Vary"] == "Accept"


async def test_a_transparent_picture_falls_back_to_png(shared: Serving, badge: str) -> None:
    answer = await get(shared, f"{badge}?size=small")
    assert answer.content_type == "image/png"
    assert decoded(await answer.read()).mode == "RGBA"


@pytest.mark.parametrize(
    ("query", "size"),
    [
        ("", (768, 512)),
        ("?size=thumbnail", (300, 300)),
        ("?size=small", (480, 320)),
        ("?size=grid", (500, 333)),
        ("?size=zoom", (768, 512)),
        ("?size=header", (768, 240)),
        ("?size=thumbnail&dpr=1.5", (450, 450)),
        ("?w=100", (128, 85)),
        ("?w=100&dpr=2", (256, 171)),
        ("?size=detail?size=thumbnail", (300, 300)),
        ("?w=100&amp;size=thumbnail", (300, 300)),
        ("?SIZE=Thumbnail&amp;Format=PNG", (300, 300)),
        ("?size=", (768, 512)),
        ("?unknown=1&utm_source=x", (768, 512)),
    ],
)
async def test_sizes_are_as_promised_and_never_enlarged(
    shared: Serving, photo: str, query: str, size: tuple[int, int]
) -> None:
    answer = await get(shared, photo + query)
    assert answer.status == 200
    assert decoded(await answer.read()).size == size


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [
        (".avif", "image/avif"),
        (".webp", "image/webp"),
        (".jpg", "image/jpeg"),
        (".png", "image/png"),
        ("?format=avif", "image/avif"),
        ("?format=jpg", "image/jpeg"),
    ],
)
async def test_an_explicit_format_is_given_whatever_accept_says(
    shared: Serving, photo: str, suffix: str, media_type: str
) -> None:
    answer = await get(shared, photo + suffix, "image/webp")
    assert answer.content_type == media_type
    assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    ("target", "parameter"),
    [
        ("?size=huge", "size"),
        ("?format=bmp", "format"),
        ("?dpr=4", "dpr"),
        ("?w=0", "w"),
        ("?w=4000", "w"),
        ("?w=1e3", "w"),
        ("?bg=blue", "bg"),
        ("?format=jpeg&bg=removed", "format"),
        (".bmp", "extension"),
    ],
)
async def test_a_bad_value_is_named_with_what_is_allowed(
    shared: Serving, photo: str, target: str, parameter: str
) -> None:
    answer = await get(shared, photo + target)
    problem = json.loads(await answer.read())
    assert (answer.status, answer.content_type) == (400, "application/problem+json")
    assert (problem["parameter"], problem["status"]) == (parameter, 400)
    assert problem["allowed"] in problem["detail"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["abc", "1" * 20, "-1", "1.2.3", "%2e%2e", "1%00", "%EF%BC%91", "01"]
)
async def test_a_bad_id_is_a_bad_request(shared: Serving, name: str) -> None:
    answer = await get(shared, f"/serve/{name}")
    assert (answer.status, (await answer.json(content_type=None))["parameter"]) == (400, "media_id")


@pytest.mark.parametrize("name", ["99999", "9" * 19, "0"])
async def test_an_unknown_id_is_not_found_for_a_minute(shared: Serving, name: str) -> None:
    answer = await get(shared, f"/serve/{name}")
    assert answer.status == 404
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert answer.headers["Vary"] == "Accept"


async def test_an_answer_has_the_headers_that_caches_live_on(server: Serving, photo: str) -> None:
    answer = await get(server, f"{photo}?size=small", CHROME)
    media_id = photo.removeprefix("/serve/")
    headers = answer.headers
    assert headers["Cache-Control"] == YEAR
    assert headers["ETag"].startswith('"')
    assert headers["Last-Modified"].endswith("GMT")
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Status"] == "smartserve; fwd=uri-miss; stored; detail=render"
    assert headers["Cache-Tag"] == f"m-{media_id},u-7,s-small"
    assert headers["Surrogate-Key"] == f"m-{media_id} u-7 s-small"
    assert headers["Content-Disposition"].startswith('inline; filename="kodak-03-small.avif"')
    assert "render;dur=" in headers["Server-Timing"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Timing-Allow-Origin"] == "*"
    assert headers["Content-Security-Policy"] == "default-src 'none'"
    assert headers["X-Request-Id"]


async def test_a_named_version_makes_the_answer_immutable(shared: Serving, photo: str) -> None:
    answer = await get(shared, f"{photo}?size=small&v=abc")
    assert answer.headers["Cache-Control"] == f"{YEAR}, immutable"


async def test_the_api_route_is_the_same_for_an_hour(shared: Serving, photo: str) -> None:
    served = await get(shared, f"{photo}?size=small", CHROME)
    api = await get(shared, photo.replace("/serve/", "/api/images/") + "?size=small", CHROME)
    assert await api.read() == await served.read()
    assert api.headers["ETag"] == served.headers["ETag"]
    assert api.headers["Cache-Control"] == "public, max-age=3600, stale-while-revalidate=86400"


async def test_the_second_request_is_a_hit_in_memory(server: Serving, photo: str) -> None:
    first = await get(server, f"{photo}?size=small")
    answers = [await get(server, f"{photo}?size=small") for _ in range(3)]
    bodies = {await answer.read() for answer in [first, *answers]}
    assert len(bodies) == 1
    assert [answer.headers["Cache-Status"] for answer in answers] == [
        "smartserve; hit; detail=memory"
    ] * 3
    assert server.renders() == 1


async def test_a_hot_answer_has_the_headers_of_the_first(shared: Serving, photo: str) -> None:
    changing = {"Date", "X-Request-Id", "Server-Timing", "Cache-Status"}
    answers = [await get(shared, f"{photo}?size=small", CHROME) for _ in range(4)]
    kept = [
        {name: value for name, value in answer.headers.items() if name.title() not in changing}
        for answer in answers
    ]
    assert kept[0] == kept[1] == kept[2] == kept[3]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4


async def test_after_a_restart_the_second_request_is_a_hit_on_disk(
    serve: Serve, photo: str
) -> None:
    first = await serve()
    body = await (await get(first, f"{photo}?size=small")).read()
    await first.services.serving.renderer.drain()
    second = await serve()
    answer = await get(second, f"{photo}?size=small")
    assert answer.headers["Cache-Status"] == "smartserve; hit; detail=disk"
    assert await answer.read() == body
    assert second.renders() == 0


async def test_two_hundred_equal_misses_are_one_render(serve: Serve, photo: str) -> None:
    server = await serve(workers={"count": 2})

    async def body() -> bytes:
        answer = await get(server, f"{photo}?size=grid", CHROME)
        assert answer.status == 200
        return bytes(await answer.read())

    bodies = await asyncio.gather(*(body() for _ in range(200)))
    assert len(set(bodies)) == 1
    assert server.renders() == 1


async def test_head_tells_what_get_would_and_renders_nothing(server: Serving, photo: str) -> None:
    before = await server.client.head(raw(f"{photo}?size=small"))
    assert (before.status, server.renders()) == (200, 0)
    assert "Content-Length" not in before.headers
    got = await get(server, f"{photo}?size=small")
    after = await server.client.head(raw(f"{photo}?size=small"))
    assert before.headers["ETag"] == got.headers["ETag"] == after.headers["ETag"]
    assert after.headers["Content-Length"] == str(len(await got.read()))
    assert await after.read() == b""


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_a_client_that_has_it_gets_304(
    shared: Serving, photo: str, form: str, *, hot: bool
) -> None:
    path = f"{photo}?size=small"
    first = await get(shared, path, CHROME)
    if hot:
        await get(shared, path, CHROME)
    etag = first.headers["ETag"]
    answer = await get(shared, path, CHROME, **{"If-None-Match": form.format(etag)})
    assert (answer.status, await answer.read()) == (304, b"")
    assert answer.headers["ETag"] == etag
    assert answer.headers["Vary"] == "Accept"
    assert answer.headers["Cache-Control"] == YEAR
    assert "Content-Length" not in answer.headers


async def test_a_304_asks_no_store_and_renders_nothing(serve: Serve, photo: str) -> None:
    first = await serve()
    etag = (await get(first, f"{photo}?size=small")).headers["ETag"]
    await first.services.serving.renderer.drain()
    await first.services.storage.renditions.purge(int(photo.rpartition("/")[2]))
    second = await serve()
    answer = await get(second, f"{photo}?size=small", **{"If-None-Match": etag})
    assert (answer.status, second.renders()) == (304, 0)
    assert second.metric("smartserve_cache_misses_total", tier="memory") == 0


@pytest.mark.parametrize("hot", [False, True])
async def test_tags_on_several_header_lines_are_one_list(
    shared: Serving, photo: str, *, hot: bool
) -> None:
    path = f"{photo}?size=small"
    etag = (await get(shared, path)).headers["ETag"]
    if hot:
        await get(shared, path)
    lines = [("Accept", "*/*"), ("If-None-Match", '"other"'), ("If-None-Match", etag)]
    assert (await shared.client.get(path, headers=CIMultiDict(lines))).status == 304


async def test_another_tag_gets_the_picture(shared: Serving, photo: str) -> None:
    for _ in range(3):
        answer = await get(shared, f"{photo}?size=small", **{"If-None-Match": '"other"'})
        assert answer.status == 200


async def test_if_modified_since_counts_where_there_is_no_tag(shared: Serving, photo: str) -> None:
    path = f"{photo}?size=small"
    modified = (await get(shared, path)).headers["Last-Modified"]
    assert (await get(shared, path, **{"If-Modified-Since": modified})).status == 304
    past = "Thu, 01 Jan 1970 00:00:01 GMT"
    assert (await get(shared, path, **{"If-Modified-Since": past})).status == 200


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-99", 0, 100), ("bytes=100-", 100, None), ("bytes=-50", -50, None)],
)
async def test_one_range_is_answered_with_that_part(
    shared: Serving, photo: str, wanted: str, start: int, stop: int | None
) -> None:
    path = f"{photo}?size=small"
    missed = await get(shared, path, Range=wanted)
    whole = await (await get(shared, path)).read()
    hit = await get(shared, path, Range=wanted)
    expected = whole[start:stop]
    first = start if start >= 0 else len(whole) + start
    for answer in (missed, hit):
        assert (answer.status, await answer.read()) == (206, expected)
        last = first + len(expected) - 1
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"


async def test_a_range_from_a_large_file_on_disk_is_streamed(serve: Serve, photo: str) -> None:
    small_memory = {"memory_max_item_bytes": 1000}
    server = await serve(renditions=small_memory)
    path = f"{photo}.png"
    whole = await (await get(server, path)).read()
    await server.services.serving.renderer.drain()
    assert len(whole) > 300_000
    again = await get(server, path)
    assert again.headers["Cache-Status"] == "smartserve; hit; detail=disk"
    assert again.headers["Content-Length"] == str(len(whole))
    assert await again.read() == whole
    part = await get(server, path, Range="bytes=1000-299999")
    assert (part.status, await part.read()) == (206, whole[1000:300000])


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "items=0-1", "bytes=x-y", "bytes=-", "junk"])
async def test_ranges_that_are_not_one_are_answered_whole(
    shared: Serving, photo: str, wanted: str
) -> None:
    answer = await get(shared, f"{photo}?size=thumbnail", Range=wanted)
    assert answer.status == 200


async def test_a_range_past_the_end_cannot_be_satisfied(shared: Serving, photo: str) -> None:
    path = f"{photo}?size=thumbnail"
    length = len(await (await get(shared, path)).read())
    answer = await get(shared, path, Range=f"bytes={length}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{length}"
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("place", ["nowhere", "disk", "memory"])
async def test_a_precondition_that_fails_is_a_412_wherever_the_image_is(
    serve: Serve, photo: str, place: str, method: str
) -> None:
    server, path = await serve(), f"{photo}?size=thumbnail"
    if place != "nowhere":
        for _ in range(3):
            first = await get(server, path)
            await first.read()
        # What was rendered is stored after the response; before that it is in memory only.
        await server.services.serving.renderer.drain()
        if place == "disk":
            server.services.storage.renditions.memory.clear()
    for name, value in (
        ("If-Match", '"0"'),
        ("If-Unmodified-Since", "Mon, 01 Jan 2001 00:00:00 GMT"),
    ):
        for more in ({}, {"Range": "bytes=10-19"}, {"If-None-Match": "*"}):
            headers = {"Accept": "*/*", name: value, **more}
            answer = await server.client.request(method, raw(path), headers=headers)
            assert (answer.status, answer.headers["Cache-Control"]) == (412, "no-store"), name
            assert answer.content_type == "application/problem+json"
    assert server.renders() == 1 or (place, method) == ("nowhere", "HEAD")


async def test_a_precondition_that_holds_changes_nothing(shared: Serving, photo: str) -> None:
    path = f"{photo}?size=thumbnail"
    first = await get(shared, path)
    body, etag, date = await first.read(), first.headers["ETag"], first.headers["Last-Modified"]
    for headers in (
        {"If-Match": etag},
        {"If-Match": f'"0", {etag}'},
        {"If-Match": "*"},
        {"If-Unmodified-Since": date},
        {"If-Unmodified-Since": "yesterday"},
        {"If-Match": etag, "If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
    ):
        answer = await get(shared, path, **headers)
        assert (answer.status, await answer.read()) == (200, body), headers
        part = await get(shared, path, **headers, Range="bytes=10-19")
        assert (part.status, await part.read()) == (206, body[10:20]), headers
        valid = await get(shared, path, **headers, **{"If-None-Match": etag})
        assert valid.status == 304, headers
    weak = await get(shared, path, **{"If-Match": f"W/{etag}"})
    assert weak.status == 412


async def test_if_range_holds_only_for_the_same_tag(shared: Serving, photo: str) -> None:
    path = f"{photo}?size=thumbnail"
    etag = (await get(shared, path)).headers["ETag"]
    same = {"Range": "bytes=0-9", "If-Range": etag}
    assert (await get(shared, path, **same)).status == 206
    for other in ('"other"', f"W/{etag}"):
        answer = await get(shared, path, **{"Range": "bytes=0-9", "If-Range": other})
        assert answer.status == 200


# Without finals a draft is kept: its JPEG is optimised, which takes the whole image.
DRAFTS: Mapping[str, Any] = {"enabled": True, "all_sizes": False, "budget_s": 0}


async def test_a_large_jpeg_comes_in_chunks_while_it_is_made(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades={**DRAFTS, "max_backlog": 1})
    path = f"/serve/{library.ids['large']}"
    first = await get(server, path)
    body = await first.read()
    assert first.headers["Transfer-Encoding"] == "chunked"
    assert decoded(body).size == (1200, 900)
    await server.services.serving.renderer.drain()
    second = await get(server, path)
    assert second.headers["Content-Length"] == str(len(body))
    assert await second.read() == body


async def test_a_render_that_fails_on_the_way_is_no_whole_answer(
    serve: Serve, library: Library
) -> None:
    limit = {"max_rendition_bytes": 1024 * 1024}
    server = await serve(renditions=limit, workers={"count": 1}, upgrades=DRAFTS)
    path = f"/serve/{library.ids['large']}?size=zoom"
    with pytest.raises(ClientPayloadError):
        await (await get(server, path)).read()
    await server.services.serving.renderer.drain()
    assert server.metric("smartserve_cache_items", tier="disk") == 0
    assert server.metric("smartserve_worker_restarts_total", reason="oversize") == 1


async def test_an_http_1_0_client_gets_a_length_and_no_chunks(server: Serving, photo: str) -> None:
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    writer.write(f"GET {photo} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"Transfer-Encoding" not in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
async def test_a_hot_answer_keeps_or_closes_the_connection_as_asked(
    server: Serving, photo: str, version: str, connection: str, *, stays: bool
) -> None:
    path = f"{photo}?size=thumbnail"
    for _ in range(2):
        await get(server, path, "")
    line = f"Connection: {connection}\r\n" if connection else ""
    request = f"GET {path} HTTP/{version}\r\nHost: x\r\nAccept: \r\n{line}\r\n".encode()
    reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    await reader.readexactly(length)
    assert b"detail=memory" in head
    writer.write(request)
    assert bool(await reader.read(1)) is stays
    writer.close()


async def test_pipelined_hits_are_answered_in_order(shared: Serving, photo: str) -> None:
    sizes = ["thumbnail", "small", "thumbnail"]
    bodies = [await (await get(shared, f"{photo}?size={size}")).read() for size in sizes]
    requests = [f"GET {photo}?size={size} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for size in sizes]
    reader, writer = await asyncio.open_connection(shared.client.host, shared.client.port)
    writer.write(b"".join(requests))
    for body in bodies:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(body)) == body
    writer.close()


async def test_a_flat_background_is_removed(shared: Serving, logo: str) -> None:
    kept = decoded(await (await get(shared, f"{logo}?size=small&format=png")).read())
    answer = await get(shared, f"{logo}?size=small&bg=removed&format=png")
    cut = decoded(await answer.read()).convert("RGBA")
    assert kept.convert("RGBA").getpixel((0, 0))[3] == 255  # type: ignore[index]
    assert cut.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert answer.headers["Cache-Control"] == YEAR


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [(CHROME, "image/avif"), (WEBP_ONLY, "image/webp"), ("*/*", "image/png")],
)
async def test_a_removed_background_is_never_jpeg(
    shared: Serving, logo: str, accept: str, media_type: str
) -> None:
    answer = await get(shared, f"{logo}?size=small&bg=removed", accept)
    assert answer.content_type == media_type


async def test_a_background_that_cannot_be_removed_is_kept_and_said(
    shared: Serving, photo: str
) -> None:
    answer = await get(shared, f"{photo}?size=small&bg=removed")
    original = await get(shared, f"{photo}?size=small")
    assert await answer.read() == await original.read()
    assert answer.headers["Cache-Control"] == "public, max-age=30"
    assert answer.headers["Smartserve-Background"] == "original; reason=border-not-uniform"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"},
        {"Cookie": "size=zoom"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"X-Request-Id": "evil\tid"},
    ],
)
async def test_no_header_of_the_client_reaches_the_answer(
    shared: Serving, photo: str, headers: dict[str, str]
) -> None:
    plain = await get(shared, f"{photo}?size=thumbnail")
    answer = await get(shared, f"{photo}?size=thumbnail", **headers)
    assert await answer.read() == await plain.read()
    assert answer.headers["ETag"] == plain.headers["ETag"]
    told = " ".join(f"{name}: {value}" for name, value in answer.headers.items())
    assert not [value for value in headers.values() if value in told]


async def test_no_spelling_of_an_id_is_an_alias_even_of_a_cached_image(
    shared: Serving, photo: str
) -> None:
    number = photo.removeprefix("/serve/")
    assert (await get(shared, f"{photo}?size=small")).status == 200
    for route in ("serve", "api/images", "info"):
        for alias in (f"0{number}", f"000{number}", f"00{number}.webp"):
            answer = await get(shared, f"/{route}/{alias}?size=small")
            assert answer.status == 400, (route, alias)
    for query in (f"ids=0{number}", f"ids={number},0{number}"):
        assert (await get(shared, f"/info?{query}")).status == 400
    url = f"http://{shared.client.host}:{shared.client.port}/serve/0{number}"
    assert (await get(shared, f"/oembed?url={url}")).status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("/serve/2/?size=detail?size=thumbnail", "/serve/2?size=detail?size=thumbnail"),
        ("/serve/2.webp/", "/serve/2.webp"),
        ("/api/images/2/?w=3&amp;v=%2F", "/api/images/2?w=3&amp;v=%2F"),
        ("/info/2/", "/info/2"),
        ("/info/?ids=1", "/info?ids=1"),
        ("/oembed/?url=http://x/", "/oembed?url=http://x/"),
        ("/static/smart-image.js/", "/static/smart-image.js"),
        ("/%2e%2e%2Felsewhere:8/", "/%2e%2e%2Felsewhere:8"),
        ("/caf%C3%A9%0d%0aX:1/", "/caf%C3%A9%0d%0aX:1"),
    ],
)
async def test_a_trailing_slash_redirects_to_the_address_without_it(
    shared: Serving, method: str, address: str, location: str
) -> None:
    answer = await shared.client.request(method, raw(address), allow_redirects=False)
    assert (answer.status, await answer.read()) == (301, b"")
    # Resolved as a browser does, also below a prefix that a proxy has removed.
    for base in ("http://h", "http://h/prefix"):
        assert urljoin(base + address, answer.headers["Location"]) == base + location
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cache-Control"] == "public, max-age=3600"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"//elsewhere.example/", "../elsewhere.example"),
        (b"/caf\xc3\xa9\xff/?x=\xe9", "../caf%C3%A9%FF?x=%E9"),
        (b'/"<x>\\`^{|}/', "../%22%3Cx%3E%5C%60%5E%7B%7C%7D"),
    ],
)
async def test_a_redirect_has_no_bytes_that_a_header_may_not_have(
    shared: Serving, target: bytes, location: str
) -> None:
    sent = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target
    (answer,) = answers(await exchange(shared.client.host, shared.client.port or 0, sent))
    assert (answer.status, answer.headers.get("location")) in ((301, location), (400, None))


async def test_a_redirect_from_a_slash_leads_to_the_image(shared: Serving, photo: str) -> None:
    answer = await shared.client.get(raw(f"{photo}/?size=thumbnail"))
    assert (answer.status, answer.url.path_qs) == (200, f"{photo}?size=thumbnail")
    assert decoded(await answer.read()).size == (300, 300)


@pytest.mark.parametrize("address", ["/", "//", "/serve/2//", "/serve//"])
async def test_no_other_slash_redirects(shared: Serving, address: str) -> None:
    answer = await shared.client.get(raw(address), allow_redirects=False)
    assert answer.status in (200, 404)


@pytest.mark.parametrize(
    "address",
    [
        *("/serve/{}", "/serve/{}.webp?w=64", "/serve/undefined", "/api/images/{}", "/info/{}"),
        *("/oembed?url=x", "/static/smart-image.js", "/temp_images/profile/1-profile-1.jpg"),
    ],
)
async def test_a_preflight_is_answered_where_pages_of_other_origins_read(
    shared: Serving, photo: str, address: str
) -> None:
    asked = {
        "Origin": "https://elsewhere.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,x-requested-with",
    }
    target = address.replace("{}", photo.removeprefix("/serve/"))
    answer = await shared.client.options(raw(target), headers=asked)
    assert (answer.status, await answer.read()) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert answer.headers["Allow"] == "GET,HEAD,OPTIONS"
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "x-requested-with", "range", "if-none-match", "*"} <= set(allowed)


@pytest.mark.parametrize("address", ["/api/media/analysis/1", "/users/me", "/api/gallery"])
async def test_no_preflight_is_answered_where_they_may_not(shared: Serving, address: str) -> None:
    answer = await shared.client.options(address, headers={"Origin": "https://elsewhere.example"})
    assert answer.status == 405
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_ignored_parameters_are_named_by_misses_hits_and_304s_alike(
    server: Serving, photo: str
) -> None:
    ours, theirs = f"{photo}?size=small", f"{photo}?size=small&h=99&Q=5&utm_source=x"
    miss = await get(server, theirs, WEBP_ONLY)
    assert "uri-miss" in miss.headers["Cache-Status"]
    plain = [await get(server, ours, WEBP_ONLY) for _ in range(3)]
    hits = [await get(server, theirs, WEBP_ONLY) for _ in range(3)]
    other = await get(server, f"{photo}?blur=3&size=small", WEBP_ONLY)
    etag = {"If-None-Match": miss.headers["ETag"]}
    valid = await get(server, theirs, WEBP_ONLY, **etag)
    assert valid.status == 304
    head = await server.client.head(raw(theirs), headers={"Accept": WEBP_ONLY})
    part = await get(server, theirs, WEBP_ONLY, Range="bytes=0-9")
    assert part.status == 206
    for answer in (miss, *hits, valid, head, part):
        assert answer.headers["Smartserve-Ignored"] == "h, q"
    assert other.headers["Smartserve-Ignored"] == "blur"
    for answer in (*plain, await get(server, ours, WEBP_ONLY, **etag)):
        assert "Smartserve-Ignored" not in answer.headers
    # One rendition and one entry serve all of them.
    for answer in (*plain[1:], *hits, other):
        assert answer.headers["Cache-Status"] == "smartserve; hit; detail=memory"
        assert answer.headers["ETag"] == miss.headers["ETag"]
    assert {await answer.read() for answer in (*plain, *hits, other)} == {await miss.read()}


async def test_ignored_parameters_are_named_with_drafts_and_their_finals(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades={"enabled": True, "budget_s": 0})
    theirs = f"/serve/{library.ids['photo']}?size=thumbnail&height=9"
    draft = await get(server, theirs, WEBP_ONLY)
    assert "detail=draft" in draft.headers["Cache-Status"]
    again = await get(server, theirs, WEBP_ONLY)
    assert draft.headers["Smartserve-Ignored"] == again.headers["Smartserve-Ignored"] == "height"
    head = await server.client.head(raw(f"{theirs}&size=zoom"), headers={"Accept": WEBP_ONLY})
    assert "uri-miss" in head.headers["Cache-Status"]
    assert head.headers["Smartserve-Ignored"] == "height"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_told_what_is_allowed(
    shared: Serving, photo: str, method: str
) -> None:
    answer = await shared.client.request(method, photo)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD,OPTIONS")
    assert answer.content_type == "application/problem+json"


async def test_an_address_that_leads_nowhere_is_a_problem(shared: Serving) -> None:
    answer = await shared.client.get("/nowhere")
    assert (answer.status, answer.content_type) == (404, "application/problem+json")


async def test_requests_are_counted_by_closed_labels(server: Serving, photo: str) -> None:
    for _ in range(3):
        await get(server, f"{photo}?size=thumbnail", CHROME)
    labels = {"route": "serve", "size": "thumbnail", "format": "avif", "status": "200"}
    assert server.metric("smartserve_requests_total", **labels, source="render") == 1
    assert server.metric("smartserve_requests_total", **labels, source="memory") == 2
    seconds = server.metric("smartserve_request_seconds_count", route="serve", source="memory")
    assert seconds == 2


async def test_a_purge_drops_what_is_hot(server: Serving, photo: str) -> None:
    path = f"{photo}?size=thumbnail"
    for _ in range(3):
        await get(server, path)
    purged = await server.services.storage.purger.medium(int(photo.rpartition("/")[2]))
    assert purged.dropped == 1
    answer = await get(server, path)
    assert answer.headers["Cache-Status"].endswith("detail=render")


async def test_the_status_line_is_plain(shared: Serving, photo: str) -> None:
    assert (await get(shared, photo)).reason == HTTPStatus.OK.phrase


def frames(kind: str, **options: Any) -> bytes:
    """Return an animation of three noisy frames."""
    pictures = [Image.effect_noise((160, 120), 60 + at).convert("RGB") for at in range(3)]
    buffer = io.BytesIO()
    rest = {"save_all": True, "append_images": pictures[1:], "duration": 80}
    pictures[0].save(buffer, kind, **rest, **options)
    return buffer.getvalue()


async def imported(server: Serving, path: Path, content: bytes) -> str:
    """Import a file and return the address of its image."""
    path.write_bytes(content)
    importer = server.services.importer
    taken = await importer.import_file(path, user_id=7, data_type=DataType.PRODUCT)
    assert isinstance(taken, ImportedFile), taken
    return f"/serve/{taken.media_id}"


async def test_a_gif_by_name_is_the_one_that_any_client_gets(serve: Serve, tmp_path: Path) -> None:
    server = await serve()
    moving = await imported(server, tmp_path / "moving.gif", frames("GIF", loop=0))
    answers = [
        await get(server, moving + suffix, accept)
        for suffix, accept in (("", "*/*"), ("?format=gif", CHROME), (".GIF", "image/webp"))
    ]
    assert {answer.content_type for answer in answers} == {"image/gif"}
    assert len({await answer.read() for answer in answers}) == 1
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    assert decoded(await answers[0].read()).n_frames == 3  # type: ignore[attr-defined]
    webp = decoded(await (await get(server, f"{moving}.webp")).read())
    assert getattr(webp, "n_frames", 1) == 3


async def test_a_still_image_can_be_a_gif(shared: Serving, photo: str, badge: str) -> None:
    for address in (photo, f"{badge}?bg=removed"):
        answer = await get(shared, f"{address}{'&' if '?' in address else '?'}format=gif&w=64")
        assert (answer.status, answer.content_type) == (200, "image/gif")
        assert decoded(await answer.read()).width == 64


async def test_an_animated_avif_is_served(serve: Serve, tmp_path: Path) -> None:
    server = await serve()
    moving = await imported(server, tmp_path / "moving.avif", frames("AVIF"))
    for accept, kind in ((CHROME, "WEBP"), (WEBP_ONLY, "WEBP"), ("*/*", "GIF")):
        answer = await get(server, moving, accept)
        picture = decoded(await answer.read())
        assert (picture.format, picture.size) == (kind, (160, 120))
        assert getattr(picture, "n_frames", 1) > 1


async def test_what_is_left_of_a_webp_is_shown_as_that_of_a_jpeg(
    serve: Serve, tmp_path: Path, data_dir: Path
) -> None:
    server = await serve()
    still = Image.effect_noise((320, 240), 60).convert("RGB")
    for kind in ("WEBP", "JPEG"):
        buffer = io.BytesIO()
        still.save(buffer, kind)
        content = buffer.getvalue()
        address = await imported(server, tmp_path / f"one.{kind.lower()}", content)
        (stored,) = [
            path
            for path in data_dir.rglob("*")
            if path.is_file() and path.stat().st_size == len(content)
        ]
        stored.write_bytes(content[: len(content) // 2])
        for suffix in (".jpg", ".webp", ".png?size=thumbnail"):
            answer = await get(server, address + suffix)
            assert answer.status == 200, (kind, await answer.text())
            shown = decoded(await answer.read())
            assert shown.size == ((240, 240) if "size" in suffix else (320, 240)), suffix


HINTS = [{"Save-Data": "on"}, {"ECT": "slow-2g"}, {"ECT": "2g"}, {"ECT": "3g"}]


async def test_without_the_setting_client_hints_change_nothing(shared: Serving, photo: str) -> None:
    plain = await get(shared, photo, CHROME)
    for hint in HINTS:
        hinted = await get(shared, photo, CHROME, **hint)
        assert hinted.headers["ETag"] == plain.headers["ETag"]
        assert hinted.headers["Vary"] == "Accept"
        assert await hinted.read() == await plain.read()


@pytest.mark.parametrize("accept", [CHROME, WEBP_ONLY, "*/*"])
async def test_clients_with_hints_get_at_least_30_percent_fewer_bytes(
    serve: Serve, photo: str, accept: str
) -> None:
    server = await serve(client_hints={"enabled": True})
    path = f"{photo}?size=small"
    plain = await get(server, path, accept)
    length = len(await plain.read())
    for hint in HINTS:
        lean = await get(server, path, accept, **hint)
        assert lean.content_type == plain.content_type
        assert decoded(await lean.read()).size == (480, 320)
        assert len(await lean.read()) <= 0.7 * length
        assert lean.headers["ETag"] != plain.headers["ETag"]
        assert lean.headers["Vary"] == plain.headers["Vary"] == "Accept, Save-Data, ECT"
    # One rendition for all hints.
    assert server.renders() == 2


async def test_each_quality_is_confirmed_and_purged_as_any_rendition(
    serve: Serve, photo: str
) -> None:
    server = await serve(client_hints={"enabled": True})
    path = f"{photo}?size=thumbnail"
    etags = []
    for hint in ({}, {"Save-Data": "on"}):
        etags.append((await get(server, path, CHROME, **hint)).headers["ETag"])
        for _ in range(2):
            hit = await get(server, path, CHROME, **hint)
            assert (hit.headers["ETag"], "memory" in hit.headers["Cache-Status"]) == (
                etags[-1],
                True,
            )
    assert len(set(etags)) == 2
    crossed = {"Save-Data": "on", "If-None-Match": etags[0]}
    assert (await get(server, path, CHROME, **crossed)).status == 200
    right = {"Save-Data": "on", "If-None-Match": etags[1]}
    confirmed = await get(server, path, CHROME, **right)
    assert (confirmed.status, confirmed.headers["Vary"]) == (304, "Accept, Save-Data, ECT")
    labels = {"size": "thumbnail", "format": "avif"}
    assert server.metric("smartserve_requests_total", route="serve", **labels) == 8
    assert server.metric("smartserve_lean_responses_total", **labels) == 5
    assert server.metric("smartserve_lean_responses_total", **labels, source="memory") == 3
    purged = await server.services.storage.purger.medium(int(photo.rpartition("/")[2]))
    assert purged.dropped == 2
