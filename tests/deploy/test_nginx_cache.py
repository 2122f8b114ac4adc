"""A live nginx cache in front of a live server whose requests are counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from proxy.domain.signature import Scope, UrlKeys
from proxy.domain.urls import image_url, original_url
from tests.deploy.conftest import TWO_STAGES, Started
from tests.deploy.front import CLIENT_HINTS, Change, Front, nginx
from tests.deploy.origin import Fetches, Origin
from tests.deploy.programs import DEPLOY, run
from tests.domain.test_negotiation import CLIENTS
from tests.faults.responses import Answer, fetch
from tests.faults.server import Server
from tests.platform.pictures import uploads
from tests.platform.sending import SECRET, send
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

AVIF_TOO = CLIENTS["Chrome 85+, Edge 121+, Opera: img"][0] or ""
WEBP_ONLY = CLIENTS["Safari 14-15: img"][0] or ""
BROWSERS = (
    *(AVIF_TOO, CLIENTS["Firefox 128+: img"][0] or ""),
    *(WEBP_ONLY, CLIENTS["Firefox 65-92: img"][0] or ""),
)
_YEAR = "public, max-age=31536000"


@dataclass(frozen=True, slots=True)
class Pair:
    """nginx in front of a server."""

    front: Front
    fetches: Fetches
    client: aiohttp.ClientSession

    async def fetch(self, target: str, accept: str = AVIF_TOO, **headers: str) -> Answer:
        """Return a response of nginx."""
        return await fetch(self.client, target, Accept=accept, **headers)


@asynccontextmanager
async def in_front_of(
    server: Origin | Server, folder: Path, changes: Iterable[Change] = ()
) -> AsyncIterator[Pair]:
    fetches = Fetches(server)
    await fetches.begin()
    with nginx(folder / "front", "cache", upstream=server.port, changes=changes) as front:
        async with aiohttp.ClientSession(front.base) as client:
            yield Pair(front, fetches, client)


@pytest.fixture
async def pair(origin: Origin, tmp_path: Path) -> AsyncIterator[Pair]:
    async with in_front_of(origin, tmp_path) as one:
        yield one


@pytest.fixture
def photo(library: Library) -> str:
    return f"/serve/{library.ids['photo']}?size=thumbnail"


def header(answer: Answer, name: str) -> str:
    assert isinstance(answer.headers, CIMultiDictProxy)
    return ", ".join(answer.headers.getall(name, ()))


async def test_four_browsers_with_two_formats_cost_two_requests(pair: Pair, photo: str) -> None:
    answers = [await pair.fetch(photo, accept) for accept in BROWSERS for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    types = [header(answer, "Content-Type") for answer in answers]
    assert types == ["image/avif"] * 6 + ["image/webp"] * 6
    assert {header(answer, "Vary") for answer in answers} == {"Accept"}
    assert await pair.fetches.count() == 2


@pytest.mark.parametrize("enabled", [False, True])
async def test_lean_images_have_copies_of_their_own_or_none(
    started: Started, photo: str, tmp_path: Path, *, enabled: bool
) -> None:
    server = await started({"client_hints": {"enabled": True}})
    async with server.client() as client:
        direct = header(await fetch(client, photo, Accept=AVIF_TOO), "ETag")
    async with in_front_of(server, tmp_path, CLIENT_HINTS if enabled else ()) as pair:
        # First, so that its image would be the one that is stored.
        for hint in ({"Save-Data": "on"}, {"ECT": "2g"}, {"ECT": "3g", "Save-Data": "off"}):
            lean = await pair.fetch(photo, **hint)
            assert (header(lean, "ETag") == direct) is not enabled
        for hint in ({}, {"ECT": "4g"}, {"Save-Data": "only"}):
            assert header(await pair.fetch(photo, **hint), "ETag") == direct
        assert await pair.fetches.count() == 1 + enabled


async def test_a_format_in_the_url_costs_one_request(pair: Pair, photo: str) -> None:
    answers = [await pair.fetch(f"{photo}&format=webp", accept) for accept in (*BROWSERS, "*/*")]
    assert {header(answer, "Content-Type") for answer in answers} == {"image/webp"}
    assert await pair.fetches.count() == 1


async def test_concurrent_requests_cost_one_request(pair: Pair, photo: str) -> None:
    answers = await asyncio.gather(*(pair.fetch(photo) for _ in range(50)))
    assert len({answer.body for answer in answers}) == 1
    assert await pair.fetches.count() == 1


async def test_nginx_appends_its_own_cache_status(pair: Pair, photo: str) -> None:
    first, second = await pair.fetch(photo), await pair.fetch(photo)
    assert header(first, "Cache-Status").endswith(", nginx; fwd=uri-miss")
    assert header(second, "Cache-Status").endswith(", nginx; hit")
    assert header(second, "X-Request-Id") == ""


async def test_a_revalidation_is_answered_without_a_request(pair: Pair, photo: str) -> None:
    first = await pair.fetch(photo)
    again = await pair.fetch(photo, **{"If-None-Match": header(first, "ETag")})
    assert (again.status, again.body, header(again, "ETag")) == (304, b"", header(first, "ETag"))
    assert await pair.fetches.count() == 1


async def test_a_range_and_a_head_are_answered_from_the_cache(pair: Pair, photo: str) -> None:
    whole = await pair.fetch(photo)
    part = await pair.fetch(photo, Range="bytes=10-19")
    assert (part.status, part.body) == (206, whole.body[10:20])
    async with pair.client.head(photo, headers={"Accept": AVIF_TOO}) as head:
        assert head.content_length == len(whole.body)
    assert await pair.fetches.count() == 1


async def test_a_stale_copy_is_revalidated_and_not_sent_again(
    started: Started, photo: str, tmp_path: Path
) -> None:
    server = await started({"lifetimes": {"serve_s": 1}})
    async with in_front_of(server, tmp_path) as pair:
        first = await pair.fetch(photo)

        async def requested_again() -> bool:
            assert (await pair.fetch(photo)).body == first.body
            return await pair.fetches.count() >= 2

        await eventually(requested_again, interval_s=0.1)
        assert await pair.fetches.count("200") == 1
        assert await pair.fetches.count("304") == 1


async def test_a_draft_is_replaced_by_its_final(
    started: Started, photo: str, tmp_path: Path
) -> None:
    server = await started({**TWO_STAGES, "lifetimes": {"draft_s": 1, "draft_stale_s": 1}})
    async with in_front_of(server, tmp_path) as pair:
        draft = await pair.fetch(photo)
        assert header(draft, "Cache-Control").startswith("public, max-age=1,")
        # A page reads there that it may ask for the final.
        assert header(draft, "Server-Timing") == "draft"

        async def is_final() -> bool:
            return header(await pair.fetch(photo), "Cache-Control") == _YEAR

        await eventually(is_final, timeout_s=100, interval_s=0.2)
        final = await pair.fetch(photo)
        assert final.body != draft.body
        assert header(final, "Server-Timing") == ""
        again = await pair.fetch(photo, **{"If-None-Match": header(draft, "ETag")})
        assert (again.status, again.body) == (200, final.body)


async def test_a_tag_purges_all_formats(pair: Pair, photo: str, library: Library) -> None:
    other = f"/serve/{library.ids['logo']}?size=thumbnail"
    for target in (photo, other, photo.replace("thumbnail", "small")):
        for accept in (AVIF_TOO, WEBP_ONLY):
            await pair.fetch(target, accept)
    assert await pair.fetches.count() == 6
    purge = DEPLOY / "nginx" / "purge.sh"
    tag = f"m-{library.ids['photo']}"
    assert await asyncio.to_thread(run, purge, tag, pair.front.cache) == "4 dropped\n"
    await pair.fetch(other)
    assert await pair.fetches.count() == 6
    assert (await pair.fetch(photo)).status == 200
    assert await pair.fetches.count() == 7
    assert await asyncio.to_thread(run, purge, "u-7", pair.front.cache) == "3 dropped\n"
    assert await asyncio.to_thread(run, purge, "m-1000", pair.front.cache) == "0 dropped\n"


@pytest.mark.parametrize("tag", ["m-", "m-1.*", "-m-1", "x-1", "m-1 -o", ""])
def test_an_invalid_tag_purges_nothing(tag: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("Cache-Tag: m-1\n")
    run(DEPLOY / "nginx" / "purge.sh", tag, tmp_path, check=False)
    assert (tmp_path / "kept").exists()


async def test_a_local_client_can_refresh_one_url(pair: Pair, photo: str) -> None:
    await pair.fetch(photo)
    assert (await pair.fetch(photo, **{"X-Smartserve-Refresh": "1"})).status == 200
    assert await pair.fetches.count() == 2
    far = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(pair.front.base, connector=far) as client:
        await fetch(client, photo, Accept=AVIF_TOO, **{"X-Smartserve-Refresh": "1"})
    assert await pair.fetches.count() == 2


async def test_cached_images_are_served_while_the_server_is_down(
    started: Started, photo: str, tmp_path: Path
) -> None:
    server = await started({"lifetimes": {"serve_s": 1}})
    async with in_front_of(server, tmp_path) as pair:
        kept = await pair.fetch(photo)
        await server.kill()
        # Until the copy has expired (lifetimes.serve_s).
        await asyncio.sleep(1.1)
        assert (await pair.fetch(photo)).body == kept.body
        assert (await pair.fetch(photo.replace("thumbnail", "zoom"))).status == 502


async def test_private_routes_are_not_forwarded(pair: Pair, photo: str) -> None:
    for target in ("/metrics", "/healthz", "/readyz", "/api/media/1/renditions"):
        assert (await pair.fetch(target)).status == 404
    for method in ("DELETE", "POST", "PUT"):
        async with pair.client.request(method, photo) as answer:
            assert answer.status == 403
    assert (await pair.fetch("/openapi.json")).status == 200


async def test_only_uploads_are_forwarded_to_their_route(started: Started, tmp_path: Path) -> None:
    server = await started({"users": {"jwt_secret": SECRET}})
    picture = uploads(1)[0]
    async with in_front_of(server, tmp_path) as pair:
        sent = await send(pair.front.base, 7, picture)
        assert sent.id > 0
        async with pair.client.patch("/users/me", data=b"") as answer:
            assert answer.status == 401
        async with pair.client.get("/users/me") as answer:
            assert answer.status == 401
        async with pair.client.delete("/users/me") as answer:
            assert answer.status == 403


async def test_ids_of_many_images_are_forwarded_from_any_origin(
    pair: Pair, library: Library
) -> None:
    ids = [library.ids["photo"], library.ids["logo"]]
    async with pair.client.post("/info", json={"ids": ids}) as answer:
        assert [one["id"] for one in (await answer.json())["pictures"]] == ids
    for target in ("/info", f"/info/{ids[0]}", f"/serve/{ids[0]}?size=grid", "/oembed"):
        async with pair.client.options(target) as answer:
            assert answer.status == 204, target
            assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]
    async with pair.client.post("/info", data=bytes(20_000)) as answer:
        assert answer.status == 413
    for method, target in (("PUT", "/info"), ("POST", f"/info/{ids[0]}")):
        async with pair.client.request(method, target) as answer:
            assert answer.status == 403


async def test_a_signed_url_is_never_cached_and_its_original_is_forwarded(
    started: Started, library: Library, tmp_path: Path
) -> None:
    keys = {"a": "k" * 32}
    server = await started(
        {
            "access": {"keys": json.dumps(keys)},
            "access__default_visibility": {"product": "private"},
            "lifetimes": {"signed_shared": True},
        }
    )
    media_id, expires = library.ids["photo"], int(time.time()) + 600
    signed = image_url(
        media_id,
        size="thumbnail",
        signer=lambda one, covers: UrlKeys(keys).parameters(
            Scope.RENDITION, one, covers, expires=expires
        ),
    )
    original = original_url(
        media_id,
        signer=lambda one, covers: UrlKeys(keys).parameters(
            Scope.ORIGINAL, one, covers, expires=expires
        ),
    )
    async with in_front_of(server, tmp_path) as pair:
        for number in (1, 2, 3):
            answer = await pair.fetch(signed)
            assert (answer.status, header(answer, "Content-Type")) == (200, "image/avif")
            assert header(answer, "Cache-Control").startswith("public, max-age=")
            assert await pair.fetches.count() == number
        assert (await pair.fetch(f"/serve/{media_id}?size=thumbnail")).status == 404
        download = await pair.fetch(original)
        assert download.status == 200
        assert header(download, "Content-Disposition").startswith("attachment; ")
        # Without a signature, not even the server is asked.
        assert (await pair.fetch(original.partition("?")[0])).status == 404
