"""The sweep of temporary upload files."""

from __future__ import annotations

import os
import time

import pytest

from proxy.ingest.uploads.tempfile_sweep import TempfileSweeper
from proxy.runtime.tempfiles import tempfile_name
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


async def test_a_file_without_a_row_is_swept_after_an_hour(
    server: Serving, sweeper: TempfileSweeper, clocks: Clocks
) -> None:
    folder = server.services.settings.temp_root / "profiles"
    folder.mkdir(parents=True)
    (folder / "1-profile-1-1.jpg").write_bytes(PHOTO)
    (folder / "of another program").write_bytes(b"x")
    assert await sweeper.run() == 0
    clocks.passed += HOUR - 60
    assert await sweeper.run() == 0
    clocks.passed += 120
    assert await sweeper.run() == 0
    assert await sweeper.run() == 1
    assert [path.name for path in temp_files(server)] == ["of another program"]


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
