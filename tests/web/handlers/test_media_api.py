"""The media API, with requests as in the requirements document."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.conftest import Work, fake, work  # noqa: F401 - fixtures
from tests.ingest.fake_main_api import FakeMainApi
from tests.support.extractions import metadata_of
from tests.support.server import Serve, Serving
from tests.support.uploads import KEYED, LOGO, MAIN, PHOTO, USERS, queue, signed, temp_files, upload
from tests.web.wire import answers, exchange

RICH = {
    "permanent_url": "https://media-backend/serve/789",
    "processing_complete": True,
    "ai_enhanced": True,
    "formats_available": ["avif", "webp", "jpeg", "png"],
    "ai_analysis": {
        "style": "Abstract Expressionist",
        "medium": "Oil on Canvas",
        "quality_score": 85,
        "mood_keywords": ["vibrant", "energetic"],
        "brand_colors": ["#FF5733", "#33A1FF"],
        "site_context": {},
        "background_removed": True,
    },
}
BASE = "https://api2.onlineartfestival.com/api/images"


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main={**MAIN, "smart_media_base_url": BASE}, users=USERS)


async def ask(
    server: Serving, method: str, target: str, **options: Any
) -> tuple[int, dict[str, Any]]:
    async with server.client.request(method, target, headers=KEYED, **options) as answer:
        return answer.status, await answer.json()


async def complete(server: Serving, pending_id: int, body: object) -> tuple[int, dict[str, Any]]:
    return await ask(server, "POST", f"/api/media/complete/{pending_id}", json=body)


async def cleanup(server: Serving, pending_id: int) -> tuple[int, dict[str, Any]]:
    return await ask(server, "DELETE", f"/api/media/cleanup/{pending_id}?reason=corrupt")


@pytest.fixture
async def pending(keyed: Serving) -> AsyncIterator[int]:
    """The id of an upload in the queue of the server `keyed`; removed after the test."""
    (image,) = await upload(keyed)
    yield image["id"]
    assert (await cleanup(keyed, image["id"]))[0] == 200


async def test_the_queue_has_the_members_of_the_requirements_document(server: Serving) -> None:
    (image,) = await upload(server)
    told = await queue(server)
    (row,) = told["images"]
    moment = row.pop("created_at")
    assert re.fullmatch(r"2[0-9]{3}-[01][0-9]-[0-3][0-9]T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", moment)
    assert told == {
        "images": [
            {
                "id": image["id"],
                "user_id": 456,
                "image_path": image["image_path"],
                "original_name": "profile_image.jpg",
                "mime_type": "image/jpeg",
                "status": "pending",
            }
        ],
        "total": 1,
        "next_after": None,
    }


@pytest.mark.parametrize(
    "body", [{"media_id": "789"}, {"media_id": 789}, RICH, RICH | {"media_id": "789"}]
)
async def test_repeating_a_completion_has_no_effect(server: Serving, body: dict[str, Any]) -> None:
    (image,) = await upload(server)
    expected = {
        "success": True,
        "imageId": image["id"],
        "media_id": "789",
        "status": "processed",
        "smart_url_preview": f"{BASE}/789",
    }
    for _ in range(2):
        assert await complete(server, image["id"], body) == (200, expected)
    assert (await queue(server))["total"] == 0
    assert len(temp_files(server)) == 1


async def test_a_different_completion_is_a_conflict(server: Serving) -> None:
    done, failed = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    await complete(server, done["id"], {"media_id": "789"})
    status, told = await complete(server, done["id"], {"media_id": "790"})
    assert (status, told["detail"]) == (409, "this upload already has another medium")
    assert (await cleanup(server, done["id"]))[0] == 409
    success = {"success": True, "message": "Image marked as failed and temp file cleaned up"}
    for _ in range(2):
        assert await cleanup(server, failed["id"]) == (200, success)
    status, told = await complete(server, failed["id"], {"media_id": "1"})
    assert (status, told["detail"]) == (409, "this upload has failed")
    assert [path.name in done["image_path"] for path in temp_files(server)] == [True]


async def test_unknown_and_invalid_upload_ids_are_problems(keyed: Serving) -> None:
    for pending_id, status in (("x", 400), ("-1", 400), ("9" * 19, 404), ("7" * 9, 404)):
        assert (await complete(keyed, pending_id, {"media_id": "1"}))[0] == status  # type: ignore[arg-type]
        assert (await cleanup(keyed, pending_id))[0] == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"media_id": None},
        {"media_id": "x"},
        {"media_id": "0"},
        {"media_id": -1},
        {"media_id": 1.5},
        {"media_id": True},
        {"media_id": "a/1"},
        {"media_id": "9" * 19},
        {"permanent_url": 789},
        {"permanent_url": "https://media-backend/serve/"},
        RICH | {"media_id": None, "permanent_url": "x"},
    ],
)
async def test_a_completion_without_a_media_id_is_rejected(
    keyed: Serving, pending: int, body: object
) -> None:
    before = await queue(keyed)
    status, told = await complete(keyed, pending, body)
    assert status == 400
    assert "media" in told["detail"] or "object" in told["detail"]
    assert await queue(keyed) == before
    assert pending in [one["id"] for one in before["images"]]


async def test_a_completion_with_two_media_ids_is_a_conflict(keyed: Serving, pending: int) -> None:
    before = await queue(keyed)
    assert (await complete(keyed, pending, RICH | {"media_id": "790"}))[0] == 409
    assert await queue(keyed) == before
    assert pending in [one["id"] for one in before["images"]]


async def test_invalid_large_and_compressed_bodies_are_rejected(server: Serving) -> None:
    (image,) = await upload(server)
    target = f"/api/media/complete/{image['id']}"
    for data, headers, status in (
        (b"{", {}, 400),
        (b'{"media_id": "1"', {}, 400),
        (b"\xff", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"media_id": "1"}'.ljust(262_145), {}, 413),
        (b"x", {"Content-Encoding": "gzip"}, 415),
    ):
        sent = {**KEYED, **headers}
        async with server.client.post(target, data=data, headers=sent) as answer:
            assert answer.status == status
    async with server.client.post(target, headers=KEYED) as answer:
        assert answer.status == 400
    assert (await complete(server, image["id"], {"media_id": "1", "x": "y" * 200_000}))[0] == 200


async def test_a_stalled_body_times_out(serve: Serve) -> None:
    server = await serve(main={**MAIN, "upload_stall_s": 0.2}, users=USERS)
    head = (
        f"POST /api/media/complete/1 HTTP/1.1\r\nHost: x\r\nAuthorization: {KEYED['Authorization']}"
    )
    sent = head.encode() + b"\r\nContent-Length: 17\r\n\r\n{"
    (told,) = answers(await exchange(server.client.host, server.client.port or 0, sent))
    assert told.status == 408


ROUTES = [
    ("GET", "/api/media/pending/all"),
    ("POST", "/api/media/complete/{}"),
    ("DELETE", "/api/media/cleanup/{}"),
    ("GET", "/temp_images/profiles/1-profile-1.jpg"),
]


@pytest.mark.parametrize(("method", "target"), ROUTES)
async def test_all_routes_require_the_key(
    keyed: Serving, pending: int, method: str, target: str
) -> None:
    before = await queue(keyed)
    target = target.format(pending)
    for headers in ({}, {"Authorization": "Bearer wrong"}, signed()):
        async with keyed.client.request(
            method, target, headers=headers, data=b"{}" if method == "POST" else None
        ) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert await queue(keyed) == before
    assert pending in [one["id"] for one in before["images"]]


async def test_without_a_configured_key_one_is_generated_and_stored(
    serve: Serve, data_dir: Path
) -> None:
    server = await serve()
    key = (data_dir / "keys" / "media_api").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    async with server.client.get("/api/media/pending/all", headers=headers) as answer:
        assert answer.status == 200
    assert key not in repr(server.main)


async def test_a_temporary_file_is_sent_as_an_attachment(server: Serving) -> None:
    (image,) = await upload(server)
    async with server.client.get(image["image_path"], headers=KEYED) as answer:
        assert await answer.read() == PHOTO
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"].startswith("attachment; ")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.content_length == len(PHOTO)
        etag = answer.headers["ETag"]
    async with server.client.head(image["image_path"], headers=KEYED) as answer:
        assert (answer.status, answer.content_length) == (200, len(PHOTO))
    known = {**KEYED, "If-None-Match": etag}
    async with server.client.get(image["image_path"], headers=known) as answer:
        assert answer.status == 304
    other = {**known, "If-Match": '"0"'}
    async with server.client.get(image["image_path"], headers=other) as answer:
        assert answer.status == 412


async def test_a_download_can_be_resumed(server: Serving) -> None:
    (image,) = await upload(server)
    path = image["image_path"]
    async with server.client.get(path, headers=KEYED) as answer:
        etag = answer.headers["ETag"]
    for extra, status, body in (
        ({"Range": "bytes=1000-"}, 206, PHOTO[1000:]),
        ({"Range": "bytes=1000-", "If-Range": etag}, 206, PHOTO[1000:]),
        ({"Range": "bytes=1000-", "If-Range": '"other"'}, 200, PHOTO),
        ({"Range": "bytes=0-9,20-29"}, 200, PHOTO),
    ):
        async with server.client.get(path, headers={**KEYED, **extra}) as answer:
            assert (answer.status, await answer.read()) == (status, body)
    beyond = {**KEYED, "Range": f"bytes={len(PHOTO)}-"}
    async with server.client.get(path, headers=beyond) as answer:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == f"bytes */{len(PHOTO)}"


async def test_only_regular_files_of_the_upload_folders_are_sent(
    server: Serving, tmp_path: Path
) -> None:
    await upload(server, {"profile_image": PHOTO, "site_image": PHOTO})
    root = server.services.settings.temp_root
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(PHOTO)
    (root / "profiles" / "link.jpg").symlink_to(secret)
    (root / "profiles" / "folder.jpg").mkdir()
    (root / "profiles" / ".hidden.jpg").write_bytes(PHOTO)
    (root / "other").mkdir()
    (root / "other" / "x.jpg").write_bytes(PHOTO)
    for name in (
        *("profiles/link.jpg", "profiles/folder.jpg", "profiles/.hidden.jpg", "other/x.jpg"),
        *("profiles/..%2Fsecret.jpg", "profiles/%2e%2e", "..%2f/x", "profiles/none.jpg"),
        *("profiles/x%00.jpg", "profiles/" + "x" * 300, "sites/%5B1%5D.jpg"),
    ):
        async with server.client.get(f"/temp_images/{name}", headers=KEYED) as answer:
            assert answer.status == 404, name


async def test_a_callback_that_mariadb_cannot_store_is_refused_before_anything_is_changed(
    server: Serving,
) -> None:
    (image,) = await upload(server)

    def body(levels: int) -> dict[str, Any]:
        value: object = 1
        for _ in range(levels - 1):
            value = [value]
        return {"media_id": "789", "deep": value}

    status, told = await complete(server, image["id"], body(32))
    assert (status, told["detail"]) == (
        400,
        "the body must be nested in at most 31 objects and lists",
    )
    assert (await queue(server))["total"] == 1
    assert (await complete(server, image["id"], body(31)))[0] == 200


async def test_a_file_deleted_during_the_download_is_still_sent_completely(server: Serving) -> None:
    body = PHOTO.ljust(4_000_000, b"\0")
    (image,) = await upload(server, {"profile_image": body})
    async with server.client.get(image["image_path"], headers=KEYED) as answer:
        await cleanup(server, image["id"])
        assert await answer.read() == body


async def test_concurrent_completions_have_one_winner(server: Serving) -> None:
    (image,) = await upload(server)
    told = await asyncio.gather(
        *(complete(server, image["id"], {"media_id": str(one)}) for one in range(1, 11))
    )
    assert sorted(status for status, _ in told) == [200] + [409] * 9


KEY = "a-key-of-the-media-api"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.mark.slow
async def test_the_analysis_is_returned_with_the_key(
    fake: FakeMainApi,  # noqa: F811 - a fixture
    work: Work,  # noqa: F811 - a fixture
) -> None:
    worker = await work({"main": {"key": KEY}})
    image = fake.add(LOGO, kind="logo")
    await worker.ingest.run_once()
    url = f"/api/media/analysis/{image.media_id}"
    answer = await worker.server.client.get(url, headers=BEARER)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = await answer.json()
    assert body["success"] is True
    analysis = body["analysis"]
    told = image.completions[0]["ai_analysis"]
    for name in ("style", "medium", "quality_score", "mood_keywords", "brand_colors"):
        assert analysis[name] == told[name]
    assert analysis["site_context"] is None
    assert analysis["dominant_colors"][0]["hex"].startswith("#")
    assert analysis["detected_objects"] is None
    assert "detected_objects" in analysis["reasons"]
    assert analysis["ai_generation"] is None
    assert "has not been extracted" in analysis["reasons"]["ai_generation"]
    metadata = metadata_of({"Description": "a fox --v 6.1"})
    await worker.server.services.storage.metadata.save(int(image.media_id or 0), metadata, ())
    answer = await worker.server.client.get(url, headers=BEARER)
    analysis = (await answer.json())["analysis"]
    assert analysis["ai_generation"] == {
        "source": "midjourney",
        "confidence": 0.9,
        "evidence": metadata["ai_generation"]["evidence"],
    }
    assert "ai_generation" not in analysis["reasons"]


async def test_similar_images_need_the_key_and_an_embedding(keyed: Serving) -> None:
    client = keyed.client
    assert (await client.get("/api/media/similar/1")).status == 401
    for target in ("/api/media/similar/1", f"/api/media/similar/{10**18}?limit=100"):
        answer = await client.get(target, headers=KEYED)
        assert answer.status == 404
        assert "vision.embedding" in (await answer.json())["detail"]
    for query in ("limit=0", "limit=101", "limit=x", "limit="):
        answer = await client.get(f"/api/media/similar/1?{query}", headers=KEYED)
        assert answer.status == 400, query


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-wrong-wrong"}])
async def test_without_the_key_nothing_is_returned(keyed: Serving, headers: dict[str, str]) -> None:
    for media_id in ("1", "999999", "x"):
        answer = await keyed.client.get(f"/api/media/analysis/{media_id}", headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("media_id", "status"), [("999999", 404), ("9" * 19, 404), ("9" * 20, 400), ("x", 400)]
)
async def test_unknown_and_invalid_ids_are_problems(
    keyed: Serving, media_id: str, status: int
) -> None:
    answer = await keyed.client.get(f"/api/media/analysis/{media_id}", headers=KEYED)
    assert answer.status == status
    assert "Retry-After" not in answer.headers


async def test_an_image_without_an_analysis_is_a_404(serve: Serve) -> None:
    server = await serve(main={"key": KEY})
    answer = await server.client.get("/api/media/analysis/1", headers=BEARER)
    assert answer.status == 404
    assert "not been analysed" in (await answer.json())["detail"]
    assert "Retry-After" not in answer.headers


async def test_during_processing_the_404_has_retry_after(serve: Serve) -> None:
    server = await serve(main={"key": KEY})
    _set_status(server, "processing")
    answer = await server.client.get("/api/media/analysis/1", headers=BEARER)
    assert answer.status == 404
    assert int(answer.headers["Retry-After"]) > 0


def _set_status(server: Serving, status: str) -> None:
    path = server.services.settings.data_path / "smartserve.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE media_files SET status = ? WHERE id = 1", [status])
        connection.commit()
