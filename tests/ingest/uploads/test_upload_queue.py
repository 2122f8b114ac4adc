"""The upload queue: accepting uploads, their state changes, and the main API without HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from proxy.app.ingest import open_main_api
from proxy.domain.errors import (
    CommitUncertain,
    MainApiRefused,
    PendingNotFound,
    UploadGone,
    UploadStorageError,
)
from proxy.domain.media import DataType
from proxy.domain.upload import UPLOAD_FIELDS, pages
from proxy.ingest.main_api import MainApi, count_pending
from proxy.ingest.uploads.upload_queue import LocalMainApi, Uploader, UploadQueue
from proxy.storage.database.upload_repository import (
    NewUpload,
    UploadLimits,
    UploadQuota,
    UploadRepository,
)
from proxy.storage.upload_files import OpenUpload, TempName, UploadFiles
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


def queue_of(files: FakeFiles) -> UploadQueue:
    return UploadQueue(cast("UploadRepository", None), cast("UploadFiles", files))


async def test_the_file_of_a_finished_upload_is_deleted() -> None:
    files = FakeFiles()
    await queue_of(files).discard(PATH)
    assert files.removed == [TempName("profiles", "1-profile-1-1.jpg")]


async def test_a_failed_deletion_is_left_to_the_sweep() -> None:
    await queue_of(FakeFiles(fails=True)).discard(PATH)


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
    await queue_of(files).discard(path)
    assert files.removed == []
    with pytest.raises(PendingNotFound):
        await queue_of(files).open(path)


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
    async with open_main_api(
        server.services.settings, str(server.client.make_url("")).rstrip("/")
    ) as client:
        yield client


async def test_pending_uploads_are_listed_oldest_first(server: Serving, api: MainApi) -> None:
    first, second = await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    listed = (await api.pending()).uploads
    assert [one.id for one in listed] == [first["id"], second["id"]]
    assert [one.data_type for one in listed] == [DataType.PROFILE, DataType.LOGO]
    assert listed[0].image_path == first["image_path"]


async def test_the_list_is_read_one_page_at_a_time(
    server: Serving, api: MainApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.ingest.uploads.upload_queue._PAGE", 2)
    monkeypatch.setattr("proxy.web.handlers.media_api.MAX_LISTED", 2)
    images = [
        *await upload(server, {"profile_image": PHOTO, "logo_image": LOGO, "site_image": LOGO})
    ]
    images += await upload(server, {"profile_image": PHOTO, "logo_image": LOGO})
    listed = [[one.id for one in page.uploads] async for page in pages(api.pending)]
    ids = [image["id"] for image in images]
    assert listed == [ids[:2], ids[2:4], ids[4:]]
    assert await count_pending(api) == 5


async def test_a_download_gives_the_bytes_of_the_upload(server: Serving, api: MainApi) -> None:
    (image,) = await upload(server)
    async with api.download(image["image_path"]) as file:
        assert os.pread(file.descriptor, len(PHOTO) + 1, 0) == PHOTO


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
    assert not (await api.pending()).uploads


async def test_a_failure_deletes_the_file_and_may_be_repeated(
    server: Serving, api: MainApi
) -> None:
    (image,) = await upload(server)
    await api.cleanup(image["id"])
    await api.cleanup(image["id"])
    assert not temp_files(server)
    assert not (await api.pending()).uploads
    with pytest.raises(MainApiRefused):
        await api.complete(image["id"], {"media_id": "7"})


async def test_an_unknown_upload_is_gone(server: Serving, api: MainApi) -> None:
    with pytest.raises(UploadGone):
        await api.complete(999, {"media_id": "7"})
    with pytest.raises(UploadGone):
        await api.cleanup(999)


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
        settings = server.services.settings
        quota = UploadQuota(settings.database_url, settings.database, UploadLimits(0, 0))
        uploader = Uploader(
            quota=quota,
            queue=UploadQueue(slow, server.main.queue.files),
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


async def test_the_whole_callback_of_the_embedded_worker_is_stored(serve: Serve) -> None:
    server = await serve(main=MAIN, users=USERS)
    (image,) = await upload(server)
    assert server.main is not None
    payload = {
        "media_id": "789",
        "permanent_url": "https://media-backend/serve/789",
        "ai_analysis": {"style": "Cubism", "site_context": {"pages": [1, None]}},
    }
    for _ in range(2):
        await LocalMainApi(server.main.queue).complete(image["id"], payload)
    assert await server.main.results.callback(789) == payload
    assert await server.main.results.servers(789) == {"https://media-backend"}
