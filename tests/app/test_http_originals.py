"""Rows whose originals are on another web server, through the whole server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from proxy.domain.media import MediaStatus
from proxy.storage.database.tables import media_files
from tests.support.server import SAMPLES, WEBP_ONLY, Serve, Serving
from tests.support.waiting import eventually
from tests.support.web_origin import PRIVATE, PUBLIC, WebOrigin, web_origin

JPEG = (SAMPLES / "kodak-23.jpg").read_bytes()


@pytest.fixture
async def origin() -> AsyncIterator[WebOrigin]:
    # Bytes after the end of a JPEG change the file and not its length or pixels.
    async with web_origin(body=JPEG + b"1") as running:
        yield running
        assert running.secrets == 0


def section(origin: WebOrigin, **changed: Any) -> dict[str, Any]:
    # Values as from a file.
    found: dict[str, Any] = json.loads(origin.settings(**changed).model_dump_json())
    return found


async def add_row(server: Serving, path: str, *, library_path: str | None = None) -> int:
    values = {
        "main_api_id": 0,
        "user_id": 7,
        "data_type": "product",
        "bulk_path": path,
        "library_path": library_path,
        "status": MediaStatus.COMPLETED,
    }
    async with server.services.storage.repository.transaction() as connection:
        result = await connection.execute(sa.insert(media_files), values)
    return int(result.lastrowid)


async def fetch(server: Serving, media_id: int, size: str = "thumbnail") -> tuple[int, str, bytes]:
    url = f"/serve/{media_id}?size={size}"
    response = await server.client.get(url, headers={"Accept": WEBP_ONLY})
    return response.status, response.headers.get("ETag", ""), await response.read()


async def test_all_sizes_of_a_row_with_an_address_take_one_request(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve(http=section(origin))
    media_id = await add_row(server, origin.url("/redirect?to=/p.jpg"))
    for size in ("thumbnail", "small", "detail"):
        status, _, body = await fetch(server, media_id, size)
        assert (status, body[8:12]) == (200, b"WEBP")
    assert origin.paths == ["/redirect", "/p.jpg"]
    assert server.metric("smartserve_http_originals_requests_total") == 2
    assert server.metric("smartserve_http_originals_fetched_bytes_total") == len(origin.body)


async def test_without_hosts_a_row_with_an_address_is_missing(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve()
    assert server.services.storage.http_originals is None
    status, _, _ = await fetch(server, await add_row(server, origin.url()))
    assert status == 404
    assert origin.received == []
    assert server.metric("smartserve_http_originals_requests_total") == 0


async def test_a_row_with_an_address_that_is_not_allowed_names_none_to_clients(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve(http=section(origin, hosts=[PUBLIC, PRIVATE]))
    media_id = await add_row(server, origin.url(host=PRIVATE))
    status, _, body = await fetch(server, media_id)
    assert status == 404
    assert PRIVATE not in body.decode()
    assert server.metric("smartserve_http_originals_refused_total") == 1
    assert server.metric("smartserve_source_errors_total", kind="missing") >= 1


async def test_the_processed_file_is_used_if_the_address_is_not_allowed(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve(http=section(origin))
    local = server.services.storage.local_originals
    assert await local.add("library/a.jpg", SAMPLES / "kodak-23.jpg")
    path = origin.url(host="other.example.org")
    media_id = await add_row(server, path, library_path="library/a.jpg")
    status, _, _ = await fetch(server, media_id)
    assert status == 200


async def test_stored_renditions_are_served_while_the_other_server_fails(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve(http=section(origin))
    media_id = await add_row(server, origin.url())
    before = await fetch(server, media_id)
    origin.status = 500
    assert await fetch(server, media_id) == before
    # Never fetched.
    status, _, _ = await fetch(server, await add_row(server, origin.url("/other.jpg")))
    assert status == 503


async def test_an_original_that_was_replaced_by_one_of_equal_size_gets_new_renditions(
    serve: Serve, origin: WebOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(http=section(origin))
    media_id = await add_row(server, origin.url())
    _, old, _ = await fetch(server, media_id)
    origin.body = JPEG + b"2"
    originals = server.services.storage.http_originals
    assert originals is not None
    # Its copy is not fresh any more.
    later = originals._clock() + 86_400
    monkeypatch.setattr(originals, "_clock", lambda: later)
    await eventually(lambda: is_replaced(server, media_id, old))


async def is_replaced(server: Serving, media_id: int, old: str) -> bool:
    """Render another size, which finds the change; return whether this one is new by then."""
    # A busy machine answers with another stored size, or not at all: the caller tries again.
    await fetch(server, media_id, "detail")
    server.services.storage.changed(media_id)
    status, etag, _ = await fetch(server, media_id)
    return status == 200 and etag not in ("", old)


async def test_a_change_of_the_row_makes_the_server_request_the_original_again(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve(http=section(origin))
    media_id = await add_row(server, origin.url())
    _, old, _ = await fetch(server, media_id)
    origin.body = JPEG + b"2"
    # As after a purge. The kept copy is still fresh.
    server.services.storage.changed(media_id)
    await eventually(lambda: is_replaced(server, media_id, old))


async def test_the_original_can_be_downloaded_through_this_server(
    serve: Serve, origin: WebOrigin
) -> None:
    server = await serve(http=section(origin), main={"key": "k" * 32})
    media_id = await add_row(server, origin.url())
    response = await server.client.get(
        f"/api/media/{media_id}/original", headers={"Authorization": f"Bearer {'k' * 32}"}
    )
    assert (response.status, await response.read()) == (200, origin.body)
