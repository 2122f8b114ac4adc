"""Main API and processing VM as two servers with two databases, as in the requirements document."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.faults.server import Server
from tests.platform.ledger import MariaLedger, SqliteLedger
from tests.platform.sending import SECRET, token
from tests.platform.test_document import BASE, KEY, PENDING_IMAGES, PROFILES, USER, jpeg
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.server import CHROME, Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KEYED = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Machines:
    """The two servers, and the tables of the main database."""

    main: Server
    media: Server
    ledger: MariaLedger

    async def get(self, path: str, **headers: str) -> tuple[int, Any, bytes]:
        """Request from the main server what a browser would."""
        sent = {"Accept": CHROME, **headers}
        async with self.main.client(headers=sent) as client, client.get(path) as answer:
            return answer.status, answer.headers, await answer.read()

    async def upload(self, colour: str) -> str:
        """Upload an image as the profile's, and return its address there once it is processed."""
        form = aiohttp.FormData()
        form.add_field("profile_image", io.BytesIO(jpeg(colour)), filename="photo.jpg")
        headers = {"Authorization": f"Bearer {token(USER)}"}
        async with self.main.client(headers=headers) as client:
            async with client.patch("/users/me", data=form) as answer:
                (image,) = (await answer.json())["images"]
            # Until then the path of the profile shows the upload itself.
            status, _, body = await self.get(f"{image['image_path']}?size=thumbnail")
            assert (status, shown(body)) == (200, colour)
            query = "SELECT profile_image_path FROM user_profiles"
            await eventually(
                lambda: self.ledger.rows(query)[0][0].startswith(BASE),
                timeout_s=90,
                interval_s=0.2,
            )
            address = self.ledger.rows(query)[0][0]
            async with client.get("/users/me") as answer:
                assert (await answer.json())["profile_image_path"] == address
        return address.removeprefix(BASE)


def shown(body: bytes) -> str:
    """Return the colour of an image."""
    red, green, blue = Image.open(io.BytesIO(body)).convert("RGB").getpixel((9, 9))  # type: ignore[misc]
    return max({"red": red, "green": green, "blue": blue}.items(), key=lambda one: one[1])[0]


@pytest.fixture
async def machines(mariadb: MariaDB, library: Library, tmp_path: Path) -> AsyncIterator[Machines]:
    """The main server also has images of its own, whose ids are those of the uploads."""
    tables, media_tables = mariadb.create_database(), mariadb.create_database()
    mariadb.execute(PENDING_IMAGES + PROFILES, database=tables)
    main_port, media_port = free_port(), free_port()
    media_url = f"http://127.0.0.1:{media_port}"
    main = Server(
        library.copy(tmp_path / "main"),
        {
            "main": {"url": mariadb.url(tables), "replace_interval_s": 0.5},
            "users": {"jwt_secret": SECRET},
        },
        extra={
            "MEDIA_API_KEY": KEY,
            "SMART_MEDIA_BASE_URL": BASE,
            "MEDIA_BACKEND_URL": media_url,
        },
    )
    media = Server(
        tmp_path / "media",
        {
            "database": {"url": mariadb.url(media_tables)},
            "ingest": {"poll_interval_s": 1},
            "main": {"allow_loopback_url": True},
        },
        extra={
            "MEDIA_API_KEY": KEY,
            "MEDIA_BACKEND_URL": media_url,
            "MAIN_API_URL": f"http://127.0.0.1:{main_port}",
            "MAIN_API_KEY": KEY,
        },
    )
    main.port, media.port = main_port, media_port
    # The main server starts first: it waits for nothing of the other one.
    await main.start()
    await media.start()
    yield Machines(main, media, MariaLedger(mariadb, tables))
    await main.stop()
    await media.stop()


async def test_an_upload_to_the_main_server_is_served_there_by_the_media_server(
    machines: Machines,
) -> None:
    address = await machines.upload("red")
    assert address == "/1?size=detail"
    status, headers, body = await machines.get(f"/api/images{address}?size=thumbnail")
    assert (status, shown(body)) == (200, "red")
    assert headers["Content-Type"] == "image/avif"
    assert headers["Cache-Control"].startswith("public, max-age=")
    # The same number, in the other database.
    _, _, own = await machines.get("/serve/1?size=thumbnail")
    assert own != body
    etag = headers["ETag"]
    target = "/api/images/1?size=thumbnail"
    assert (await machines.get(target, **{"If-None-Match": etag}))[0] == 304
    status, _, part = await machines.get(target, Range="bytes=10-19")
    assert (status, part) == (206, body[10:20])
    async with machines.media.client(headers={"Accept": CHROME}) as client:
        async with client.get("/serve/1?size=thumbnail") as answer:
            assert await answer.read() == body
            assert answer.headers["ETag"] == etag
        # Not even the media server's own name for it leads back.
        async with client.get("/api/images/1?size=thumbnail") as answer:
            assert await answer.read() == body
    assert await machines.main.metric("smartserve_ingest_uploads_total") == 0
    assert (await machines.get("/api/images/999"))[0] == 404


async def test_simultaneous_requests_reach_the_media_server_once(machines: Machines) -> None:
    await machines.upload("blue")
    before = await machines.media.metric("smartserve_requests_total", route="serve")
    found = await asyncio.gather(
        *(machines.get("/api/images/1?size=zoom&format=webp") for _ in range(30))
    )
    assert {status for status, _, _ in found} == {200}
    assert len({body for _, _, body in found}) == 1
    after = await machines.media.metric("smartserve_requests_total", route="serve")
    assert after == before + 1


async def test_images_and_analyses_outlive_the_media_server(machines: Machines) -> None:
    await machines.upload("green")
    target = "/api/images/1?size=grid"
    first = await machines.get(target)
    status, _, told = await machines.get("/api/media/analysis/1", **KEYED)
    assert status == 200
    assert b'"dominant_colors"' in told
    await machines.media.stop()
    status, _, body = await machines.get(target)
    assert (status, body) == (200, first[2])
    assert (await machines.get("/api/images/1?size=zoom"))[0] == 502
    # What the worker reported with its callback.
    status, _, told = await machines.get("/api/media/analysis/1", **KEYED)
    assert status == 200
    assert b'"quality_score"' in told
    rows = SqliteLedger(machines.main.data_dir / "smartserve.db").rows(
        "SELECT media_id, server, callback FROM upload_results"
    )
    ((media_id, server, callback),) = rows
    assert (media_id, server) == ("1", machines.media.base)
    assert '"formats_available"' in callback
    await machines.media.start()
    status, _, body = await machines.get("/api/images/1?size=zoom")
    assert (status, shown(body)) == (200, "green")
