"""The sweep of temporary upload files."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from proxy.domain.errors import UploadStorageError
from proxy.ingest.uploads.tempfile_sweep import TempfileSweeper
from proxy.runtime.tempfiles import tempfile_name
from proxy.settings import DatabaseSettings
from proxy.storage.database.schema import main_schema, upgrade
from proxy.storage.database.upload_repository import UploadRepository
from proxy.storage.upload_files import TempName
from tests.support.server import Serve, Serving
from tests.support.uploads import KEYED, LOGO, MAIN, PHOTO, USERS, temp_files, upload

HOUR = 3600.0


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


class Clocks:
    """The clock of file times, moved by the test."""

    def __init__(self) -> None:
        self.passed = 0.0

    def wall(self) -> float:
        return time.time() + self.passed


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def sweeper(server: Serving, clocks: Clocks) -> TempfileSweeper:
    assert server.main is not None
    main = server.main
    return TempfileSweeper(queue=main.queue, clock=clocks.wall)


async def test_files_of_open_uploads_are_never_swept(
    server: Serving, sweeper: TempfileSweeper, clocks: Clocks
) -> None:
    pending, processed = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    target = f"/api/media/complete/{processed['id']}"
    async with server.client.post(target, json={"media_id": "1"}, headers=KEYED):
        pass
    for _ in range(4):
        assert await sweeper.run() == 0
        clocks.passed += 24 * HOUR
    assert len(temp_files(server)) == 2
    assert pending["status"] == "pending"


async def test_a_file_of_an_ended_upload_is_swept_at_once(
    server: Serving, sweeper: TempfileSweeper
) -> None:
    """As after a kill between the commit and the deletion."""
    (image,) = await upload(server)
    (path,) = temp_files(server)
    os.link(path, path.with_name("kept"))
    async with server.client.delete(f"/api/media/cleanup/{image['id']}", headers=KEYED):
        pass
    path.with_name("kept").rename(path)
    assert await sweeper.run() == 1
    assert not temp_files(server)


async def test_a_file_without_a_row_is_set_aside_after_a_week_and_never_deleted(
    server: Serving, sweeper: TempfileSweeper, clocks: Clocks
) -> None:
    folder = server.services.settings.temp_root / "profiles"
    folder.mkdir(parents=True)
    (folder / "1-profile-1-1.jpg").write_bytes(PHOTO)
    (folder / "of another program").write_bytes(b"x")
    for passed in (0, 7 * 24 * HOUR - 60, 120):
        clocks.passed += passed
        assert await sweeper.run() == 0
        assert len([*folder.iterdir()]) == 2
    with structlog.testing.capture_logs() as logs:
        assert await sweeper.run() == 0
    assert [path.name for path in folder.iterdir()] == ["of another program"]
    aside = folder.parent / "lost+found" / "profiles" / "1-profile-1-1.jpg"
    assert aside.read_bytes() == PHOTO
    assert [(one["event"], one["log_level"]) for one in logs] == [
        ("unknown_upload_set_aside", "warning")
    ]
    for _ in range(3):
        clocks.passed += 1000 * 24 * HOUR
        assert await sweeper.run() == 0
    assert aside.exists()


async def test_a_wrong_database_costs_no_waiting_upload(
    server: Serving, sweeper: TempfileSweeper, clocks: Clocks, tmp_path: Path
) -> None:
    """The sweep asks an empty one for weeks; then main.url is corrected."""
    uploads = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    url, section = f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}", DatabaseSettings()
    await upgrade(url, section, schema=main_schema(own=True))
    async with UploadRepository(url, section, own=True) as empty:
        queue = replace(sweeper.queue, database=empty)
        astray = TempfileSweeper(queue=queue, clock=clocks.wall)
        for _ in range(5):
            assert await astray.run() == 0
            clocks.passed += 7 * 24 * HOUR
    assert await sweeper.queue.files.count_set_aside() == 2
    for image, body in zip(uploads, (PHOTO, LOGO), strict=True):
        opened = await sweeper.queue.open(image["image_path"])
        assert opened.file.pread(len(body) + 1, 0) == body
        opened.file.close()
    assert await sweeper.run() == 0
    # The outcome of one is recorded: its file is deleted there too.
    headers = KEYED
    async with server.client.delete(f"/api/media/cleanup/{uploads[0]['id']}", headers=headers):
        pass
    assert await sweeper.queue.files.count_set_aside() == 1


async def test_a_file_that_cannot_be_deleted_does_not_protect_the_others(
    server: Serving, sweeper: TempfileSweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image in await upload(server, {"profile_image": PHOTO, "logo_image": LOGO}):
        path = server.services.settings.temp_root / image["image_path"].removeprefix(
            "/temp_images/"
        )
        path.with_name(f"kept-{image['id']}").hardlink_to(path)
        async with server.client.delete(f"/api/media/cleanup/{image['id']}", headers=KEYED):
            pass
        path.with_name(f"kept-{image['id']}").rename(path)
    remove = sweeper.queue.files.remove

    async def first_fails(where: TempName) -> bool:
        if "profile" in where.name:
            raise UploadStorageError("an immutable file")
        return await remove(where)

    monkeypatch.setattr(sweeper.queue.files, "remove", first_fails)
    assert await sweeper.run() == 1
    assert [path.name.split("-")[1] for path in temp_files(server)] == ["profile"]


async def test_unfinished_files_are_swept_when_they_have_not_changed_for_an_hour(
    server: Serving, sweeper: TempfileSweeper, clocks: Clocks
) -> None:
    folder = server.services.settings.temp_root / "sites"
    folder.mkdir(parents=True)
    for age_s in (HOUR, HOUR - 60):
        path = folder / tempfile_name()
        path.write_bytes(PHOTO)
        os.utime(path, (clocks.wall() - age_s,) * 2)
    assert await sweeper.run() == 1
    assert len(temp_files(server)) == 1
