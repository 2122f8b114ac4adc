"""State changes of uploads. Their HTTP form is tested with the handlers and `LocalMainApi`."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import pytest

from proxy.domain.errors import PendingNotFound, UploadStorageError
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.storage.database.upload_repository import UploadRepository
from proxy.storage.upload_files import OpenUpload, TempName, UploadFiles

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
