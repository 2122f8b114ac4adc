"""The upload queue, and the main API of this server without HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from typing import cast

import pytest

from proxy.app.ingest import open_main_api
from proxy.domain.errors import MainApiRefused, PendingNotFound, UploadGone, UploadStorageError
from proxy.domain.media import DataType
from proxy.ingest.main_api import MainApi
from proxy.ingest.uploads.upload_queue import LocalMainApi, UploadQueue
from proxy.storage.database.upload_repository import UploadRepository
from proxy.storage.upload_files import OpenUpload, TempName, UploadFiles
from tests.support.server import Serve, Serving
from tests.support.uploads import LOGO, MAIN, PHOTO, USERS, temp_files, upload

PATH = "/temp_images/profiles/1-profile-1-1.jpg"


class FakeFiles:
    """Records removals, and fails them if told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.removed: list[TempName] = []
        self._fails = fails

    async def open(self, where: TempName) -> OpenUpload:
        raise PendingNotFound(where.name)

    async def remove(self, where: TempName) -> bool:
        if self._fails:
            raise UploadStorageError("no disk")
        self.removed.append(where)
        return True


def queue(files: FakeFiles) -> UploadQueue:
    return UploadQueue(cast("UploadRepository", None), cast("UploadFiles", files))


async def test_the_file_of_a_finished_upload_is_deleted() -> None:
    files = FakeFiles()
    await queue(files).discard(PATH)
    assert files.removed == [TempName("profiles", "1-profile-1-1.jpg")]


async def test_a_failed_deletion_is_left_to_the_sweep() -> None:
    await queue(FakeFiles(fails=True)).discard(PATH)


PATHS_ELSEWHERE: Collection[str] = (
    "/temp_images/../etc/passwd",
    "/temp_images/profiles/../x.jpg",
    "/temp_images/other/x.jpg",
    "https://example.org/x.jpg",
    "",
)


@pytest.mark.parametrize("path", PATHS_ELSEWHERE)
async def test_a_path_outside_the_upload_folders_is_never_touched(path: str) -> None:
    files = FakeFiles()
    await queue(files).discard(path)
    assert files.removed == []
    with pytest.raises(PendingNotFound):
        await queue(files).open(path)


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(main=MAIN, users=USERS)


@pytest.fixture(params=["local", "http"])
async def api(server: Serving, request: pytest.FixtureRequest) -> AsyncIterator[MainApi]:
    """Every test runs against both, so that they cannot differ."""
    assert server.main is not None
    if request.param == "local":
        yield LocalMainApi(server.main.queue)
        return
    async with open_main_api(server.services.settings, str(server.client.make_url(""))) as client:
        yield client


async def test_pending_uploads_are_listed_oldest_first(server: Serving, api: MainApi) -> None:
    first, second = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    listed = await api.pending()
    assert [one.id for one in listed] == [first["id"], second["id"]]
    assert [one.data_type for one in listed] == [DataType.PROFILE, DataType.LOGO]
    assert listed[0].image_path == first["image_path"]


async def test_a_download_gives_the_bytes_of_the_upload(server: Serving, api: MainApi) -> None:
    (image,) = await upload(server)
    async with api.download(image["image_path"]) as descriptor:
        assert os.pread(descriptor, len(PHOTO) + 1, 0) == PHOTO


async def test_a_missing_file_is_gone(server: Serving, api: MainApi) -> None:
    (image,) = await upload(server)
    for path in temp_files(server):
        path.unlink()
    with pytest.raises(UploadGone):
        async with api.download(image["image_path"]):
            pass


async def test_a_completion_may_be_repeated_but_not_changed(server: Serving, api: MainApi) -> None:
    (image,) = await upload(server)
    await api.complete(image["id"], {"media_id": "7"})
    await api.complete(image["id"], {"media_id": "7"})
    with pytest.raises(MainApiRefused):
        await api.complete(image["id"], {"media_id": "8"})
    with pytest.raises(MainApiRefused):
        await api.cleanup(image["id"])
    assert not await api.pending()


async def test_a_failure_deletes_the_file_and_may_be_repeated(
    server: Serving, api: MainApi
) -> None:
    (image,) = await upload(server)
    await api.cleanup(image["id"])
    await api.cleanup(image["id"])
    assert not temp_files(server)
    assert not await api.pending()
    with pytest.raises(MainApiRefused):
        await api.complete(image["id"], {"media_id": "7"})


async def test_an_unknown_upload_is_gone(server: Serving, api: MainApi) -> None:
    with pytest.raises(UploadGone):
        await api.complete(999, {"media_id": "7"})
    with pytest.raises(UploadGone):
        await api.cleanup(999)
