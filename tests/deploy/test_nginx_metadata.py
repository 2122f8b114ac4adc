"""Metadata of files through a live nginx, as ``deploy/nginx`` forwards them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from aiohttp import FormData

from tests.deploy.front import nginx
from tests.metadata.files import jpeg
from tests.support.server import Serve
from tests.support.uploads import USERS, signed, token

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["cache", "files"])
async def test_a_large_file_is_extracted_behind_nginx(
    serve: Serve, tmp_path: Path, kind: str
) -> None:
    server = await serve(
        users=USERS,
        metadata={"temp_root": str(tmp_path / "metaextract"), "engines": 1, "timeout_s": 600},
    )
    port = server.client.port
    assert port is not None
    # Above the limit that nginx has for other bodies.
    content = jpeg() + bytes(60 * 1024 * 1024)

    def form(size: int) -> FormData:
        data = FormData(default_to_multipart=True)
        data.add_field("file", BytesIO(content[:size]), filename="a.jpg")
        return data

    with nginx(tmp_path / "front", kind, upstream=port) as front:
        async with aiohttp.ClientSession(front.base) as session:
            path = "/api/extract"
            async with session.post(path, data=form(len(content)), headers=signed()) as answer:
                assert answer.status == 200
                assert (await answer.json())["filesize"] == len(content)
            cookie = {"Cookie": f"smartserve_session={token()}", "Origin": front.base}
            async with session.post(path, data=form(len(jpeg())), headers=cookie) as answer:
                assert answer.status == 200
            # nginx connects from this machine, but its client may be anywhere.
            async with session.post("/api/analyze", data=form(10)) as answer:
                assert answer.status == 401
            async with session.get("/api/extract/health") as answer:
                assert answer.status in (200, 503)
