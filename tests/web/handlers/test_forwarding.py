"""Forwarding to a media server: what is sent on, stored, shared, rejected, and survived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from anyio.from_thread import start_blocking_portal

from proxy.domain.request import parse_boxes
from tests.support.server import (
    CHROME,
    WEBP_ONLY,
    Background,
    Library,
    Serve,
    Serving,
    background,
    make_settings,
)
from tests.support.uploads import KEY, KEYED, MAIN, PHOTO, USERS, upload
from tests.support.waiting import eventually
from tests.web.wire import exchange

AVIF = b"\0\0\0\x1cftypavif" + bytes(70_000)
IMAGE = {"Content-Type": "image/avif", "ETag": '"0a"', "Vary": "Accept"}
FRESH = {**IMAGE, "Cache-Control": "public, max-age=31536000, immutable"}
DRAFT = {**IMAGE, "Cache-Control": "public, max-age=60, stale-while-revalidate=600"}
OWN = 4
"""An id that is also in the database of the server that forwards."""


@dataclass
class Media:
    """A media server whose answers a test determines."""

    answer: Callable[[web.Request], web.StreamResponse]
    base: str = ""
    requests: list[web.Request] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        await self.gate.wait()
        return self.answer(request)


def fresh(_request: web.Request) -> web.Response:
    return web.Response(body=AVIF, headers=FRESH)


@asynccontextmanager
async def answering() -> AsyncIterator[Media]:
    """Run a media server for the length of the block."""
    media = Media(fresh)
    media.gate.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", media.handle)
    async with TestServer(app) as server:
        media.base = str(server.make_url("")).rstrip("/")
        yield media
        media.gate.set()


@pytest.fixture
async def media() -> AsyncIterator[Media]:
    async with answering() as media:
        yield media


@pytest.fixture
async def main(serve: Serve, media: Media) -> Serving:
    return await serve(main={**MAIN, "forward_to": media.base}, users=USERS)


@pytest.fixture(scope="module")
def _forwarding(
    library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Background, Media]]:
    data_dir = library.copy(tmp_path_factory.mktemp("forwarding") / "data")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(answering()) as media,
        background(
            make_settings(data_dir, main={**MAIN, "forward_to": media.base}, users=USERS)
        ) as found,
    ):
        yield found, media


@pytest.fixture
async def forwarding(
    _forwarding: tuple[Background, Media],
) -> AsyncIterator[tuple[Serving, Media]]:
    """A server and its media server as `main` and `media`, shared by the tests of this module.

    A test that needs an image which no other test requests takes its id from `unused_id`.
    """
    found, media = _forwarding
    media.answer = fresh
    media.requests.clear()
    async with found.serving() as main:
        yield main, media


_ids = count(1000)


@pytest.fixture
def unused_id() -> int:
    """An id of which no response is stored."""
    return next(_ids)


async def get(server: Serving, target: str, **headers: str) -> tuple[int, Any, bytes]:
    sent = {"Accept": CHROME, **headers}
    async with server.client.get(target, headers=sent) as answer:
        return answer.status, answer.headers, await answer.read()


async def stored(server: Serving) -> None:
    """Return when all that was received is stored."""
    forwarder = server.surface.forwarder
    assert forwarder is not None
    await eventually(lambda: not forwarder._tasks)


async def test_an_image_is_forwarded_with_its_query_and_served_as_our_own(
    main: Serving, media: Media
) -> None:
    status, headers, body = await get(main, f"/api/images/{OWN}?size=thumbnail&bg=removed")
    assert (status, body) == (200, AVIF)
    (request,) = media.requests
    assert str(request.rel_url) == f"/serve/{OWN}?size=thumbnail&bg=removed"
    assert request.headers["Accept"] == CHROME
    assert "Authorization" not in request.headers
    assert headers["Content-Type"] == "image/avif"
    assert headers["ETag"] == '"0a"'
    assert headers["Vary"] == "Accept"
    assert headers["X-Content-Type-Options"] == "nosniff"
    # An hour, as for every address under /api/images.
    assert headers["Cache-Control"] == "public, max-age=3600, stale-while-revalidate=86400"
    # Addresses under /serve are those of this server's own media.
    assert (await get(main, f"/serve/{OWN}"))[2] != AVIF
    assert len(media.requests) == 1


async def test_a_response_is_stored_like_an_own_rendition(main: Serving, media: Media) -> None:
    target = f"/api/images/{OWN}?size=grid"
    await get(main, target)
    await stored(main)
    same = ("size=grid&utm=1", "size=detail?size=grid", "size=grid&dpr=1")
    for query in same:
        status, headers, body = await get(main, f"/api/images/{OWN}?{query}")
        assert (status, body) == (200, AVIF)
        assert headers["Cache-Status"].startswith("smartserve; hit; detail=memory")
    assert len(media.requests) == 1
    for query, accept in (("size=small", CHROME), ("size=grid", WEBP_ONLY)):
        await get(main, f"/api/images/{OWN}?{query}", Accept=accept)
    assert len(media.requests) == 3
    # Ranges, conditions and HEAD are answered from the store too.
    assert (await get(main, target, Range="bytes=4-11"))[::2] == (206, b"ftypavif")
    assert (await get(main, target, **{"If-None-Match": '"0a"'}))[::2] == (304, b"")
    assert (await get(main, target, **{"If-Match": '"0a"', "Range": "bytes=0-1"}))[0] == 206
    assert (await get(main, target, **{"If-Match": '"0b"', "Range": "bytes=0-1"}))[0] == 412
    async with main.client.head(target, headers={"Accept": CHROME}) as answer:
        assert answer.headers["Content-Length"] == str(len(AVIF))
    assert len(media.requests) == 3


async def test_ignored_parameters_are_named_of_the_request_and_not_of_the_stored_response(
    main: Serving, media: Media
) -> None:
    target = f"/api/images/{OWN}?size=grid"
    assert (await get(main, f"{target}&h=9"))[1]["Smartserve-Ignored"] == "h"
    await stored(main)
    assert (await get(main, f"{target}&Blur=9"))[1]["Smartserve-Ignored"] == "blur"
    assert "Smartserve-Ignored" not in (await get(main, target))[1]
    unchanged = await get(main, f"{target}&q=9", **{"If-None-Match": '"0a"'})
    assert (unchanged[0], unchanged[1]["Smartserve-Ignored"]) == (304, "q")
    assert len(media.requests) == 1


async def test_a_purge_of_a_forwarded_image_discards_it(main: Serving, media: Media) -> None:
    await get(main, f"/api/images/{OWN}")
    await main.services.storage.purger.medium(OWN)
    await get(main, f"/api/images/{OWN}")
    assert len(media.requests) == 2


async def test_forwarded_copies_are_discarded_when_the_image_becomes_private(
    serve: Serve, media: Media
) -> None:
    key = "correct-horse-battery-staple"
    main = await serve(main={**MAIN, "forward_to": media.base}, users=USERS, admin={"key": key})
    targets = [f"/api/images/{OWN}?size={size}" for size in ("grid", "header")]
    for target in targets:
        await get(main, target)
        await stored(main)
        assert (await get(main, target))[0] == 200
    assert len(media.requests) == 2
    media.answer = lambda _: web.Response(status=404)
    async with main.client.put(
        f"/api/media/{OWN}/visibility",
        json={"visibility": "private"},
        headers={"Authorization": f"Bearer {key}"},
    ) as answer:
        assert answer.status == 200, await answer.text()
    for target in targets:
        assert (await get(main, target))[0] == 404


@pytest.mark.parametrize("query", ["size=grid", "size=grid&dpr=2", "w=640", "size=thumbnail"])
async def test_a_purge_by_size_discards_the_forwarded_image_whose_id_is_also_ours(
    main: Serving, media: Media, query: str
) -> None:
    """The own image with this id, whose dimensions are known, has other shapes."""
    own = await main.services.storage.repository.find(OWN)
    assert own is not None
    assert own.known_facts is not None
    target, other = f"/api/images/{OWN}?{query}", f"/api/images/{OWN}?size=zoom"
    for one in (target, other):
        await get(main, one)
        await stored(main)
    size = query.partition("&")[0]
    boxes = parse_boxes(size, sizes=main.services.settings.size_specs())
    assert (await main.services.storage.purger.medium(OWN, boxes)).dropped == 1
    for one in (target, other):
        await get(main, one)
    assert len(media.requests) == 3, "only the purged size is requested again"


async def test_simultaneous_requests_share_one_and_are_streamed(
    main: Serving, media: Media
) -> None:
    media.gate.clear()
    target = f"/api/images/{OWN}?size=header"
    running = [asyncio.create_task(get(main, target)) for _ in range(20)]
    await eventually(lambda: bool(media.requests))
    media.gate.set()
    answers = await asyncio.gather(*running)
    assert {(status, body) for status, _, body in answers} == {(200, AVIF)}
    assert len(media.requests) == 1


async def test_an_old_response_is_revalidated_and_a_draft_soon(main: Serving, media: Media) -> None:
    forwarder = main.surface.forwarder
    assert forwarder is not None
    now = forwarder._clock()
    media.answer = lambda _: web.Response(body=AVIF, headers=DRAFT)
    _, headers, _ = await get(main, f"/api/images/{OWN}")
    assert headers["Cache-Control"] == DRAFT["Cache-Control"]
    await stored(main)
    forwarder._clock = lambda: now + 61
    media.answer = lambda _: web.Response(status=304, headers=FRESH)
    status, headers, body = await get(main, f"/api/images/{OWN}")
    assert (status, body) == (200, AVIF)
    assert headers["Cache-Control"].startswith("public, max-age=3600")
    assert media.requests[-1].headers["If-None-Match"] == '"0a"'
    assert len(media.requests) == 2
    await stored(main)
    forwarder._clock = lambda: now + 3500
    await get(main, f"/api/images/{OWN}")
    assert len(media.requests) == 2
    forwarder._clock = lambda: now + 3700
    await get(main, f"/api/images/{OWN}")
    assert len(media.requests) == 3


@pytest.mark.parametrize("name", ["Range", "If-None-Match", "If-Modified-Since", "If-Range"])
async def test_conditions_and_ranges_of_unknown_images_are_passed_on(
    forwarding: tuple[Serving, Media], unused_id: int, name: str
) -> None:
    main, media = forwarding
    part = {**FRESH, "Content-Range": f"bytes 0-3/{len(AVIF)}"}
    media.answer = lambda _: web.Response(status=206, body=AVIF[:4], headers=part)
    sent = {name: "bytes=0-3" if name == "Range" else '"0b"'}
    status, headers, body = await get(main, f"/api/images/{unused_id}", **sent)
    assert (status, body) == (206, AVIF[:4])
    assert headers["Content-Range"] == part["Content-Range"]
    assert media.requests[0].headers[name] == sent[name]
    media.answer = lambda _: web.Response(status=304, headers=FRESH)
    status, headers, _ = await get(main, f"/api/images/{unused_id}", **sent)
    assert (status, headers["ETag"]) == (304, '"0a"')
    assert "Content-Type" not in headers


@pytest.mark.parametrize("name", [b"Accept", b"If-None-Match", b"If-Range"])
async def test_a_header_that_is_no_utf8_is_passed_on_without_its_bytes(
    forwarding: tuple[Serving, Media], unused_id: int, name: bytes
) -> None:
    main, media = forwarding
    host, port = str(main.client.host), int(main.client.port or 0)
    head = b"GET /api/images/%d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % unused_id
    told = await exchange(host, port, head + name + b': "a\xff"\r\n\r\n')
    assert told.startswith(b"HTTP/1.1 200 "), told
    assert media.requests[0].headers[name.decode()] == '"a\ufffd"'


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (web.Response(status=404), 404),
        (web.Response(status=404, headers={"Retry-After": "7"}), 404),
        (web.Response(status=400), 400),
        (web.Response(status=401), 502),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1/"}), 502),
        (web.Response(status=415), 415),
        (web.Response(status=422), 422),
        (web.Response(status=500), 502),
        (web.Response(status=503, headers={"Retry-After": "7"}), 503),
        (web.Response(status=504), 504),
        (web.Response(status=508), 508),
        (web.Response(text="<script>1</script>", content_type="text/html"), 502),
        (web.Response(body=b"<svg/>", content_type="image/svg+xml"), 502),
        (web.Response(status=206, body=b"x", headers=FRESH), 502),
    ],
    ids=lambda one: str(getattr(one, "content_type", one)),
)
async def test_an_error_of_the_media_server_is_an_error_of_this_one(
    forwarding: tuple[Serving, Media], unused_id: int, answer: web.Response, status: int
) -> None:
    main, media = forwarding
    media.answer = lambda _: answer
    found, headers, body = await get(main, f"/api/images/{unused_id}")
    assert found == status
    assert headers["Content-Type"] == "application/problem+json"
    assert b"script" not in body
    assert headers.get("Retry-After") == (
        answer.headers.get("Retry-After") or ("5" if status == 503 else None)
    )


async def test_what_is_stored_is_served_while_the_media_server_is_away(
    main: Serving, media: Media
) -> None:
    await get(main, f"/api/images/{OWN}")
    await stored(main)
    forwarder = main.surface.forwarder
    assert forwarder is not None
    now = forwarder._clock()
    forwarder._clock = lambda: now + 90_000
    media.answer = lambda _: web.Response(status=500)
    status, headers, body = await get(main, f"/api/images/{OWN}")
    assert (status, body) == (200, AVIF)
    assert headers["Cache-Control"] == "public, max-age=30"
    assert (await get(main, f"/api/images/{OWN}?size=zoom"))[0] == 502
    media.answer = lambda _: web.Response(status=404)
    assert (await get(main, f"/api/images/{OWN}"))[0] == 404


async def test_a_body_that_is_cut_off_is_never_stored_or_complete(
    main: Serving, media: Media
) -> None:
    def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        head = "".join(f"{name}: {value}\r\n" for name, value in FRESH.items())
        start = f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(AVIF)}\r\n\r\n".encode()
        request.transport.write(start + AVIF[:9000])
        request.transport.close()
        return web.Response()

    media.answer = cut
    with pytest.raises(Exception, match=r"payload|disconnect|closed"):
        await get(main, f"/api/images/{OWN}")
    media.answer = lambda _: web.Response(body=AVIF, headers=FRESH)
    assert (await get(main, f"/api/images/{OWN}"))[2] == AVIF


@pytest.mark.parametrize("path", ["api/images/4", "serve/4", "api/media/analysis/4"])
async def test_a_request_that_was_forwarded_before_is_a_loop(
    forwarding: tuple[Serving, Media], path: str
) -> None:
    """Also to an image that is in the response cache: it may be another one with this id."""
    main, media = forwarding
    target = f"/{path}?size=thumbnail"
    for _ in range(2):
        await get(main, target, **KEYED)
    forwarded = {**KEYED, "Smartserve-Forwarded": "1"}
    before = len(media.requests)
    assert (await get(main, target, **forwarded))[0] == 508
    assert len(media.requests) == before


async def test_a_named_backend_that_leads_back_here_is_not_forwarded_to(
    serve: Serve, media: Media
) -> None:
    """MEDIA_BACKEND_URL may be the public name of this very server, behind a proxy."""
    main = await serve(main=MAIN, users=USERS, ingest={"media_backend_url": media.base})
    forwarder = main.surface.forwarder
    assert forwarder is not None
    assert await forwarder.leads_elsewhere()
    media.answer = lambda _: web.Response(status=508)
    status, _, body = await get(main, f"/api/images/{OWN}?size=thumbnail")
    assert status == 200
    assert body != AVIF
    assert not await forwarder.leads_elsewhere()
    assert (await get(main, "/serve/4", **{"Smartserve-Forwarded": "1"}))[0] == 200


async def test_an_id_is_answered_by_the_server_that_reported_it(
    main: Serving, media: Media
) -> None:
    """An upload that this server processed before is still its own."""
    ours, theirs = await upload(main, {"profile_image": PHOTO, "logo_image": PHOTO})
    queue = main.main
    assert queue is not None
    async with queue.queue.database.transaction() as connection:
        await connection.exec_driver_sql(
            f"UPDATE media_files SET main_api_id = {ours['id']} WHERE id = {OWN}"
        )
    for one, media_id in ((ours, OWN), (theirs, 3)):
        body = {"permanent_url": f"{media.base}/serve/{media_id}", "ai_analysis": {"style": "x"}}
        path = f"/api/media/complete/{one['id']}"
        async with main.client.post(path, json=body, headers=KEYED) as answer:
            assert answer.status == 200
    assert (await get(main, f"/api/images/{OWN}"))[2] != AVIF
    assert media.requests == []
    assert (await get(main, "/api/images/3"))[2] == AVIF
    assert await queue.results.servers(3) == {media.base}
    assert await queue.results.servers(OWN) == {""}


async def test_an_analysis_is_that_of_the_media_server_or_of_the_callback(
    main: Serving, media: Media
) -> None:
    (image,) = await upload(main)
    rich = {
        "permanent_url": f"{media.base}/serve/{OWN}",
        "processing_complete": True,
        "ai_enhanced": True,
        "formats_available": ["avif"],
        "ai_analysis": {"style": "Cubism", "brand_colors": ["#FF5733"], "more": {"a": [1]}},
    }
    path = f"/api/media/complete/{image['id']}"
    async with main.client.post(path, json=rich, headers=KEYED) as answer:
        assert answer.status == 200
    queue = main.main
    assert queue is not None
    assert await queue.results.callback(OWN) == rich
    target = f"/api/media/analysis/{OWN}"
    media.answer = lambda _: web.json_response({"success": True, "analysis": {"style": "Pop"}})

    async def analysis() -> tuple[int, Any]:
        async with main.client.get(target, headers=KEYED) as answer:
            return answer.status, await answer.json()

    assert await analysis() == (200, {"success": True, "analysis": {"style": "Pop"}})
    assert media.requests[-1].path == target
    assert media.requests[-1].headers["Authorization"] == f"Bearer {KEY}"
    for away in (web.Response(status=500), web.Response(text="<html>")):
        media.answer = lambda _, away=away: away  # type: ignore[misc]
        told = await analysis()
        assert told == (200, {"success": True, "analysis": rich["ai_analysis"]})
    media.answer = lambda _: web.Response(status=404, headers={"Retry-After": "9"})
    assert (await analysis())[0] == 404
    async with main.client.get(target) as answer:
        assert answer.status == 401


SIGNATURE = f"exp=2000000000&kid=a&sig={'A' * 43}"


async def test_a_signed_response_is_passed_on_and_never_stored(main: Serving, media: Media) -> None:
    control = "public, max-age=86400, s-maxage=86400, must-revalidate"
    signed = {**IMAGE, "Cache-Control": control}
    media.answer = lambda _: web.Response(body=AVIF, headers=signed)
    for number in (1, 2):
        status, headers, body = await get(main, f"/api/images/{OWN}?size=grid&{SIGNATURE}")
        assert (status, body) == (200, AVIF)
        # Not longer than the media server allows.
        assert headers["Cache-Control"] == control
        assert len(media.requests) == number
        assert str(media.requests[-1].rel_url) == f"/serve/{OWN}?size=grid&{SIGNATURE}"
    media.answer = lambda _: web.Response(status=404)
    for other in ("", f"&{SIGNATURE}"):
        assert (await get(main, f"/api/images/{OWN}?size=grid{other}"))[0] == 404


async def test_a_signature_neither_forwards_nor_stores_a_public_image_again(
    main: Serving, media: Media
) -> None:
    await get(main, f"/api/images/{OWN}?size=grid")
    await stored(main)
    for number in range(5):
        query = f"size=grid&exp=2000000000&kid=a&sig={number:043d}"
        status, headers, body = await get(main, f"/api/images/{OWN}?{query}")
        assert (status, body) == (200, AVIF)
        assert headers["Cache-Status"].startswith("smartserve; hit; detail=memory")
    assert len(media.requests) == 1


async def test_the_stale_copy_of_a_public_image_is_not_sent_for_a_signed_url(
    main: Serving, media: Media
) -> None:
    media.answer = lambda _: web.Response(body=AVIF, headers={**IMAGE, "Cache-Control": "no-cache"})
    await get(main, f"/api/images/{OWN}?size=grid&{SIGNATURE}")
    media.answer = lambda _: web.Response(status=503)
    assert (await get(main, f"/api/images/{OWN}?size=grid&{SIGNATURE}"))[0] == 503
