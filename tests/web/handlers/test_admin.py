"""Purging over HTTP: what is deleted, what remains, and who may do it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from proxy.app.services import open_services
from proxy.app.web import _fresh_until, build_http_server
from proxy.domain.errors import StorageError
from proxy.domain.media import DataType
from proxy.domain.request import parse_request
from proxy.storage.database.purge_table import RecordedEpoch
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.web.handlers import admin
from tests.support.commands import KEY
from tests.support.server import (
    CHROME,
    SAMPLES,
    WEBP_ONLY,
    Library,
    Serve,
    Serving,
    SmartServer,
    make_settings,
)
from tests.support.waiting import TIMEOUT_S, eventually

BEARER = {"Authorization": f"Bearer {KEY}"}
SERVED = ("memory", "disk", "render", "draft")


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(admin={"key": KEY})


@pytest.fixture
def photo(library: Library) -> int:
    return library.ids["photo"]


async def purge(
    server: Serving, target: str, headers: Mapping[str, str] = BEARER
) -> tuple[int, Any]:
    async with server.client.delete(target, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def origin(server: Serving, target: str, accept: str = "*/*") -> str:
    """Return where an image came from, by Cache-Status."""
    async with server.client.get(target, headers={"Accept": accept}) as answer:
        await answer.read()
        assert answer.status == 200
        return answer.headers["Cache-Status"].rpartition("detail=")[2]


async def settle(server: Serving) -> None:
    await server.services.serving.renderer.drain()


async def stored(keyed: Serving, target: str) -> None:
    """Let an image be rendered, and wait until it is in memory."""

    async def in_memory() -> bool:
        return await origin(keyed, target) == "memory"

    await eventually(in_memory)


async def test_a_purge_deletes_all_renditions_of_an_image_and_counts_them(
    server: Serving, photo: int, library: Library
) -> None:
    targets = [f"/serve/{photo}?size={size}" for size in ("thumbnail", "grid", "small")]
    other = f"/serve/{library.ids['logo']}?size=grid"
    for target in (*targets, other):
        await origin(server, target)
    await settle(server)

    assert await purge(server, f"/api/media/{photo}/renditions") == (
        200,
        {"dropped": 3, "recorded": True},
    )

    assert [await origin(server, target) for target in targets] == ["render"] * 3
    assert await origin(server, other) == "memory"


async def test_purging_an_unknown_image_succeeds(server: Serving, photo: int) -> None:
    for media_id in (photo, 123456789, 0, 9_999_999_999_999_999_999):
        for query in ("", "?size=grid", "?w=640"):
            target = f"/api/media/{media_id}/renditions{query}"
            assert await purge(server, target) == (200, {"dropped": 0, "recorded": True})


@pytest.mark.parametrize("tier", ["memory", "disk"])
async def test_a_purge_of_a_size_deletes_all_its_variants_and_no_others(
    tier: str, serve: Serve, photo: int
) -> None:
    renditions = {} if tier == "memory" else {"renditions": {"memory_max_bytes": 0}}
    server = await serve(admin={"key": KEY}, **renditions)
    forms = ("", "&dpr=2", "&format=png", "&format=avif", "&bg=removed&format=webp")
    asked = [
        *((f"/serve/{photo}?size=grid{form}", "*/*") for form in forms),
        (f"/serve/{photo}?size=grid", CHROME),
        (f"/serve/{photo}?size=grid", WEBP_ONLY),
        (f"/api/images/{photo}?size=grid&dpr=1.5", "*/*"),
    ]
    kept = [(f"/serve/{photo}?size={size}", "*/*") for size in ("thumbnail", "small")]
    kept += [(f"/serve/{photo}?w=128", "*/*")]
    for one in (*asked, *kept):
        await origin(server, *one)
    await settle(server)
    for one in (*asked, *kept):
        assert await origin(server, *one) == tier

    status, counts = await purge(server, f"/api/media/{photo}/renditions?size=grid")

    # AVIF and WebP were asked for twice, by name and by Accept: the same pixels.
    assert (status, counts) == (200, {"dropped": 6, "recorded": True})
    assert {await origin(server, *one) for one in kept} == {tier}
    seen = [await origin(server, *one) for one in asked]
    assert seen.count("render") == 6


async def test_a_purge_by_width_deletes_that_width(server: Serving, photo: int) -> None:
    for width in (100, 200):
        await origin(server, f"/serve/{photo}?w={width}")
    await settle(server)
    assert await purge(server, f"/api/media/{photo}/renditions?w=120") == (
        200,
        {"dropped": 1, "recorded": True},
    )
    assert await origin(server, f"/serve/{photo}?w=128") == "render"
    assert await origin(server, f"/serve/{photo}?w=256") == "memory"


async def test_a_purge_deletes_drafts_finals_and_running_upgrades(serve: Serve, photo: int) -> None:
    server = await serve(
        admin={"key": KEY},
        upgrades={"enabled": True, "budget_s": 0},
        encoders={"target": 0},
    )
    target = f"/serve/{photo}?size=grid"
    assert await origin(server, target, CHROME) == "draft"
    await settle(server)

    status, counts = await purge(server, f"/api/media/{photo}/renditions?size=grid")

    assert status == 200
    assert counts["dropped"] >= 1
    assert server.services.serving.finals_queue.statistics()["backlog"] <= 1, (
        "a running upgrade may end"
    )
    assert await origin(server, target, CHROME) == "draft", "rendered again"


async def test_a_purge_by_user_deletes_all_images_of_the_user(
    server: Serving, library: Library
) -> None:
    everybody = list(library.ids.values())
    stranger = await server.services.importer.import_file(
        _another(server), user_id=8, data_type=DataType.PRODUCT
    )
    targets = [f"/serve/{one}?size={size}" for one in everybody for size in ("grid", "thumbnail")]
    other = f"/serve/{stranger.media_id}?size=grid"  # type: ignore[union-attr]
    for target in (*targets, other):
        await origin(server, target)
    await settle(server)

    count = len(everybody)
    path = "/api/users/7/renditions"
    assert await purge(server, f"{path}?size=grid") == (
        200,
        {"media": count, "dropped": count, "recorded": True, "complete": True},
    )
    assert await purge(server, path) == (
        200,
        {"media": count, "dropped": count, "recorded": True, "complete": True},
    )
    assert await purge(server, path) == (
        200,
        {"media": count, "dropped": 0, "recorded": True, "complete": True},
    )
    assert await origin(server, other) == "memory"
    for nobody in ("99", "9999999999999999999"):
        assert await purge(server, f"/api/users/{nobody}/renditions") == (
            200,
            {"media": 0, "dropped": 0, "recorded": True, "complete": True},
        )


async def test_a_purge_of_everything_deletes_memory_disk_and_the_response_cache(
    serve: Serve, library: Library
) -> None:
    # Without finals nothing is written after the purge.
    server = await serve(admin={"key": KEY}, upgrades={"enabled": False})
    targets = [f"/serve/{one}?size=grid" for one in library.ids.values()]
    for target in targets:
        await origin(server, target)
    await settle(server)
    assert [await origin(server, target) for target in targets] == ["memory"] * len(targets)
    assert await purge(server, "/api/renditions") == (200, {"recorded": True})
    assert [await origin(server, target) for target in targets] == ["render"] * len(targets)
    await settle(server)
    assert [await origin(server, target) for target in targets] == ["memory"] * len(targets)


@pytest.mark.parametrize("query", ["size=grid", "w=64", "user=7"])
async def test_a_purge_of_everything_with_a_query_purges_nothing(
    keyed: Serving, photo: int, query: str
) -> None:
    target = f"/serve/{photo}?size=grid"
    await stored(keyed, target)
    assert (await purge(keyed, f"/api/renditions?{query}"))[0] == 400
    assert await origin(keyed, target) == "memory"


@pytest.mark.parametrize("tier", ["memory", "disk"])
async def test_a_purge_of_a_user_by_another_server_takes_effect_before_files_are_deleted(
    serve: Serve, library: Library, tier: str
) -> None:
    renditions = {} if tier == "memory" else {"renditions": {"memory_max_bytes": 0}}
    server = await serve(admin={"key": KEY}, **renditions)
    targets = [f"/serve/{one}?size=grid&format=png" for one in library.ids.values()]
    for target in targets:
        await origin(server, target)
    await settle(server)
    assert [await origin(server, target) for target in targets] == [tier] * len(targets)
    storage = server.services.storage
    media = await storage.database.find(library.ids["photo"])
    assert media is not None
    assert media.facts is not None
    planner = server.services.serving.planner
    request = parse_request("size=grid", sizes=server.services.settings.size_specs())
    old = planner.plan(media, media.facts, request, None)
    fresh_until = _fresh_until(storage.database, storage.epochs)
    assert fresh_until(old) > 0

    storage.purger.advanced([RecordedEpoch(7, 1, 0.0)])

    assert fresh_until(old) == 0, "a response that began before the purge is not kept"
    assert [await origin(server, target) for target in targets] == ["render"] * len(targets)


async def test_a_purge_by_user_that_takes_long_is_answered_and_continued(
    serve: Serve, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_USER_LIMIT_S", 0.0)
    server = await serve(admin={"key": KEY}, upgrades={"enabled": False})
    targets = [f"/serve/{one}?size=grid" for one in library.ids.values()]
    for target in targets:
        await origin(server, target)
    await settle(server)
    status, told = await purge(server, "/api/users/7/renditions")
    assert (status, told["media"], told["complete"]) == (200, 1, False)
    disk = server.services.storage.renditions.disk

    async def deleted() -> bool:
        return not [one for one in library.ids.values() if await disk.digests(one)]

    await eventually(deleted)
    assert [await origin(server, target) for target in targets] == ["render"] * len(targets)


def _another(server: Serving) -> Path:
    """Return the path of an image that is not in the library."""
    path = server.services.settings.data_path / "another.jpg"
    path.write_bytes(sorted(SAMPLES.glob("*.jpg"))[1].read_bytes())
    return path


async def test_a_purge_reaches_the_memory_of_other_servers(
    serve: Serve, data_dir: Path, aiohttp_client: AiohttpClient, photo: int
) -> None:
    here = await serve(admin={"key": KEY})
    async with open_services(make_settings(data_dir)) as services:
        surface = build_http_server(services)
        there = Serving(services, surface, await aiohttp_client(SmartServer(surface.runner)))
        grid, small = (f"/serve/{photo}?size={size}" for size in ("grid", "small"))
        for target in (grid, small, grid, small):
            await origin(there, target)
            await settle(there)
        assert await origin(there, grid) == "memory"

        assert await purge(here, f"/api/media/{photo}/renditions?size=grid") == (
            200,
            {"dropped": 1, "recorded": True},
        )

        async with asyncio.timeout(TIMEOUT_S):
            # The other server reads the purges every second.
            while await origin(there, grid) != "render":
                pass
        assert await origin(there, small) == "memory"
        await there.client.close()


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("size=huge", "size"),
        ("size=", "size"),
        ("w=0", "w"),
        ("sise=grid", "query"),
    ],
)
@pytest.mark.parametrize("what", ["media", "users"])
async def test_an_invalid_query_is_a_400_and_purges_nothing(
    keyed: Serving, photo: int, what: str, query: str, parameter: str
) -> None:
    target = f"/serve/{photo}?size=grid"
    await stored(keyed, target)
    number = photo if what == "media" else 7
    status, told = await purge(keyed, f"/api/{what}/{number}/renditions?{query}")
    assert (status, told["parameter"]) == (400, parameter)
    assert await origin(keyed, target) == "memory"


@pytest.mark.parametrize("name", ["abc", "-1", "1.webp", "1" * 20, "1%2f2", "٣"])
async def test_an_invalid_id_is_a_400(keyed: Serving, name: str) -> None:
    for what in ("media", "users"):
        status, told = await purge(keyed, f"/api/{what}/{name}/renditions")
        assert (status, told["parameter"]) == (400, "id")


PATHS = ("/api/media/1/renditions", "/api/users/7/renditions", "/api/renditions")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({}, 401, "missing"),
        ({"Authorization": "Bearer"}, 401, "malformed"),
        ({"Authorization": f"Basic {KEY}"}, 401, "malformed"),
        ({"Authorization": "Bearer wrong"}, 401, "wrong"),
        ({"Cookie": f"key={KEY}", "X-Api-Key": KEY}, 401, "missing"),
    ],
)
async def test_without_the_key_nothing_is_purged(
    keyed: Serving, photo: int, path: str, headers: dict[str, str], status: int, reason: str
) -> None:
    target = f"/serve/{photo}?size=grid"
    await stored(keyed, target)
    before = keyed.metric("smartserve_auth_failures_total", reason=reason)
    async with keyed.client.delete(path, headers=headers) as answer:
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="smartserve"')
        assert KEY not in await answer.text()
    assert await origin(keyed, target) == "memory"
    assert keyed.metric("smartserve_auth_failures_total", reason=reason) == before + 1


async def test_a_key_in_the_query_is_ignored(keyed: Serving) -> None:
    status, _ = await purge(keyed, f"/api/media/1/renditions?access_token={KEY}", {})
    assert status == 401


async def test_too_many_wrong_keys_are_a_429_with_retry_after(serve: Serve) -> None:
    server = await serve(admin={"key": KEY, "max_failures": 3, "failure_window_s": 300})
    for _ in range(3):
        assert (await purge(server, PATHS[0], {"Authorization": "Bearer wrong"}))[0] == 401
    async with server.client.delete(PATHS[1], headers={"Authorization": "Bearer wrong"}) as answer:
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 300
        assert answer.headers["Cache-Control"] == "no-store"
    assert await origin(server, "/serve/2?size=grid") in SERVED, "pictures go on"
    assert server.metric("smartserve_auth_failures_total", reason="blocked") == 1
    assert (await purge(server, PATHS[1]))[0] == 200, "the right key is never refused"


async def test_without_a_configured_key_the_answer_says_how_to_set_one(serve: Serve) -> None:
    server = await serve()
    for headers in ({}, BEARER, {"Authorization": "Bearer "}):
        status, told = await purge(server, PATHS[0], headers)
        assert status == 403
        assert "SMARTSERVE_ADMIN__KEY" in told["detail"]


async def test_the_key_may_come_from_a_file(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    server = await serve(admin={"key_file": str(tmp_path / "key")})
    assert (await purge(server, PATHS[0]))[0] == 200


@pytest.mark.parametrize("path", PATHS)
async def test_disabled_admin_routes_do_not_exist(serve: Serve, path: str) -> None:
    server = await serve(admin={"enabled": False, "key": KEY})
    assert (await purge(server, path))[0] == 404
    async with server.client.get("/openapi.json") as answer:
        assert "/renditions" not in await answer.text()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "PURGE"])
async def test_other_methods_are_a_405_with_allow(keyed: Serving, path: str, method: str) -> None:
    async with keyed.client.request(method, path, headers=BEARER) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "DELETE")


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "GET"])
@pytest.mark.parametrize("headers", [BEARER, {}])
async def test_other_origins_cannot_read_the_response(
    keyed: Serving, method: str, headers: dict[str, str]
) -> None:
    asked = {**headers, "Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    async with keyed.client.request(method, PATHS[0], headers=asked) as answer:
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
        assert "Cross-Origin-Resource-Policy" not in answer.headers
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_failed_deletion_is_a_503(server: Serving) -> None:
    directory = server.services.settings.rendition_directory
    moved = directory.with_name("moved")
    directory.rename(moved)
    directory.touch()
    status, told = await purge(server, PATHS[0])
    assert (status, told["title"]) == (503, "Rendition store unavailable")
    directory.unlink()
    moved.rename(directory)
    assert (await purge(server, PATHS[0]))[0] == 200


async def test_failure_reasons_start_at_zero_in_the_metrics(server: Serving) -> None:
    async with server.client.get("/metrics") as answer:
        text = await answer.text()
    for reason in ("no_key_set", "missing", "malformed", "wrong", "blocked"):
        assert f'smartserve_auth_failures_total{{reason="{reason}"}} 0.0' in text


@pytest.mark.parametrize("failing", [{1}, {2}, {4}], ids=str)
async def test_a_purge_of_a_user_goes_on_after_an_image_that_fails(
    server: Serving, library: Library, failing: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """User 7 owns the four images of the library."""
    purged: list[int] = []

    async def failing_for(_store: TieredStore, media_id: int, _shapes: Any = None) -> int:
        if media_id in failing:
            raise StorageError("renditions could not be deleted from the disk")
        purged.append(media_id)
        return 1

    monkeypatch.setattr(TieredStore, "purge", failing_for)
    status, body = await purge(server, "/api/users/7/renditions")
    assert status == 503
    assert body["detail"] == "1 of 4 images: renditions could not be deleted from the disk"
    assert purged == [one for one in sorted(library.ids.values()) if one not in failing]


async def test_near_duplicates_are_listed_with_the_admin_key(server: Serving, photo: int) -> None:
    url = f"/api/media/{photo}/near-duplicates"
    async with server.client.get(url) as answer:
        assert answer.status == 401
    async with server.client.get(url, headers=BEARER) as answer:
        assert answer.status == 200
        found = await answer.json()
    # Nothing is analysed yet: an import stores no analysis.
    assert (found["id"], found["near_duplicates"], found["compared"]) == (photo, [], 0)
    assert found["skipped"] > 0
    assert found["next_before"] is None


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/media/999999/near-duplicates", 404),
        ("/api/media/x/near-duplicates", 400),
        ("/api/media/1/near-duplicates?before=x", 400),
        (f"/api/media/{10**18}/near-duplicates", 404),
    ],
)
async def test_near_duplicates_of_a_bad_id_are_a_problem(
    keyed: Serving, target: str, status: int
) -> None:
    async with keyed.client.get(target, headers=BEARER) as answer:
        assert answer.status == status
