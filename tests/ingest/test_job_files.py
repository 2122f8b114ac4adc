"""The files of jobs: durable, in one folder that shows which servers share it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.domain.errors import SourceMissing
from proxy.ingest.job_files import JobFiles
from proxy.metadata.media_extraction import read_pieces
from proxy.settings import StorageSettings

JOB = "0123456789abcdef" * 2
CONTENT = os.urandom(3 * 1024 * 1024 + 7)


def files_of(folder: Path) -> JobFiles:
    return JobFiles(folder, StorageSettings(open_timeout_s=60))


async def test_a_file_is_read_again_as_it_was_also_by_another_server(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    files = files_of(tmp_path / "jobs")
    await files.folder_id()
    with source.open("rb") as file:
        # As after it was received.
        file.seek(0, os.SEEK_END)
        await files.add(JOB, file.fileno())
    async with files_of(tmp_path / "jobs").opened(JOB) as opened:
        pieces = [piece async for piece in read_pieces(opened)]
    assert b"".join(pieces) == CONTENT
    assert max(map(len, pieces)) == 1024 * 1024


async def test_servers_that_share_the_folder_find_one_number(tmp_path: Path) -> None:
    first, second = files_of(tmp_path / "jobs"), files_of(tmp_path / "jobs")
    assert await first.known_id() is None
    number = await first.folder_id()
    assert await second.known_id() == number == await second.folder_id()
    assert await files_of(tmp_path / "others").folder_id() != number


async def test_strangers_cannot_list_the_folder(tmp_path: Path) -> None:
    await files_of(tmp_path / "jobs").folder_id()
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0


async def test_a_file_that_is_missing_has_an_error_of_its_own(tmp_path: Path) -> None:
    files = files_of(tmp_path / "jobs")
    await files.folder_id()
    await files.remove(JOB)
    with pytest.raises(SourceMissing, match="Send it again"):
        async with files.opened(JOB):
            pass


async def test_only_old_files_with_the_name_of_a_job_count_as_abandoned(tmp_path: Path) -> None:
    files = files_of(tmp_path / "jobs")
    assert await files.abandoned() == []
    await files.folder_id()
    for name in (JOB, "f" * 32, "README", ".smartserve-0.part"):
        (tmp_path / "jobs" / name).write_bytes(b"x")
        if name != "f" * 32:
            os.utime(tmp_path / "jobs" / name, (0, 0))
    os.utime(tmp_path / "jobs" / "folder-id", (0, 0))
    assert await files.abandoned() == [JOB]
    # A copy that a killed process has not finished.
    assert not (tmp_path / "jobs" / ".smartserve-0.part").exists()
