"""Acceptance of uploads while disk or database fail: neither file nor row remains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from proxy.domain.errors import CommitUncertain
from proxy.domain.upload import UPLOAD_FIELDS
from proxy.ingest.uploads.accept import Uploader
from proxy.storage.database.upload_repository import NewUpload, UploadRepository
from tests.support.mariadb import MariaDB
from tests.support.mounts import Mount
from tests.support.server import Serve, Serving
from tests.support.uploads import (
    KEYED,
    LOGO,
    MAIN,
    PHOTO,
    USERS,
    form,
    nothing_is_left,
    queue,
    signed,
    temp_files,
    upload,
)


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


async def refused(server: Serving) -> int:
    data = form({"profile_image": PHOTO, "logo_image": LOGO})
    async with server.client.patch("/users/me", data=data, headers=signed()) as answer:
        assert answer.headers["Content-Type"] == "application/problem+json"
        return answer.status


async def test_a_full_disk_is_reported_and_leaves_nothing(
    serve: Serve, tmp_path: Path, mounted: Mount
) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=100k"):
        server = await serve(main={**MAIN, "temp_root": str(root)}, users=USERS)
        assert await refused(server) == 507
        assert await nothing_is_left(server)
        assert server.metric("smartserve_upload_refusals_total", reason="no_space") == 1
        await upload(server, {"logo_image": LOGO})


async def test_a_missing_folder_is_reported(serve: Serve, tmp_path: Path) -> None:
    server = await serve(main={**MAIN, "temp_root": str(tmp_path / "none")}, users=USERS)
    assert await refused(server) == 503


@pytest.mark.slow
async def test_an_unavailable_database_is_reported_and_leaves_nothing(
    serve: Serve, mariadb: MariaDB
) -> None:
    url = mariadb.url(mariadb.create_database())
    quick = {"query_timeout_s": 2, "connect_timeout_s": 1}
    server = await serve(main={**MAIN, "url": url}, users=USERS, database=quick)
    await upload(server)
    before = temp_files(server)
    mariadb.stop()
    try:
        assert await refused(server) == 503
        assert temp_files(server) == before
        async with server.client.get("/api/media/pending/all", headers=KEYED) as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers
    finally:
        mariadb.start()
    assert (await queue(server))["total"] == 1
    await upload(server)
    assert (await queue(server))["total"] == 2


class SlowCommit(UploadRepository):
    """Commits after the caller has given up."""

    committed: Callable[[], Awaitable[list[int]]]

    async def insert(self, user_id: int, uploads: Sequence[NewUpload]) -> list[int]:
        self.committed = partial(super().insert, user_id, uploads)
        raise CommitUncertain("slow", retry_after_s=1)


async def test_files_stay_while_a_commit_is_uncertain(server: Serving) -> None:
    assert server.main is not None
    settings = server.services.settings
    async with SlowCommit(settings.main_url, settings.database, own=True) as slow:
        uploader = Uploader(
            files=server.main.queue.files,
            database=slow,
            source_types=["jpeg"],
            max_file_bytes=1_000_000,
            metrics=server.services.metrics,
            on_upload=asyncio.Event().set,
        )
        with pytest.raises(CommitUncertain):
            await accept(uploader)
        await slow.committed()
    assert (await queue(server))["total"] == len(temp_files(server)) == 1


async def accept(uploader: Uploader) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield PHOTO

    async with uploader.begin(456) as one:
        await one.add(UPLOAD_FIELDS["profile_image"], "x.jpg", pieces())
        await one.finish()
