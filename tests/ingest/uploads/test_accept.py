"""Uploads against a database and a disk that fail, over real HTTP: neither file nor row stays."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from proxy.domain.errors import CommitUncertain
from proxy.domain.pending_image import UPLOAD_FIELDS
from proxy.ingest.uploads.accept import Uploader
from proxy.ingest.uploads.tempfile_sweep import TempfileSweeper
from proxy.runtime.tempfiles import tempfile_name
from proxy.storage.database.engine import open_engine
from proxy.storage.database.upload_repository import NewUpload, UploadRepository
from tests.storage.database.backends import MariaDBBackend
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
from tests.web.wire import until

HOUR = 3600.0


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


async def refused(server: Serving) -> int:
    data = form({"profile_image": PHOTO, "logo_image": LOGO})
    async with server.client.patch("/users/me", data=data, headers=signed()) as answer:
        assert answer.headers["Content-Type"] == "application/problem+json"
        return answer.status


async def test_a_full_disk_is_told_and_leaves_nothing(
    serve: Serve, tmp_path: Path, mounted: Mount
) -> None:
    root = tmp_path / "small"
    with mounted(root, "size=100k"):
        server = await serve(main={**MAIN, "temp_root": str(root)}, users=USERS)
        assert await refused(server) == 507
        assert await nothing_is_left(server)
        assert server.metric("smartserve_upload_refusals_total", reason="no_space") == 1
        await upload(server, {"logo_image": LOGO})


async def test_a_folder_that_is_gone_is_told(serve: Serve, tmp_path: Path) -> None:
    server = await serve(main={**MAIN, "temp_root": str(tmp_path / "none")}, users=USERS)
    assert await refused(server) == 503


async def test_a_database_that_is_down_is_told_and_leaves_nothing(
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
    """Its commits come when nobody waits for them any more."""

    committed: Callable[[], Awaitable[list[int]]]

    async def insert(self, user_id: int, uploads: Sequence[NewUpload]) -> list[int]:
        self.committed = partial(super().insert, user_id, uploads)
        raise CommitUncertain("slow", retry_after_s=1)


async def test_a_commit_that_comes_late_finds_its_files(server: Serving) -> None:
    assert server.main is not None
    settings = server.services.settings
    engine = open_engine(settings.main_url, settings.database)
    async with SlowCommit(engine, settings.database, own=True) as slow:
        uploader = Uploader(
            files=server.main.queue.files,
            database=slow,
            source_types=["jpeg"],
            max_file_bytes=1_000_000,
            metrics=server.services.metrics,
            on_upload=asyncio.Event().set,
        )
        with pytest.raises(CommitUncertain):
            await take(uploader)
        await slow.committed()
    assert (await queue(server))["total"] == len(temp_files(server)) == 1


async def take(uploader: Uploader) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield PHOTO

    async with uploader.begin(456) as one:
        await one.add(UPLOAD_FIELDS["profile_image"], "x.jpg", pieces())
        await one.finish()


async def test_a_foreign_main_database_takes_uploads(serve: Serve, mariadb: MariaDB) -> None:
    backend = MariaDBBackend(mariadb)
    url = backend.empty()
    profiles = "CREATE TABLE user_profiles (user_id BIGINT, profile_image_path VARCHAR(255));"
    backend.run(url, profiles + "INSERT INTO user_profiles VALUES (456, NULL)")
    server = await serve(main={**MAIN, "url": url}, users=USERS)
    (image,) = await upload(server)
    told = backend.run(url, "SELECT profile_image_path FROM user_profiles")
    assert told == [image["image_path"]]
    target = f"/api/media/complete/{image['id']}"
    async with server.client.post(target, json={"media_id": "7"}, headers=KEYED) as answer:
        assert answer.status == 200
    assert server.main is not None
    report = await server.main.replacer.run()
    assert report.public() == {
        "completed": 1,
        "changed": {"user_profiles.profile_image_path": 1},
        "absent": [
            "user_profiles.header_image_path",
            "artist_profiles.logo_path",
            "promoter_profiles.logo_path",
            "site_media.media_path",
        ],
        "unreadable": [],
    }


async def test_addresses_are_replaced_and_files_go(server: Serving) -> None:
    images = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO, "site_image": PHOTO})
    assert server.main is not None
    replacer = server.main.replacer
    for image in images[:2]:
        target = f"/api/media/complete/{image['id']}"
        body = {"media_id": str(image["id"] + 100)}
        async with server.client.post(target, json=body, headers=KEYED) as answer:
            assert answer.status == 200
    before = temp_files(server)
    dry = await replacer.run(dry=True)
    assert temp_files(server) == before
    told = await asyncio.gather(*(replacer.run() for _ in range(3)))
    assert sum(one.completed for one in told) == dry.completed == 2
    changed = {str(place): rows for place, rows in dry.changed.items() if rows}
    assert changed == {"user_profiles.profile_image_path": 1, "artist_profiles.logo_path": 1}
    (left,) = temp_files(server)
    assert left.parent.name == "sites"
    assert (await replacer.run()).completed == 0


class Clocks:
    """Both kinds of time, moved by hand."""

    def __init__(self) -> None:
        self.passed = 0.0

    def wall(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return self.passed


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def tidier(server: Serving, clocks: Clocks) -> TempfileSweeper:
    assert server.main is not None
    main = server.main
    return TempfileSweeper(queue=main.queue, clock=clocks.wall)


async def test_what_is_needed_is_never_swept(
    server: Serving, tidier: TempfileSweeper, clocks: Clocks
) -> None:
    pending, processed = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    target = f"/api/media/complete/{processed['id']}"
    async with server.client.post(target, json={"media_id": "1"}, headers=KEYED):
        pass
    for _ in range(4):
        assert await tidier.run() == 0
        clocks.passed += 24 * HOUR
    assert len(temp_files(server)) == 2
    assert pending["status"] == "pending"


async def test_a_file_whose_row_has_ended_is_swept_at_once(
    server: Serving, tidier: TempfileSweeper
) -> None:
    """As after a kill between the end of the row and that of the file."""
    (image,) = await upload(server)
    (path,) = temp_files(server)
    os.link(path, path.with_name("kept"))
    async with server.client.delete(f"/api/media/cleanup/{image['id']}", headers=KEYED):
        pass
    path.with_name("kept").rename(path)
    assert await tidier.run() == 1
    assert not temp_files(server)


async def test_a_file_that_no_row_names_is_swept_after_an_hour(
    server: Serving, tidier: TempfileSweeper, clocks: Clocks
) -> None:
    folder = server.services.settings.temp_root / "profiles"
    folder.mkdir(parents=True)
    (folder / "1-profile-1-1.jpg").write_bytes(PHOTO)
    (folder / "of somebody's own").write_bytes(b"x")
    assert await tidier.run() == 0
    clocks.passed += HOUR - 60
    assert await tidier.run() == 0
    clocks.passed += 120
    assert await tidier.run() == 0
    assert await tidier.run() == 1
    assert [path.name for path in temp_files(server)] == ["of somebody's own"]


async def test_unfinished_files_are_swept_when_they_have_not_changed_for_an_hour(
    server: Serving, tidier: TempfileSweeper, clocks: Clocks
) -> None:
    folder = server.services.settings.temp_root / "sites"
    folder.mkdir(parents=True)
    for age_s in (HOUR, HOUR - 60):
        path = folder / tempfile_name()
        path.write_bytes(PHOTO)
        os.utime(path, (clocks.wall() - age_s,) * 2)
    assert await tidier.run() == 1
    assert len(temp_files(server)) == 1


async def test_a_server_at_work_does_it_by_itself(server: Serving) -> None:
    (image,) = await upload(server)
    async with server.client.post(
        f"/api/media/complete/{image['id']}", json={"media_id": "5"}, headers=KEYED
    ):
        pass
    main = server.main
    assert main is not None
    async with main.running("http://pictures.example.org:81/", server.services.metrics):
        await until(lambda: not temp_files(server))
        await until(lambda: server.metric("smartserve_pending_images", status="complete") == 1)
    assert main.replacer.base_url == "http://pictures.example.org:81/api/images"
