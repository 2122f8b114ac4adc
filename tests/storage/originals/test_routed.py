"""Each path is opened by the storage that its scheme names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path

import pytest

from proxy.domain.errors import QueueFull, SourceMissing
from proxy.runtime.byte_budget import ByteBudget
from proxy.settings import StorageSettings
from proxy.storage.originals.fetched import SourceFetcher
from proxy.storage.originals.local_store import LocalOriginals, OpenSource
from proxy.storage.originals.routed import RoutedOriginals
from tests.support.waiting import eventually

REMOTE = b"from another server"
LOCAL = b"from the disk"


class Remote:
    """A storage that sends the same bytes for each path."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.closed = False
        self.fetcher = SourceFetcher(ByteBudget(1000))

    async def open(self, path: str) -> OpenSource:
        self.paths.append(path)
        await self.fetcher.budget.take(len(REMOTE))

        async def body() -> AsyncIterator[bytes]:
            yield REMOTE

        return await self.fetcher.copy(body(), held_bytes=len(REMOTE), max_bytes=1000, version="v1")

    async def byte_size(self, path: str) -> int:
        self.paths.append(path)
        return len(REMOTE)

    def statistics(self) -> Mapping[str, float]:
        return {"opened": len(self.paths), "failures_missing": 2}

    async def aclose(self) -> None:
        self.closed = True
        await self.fetcher.aclose()


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
async def originals(tmp_path: Path, remote: Remote) -> AsyncIterator[RoutedOriginals]:
    (tmp_path / "bulk").mkdir()
    (tmp_path / "bulk/a.jpg").write_bytes(LOCAL)
    local = LocalOriginals(tmp_path, StorageSettings())
    async with aclosing(
        RoutedOriginals(local, {"s3": remote}, download_bytes=2 * len(REMOTE))
    ) as originals:
        yield originals


@pytest.mark.parametrize("path", ["s3://photos/bulk/a.jpg", "S3://photos/bulk/a.jpg"])
async def test_an_address_is_opened_by_the_storage_of_its_scheme(
    originals: RoutedOriginals, remote: Remote, path: str
) -> None:
    with await originals.open(path) as source:
        assert os.read(source.descriptor, 100) == REMOTE
    assert await originals.byte_size(path) == len(REMOTE)
    assert remote.paths == [path, path]


@pytest.mark.parametrize("path", ["bulk/a.jpg", "/bulk/a.jpg"])
async def test_a_path_without_a_scheme_is_a_local_file(
    originals: RoutedOriginals, remote: Remote, path: str
) -> None:
    with await originals.open(path) as source:
        assert os.read(source.descriptor, 100) == LOCAL
    assert await originals.byte_size(path) == len(LOCAL)
    assert remote.paths == []


async def test_a_scheme_of_no_storage_is_missing(originals: RoutedOriginals) -> None:
    with pytest.raises(SourceMissing):
        await originals.open("ftp://photos/bulk/a.jpg")


@pytest.mark.parametrize(
    ("path", "content"), [("s3://photos/a.jpg", REMOTE), ("bulk/a.jpg", LOCAL)]
)
async def test_both_kinds_are_read_in_pieces(
    originals: RoutedOriginals, remote: Remote, path: str, content: bytes
) -> None:
    original = await originals.open_file(path)
    assert original.version
    read = [piece async for piece in original.chunks(5, len(content))]
    assert b"".join(read) == content[5:]
    original.file.close()
    await eventually(lambda: remote.fetcher.budget.statistics()["held_bytes"] == 0)


async def test_downloads_by_slow_clients_leave_memory_for_renders(
    originals: RoutedOriginals,
) -> None:
    path = "s3://photos/a.jpg"
    downloads = [await originals.open_file(path) for _ in range(2)]
    with pytest.raises(QueueFull) as refused:
        await originals.open_file(path)
    assert refused.value.retry_after_s
    with await originals.open(path):
        pass
    downloads[0].file.close()
    await eventually(lambda: originals._downloads.statistics()["held_bytes"] == len(REMOTE))
    (await originals.open_file(path)).file.close()


async def test_the_figures_of_all_storages_are_added(
    originals: RoutedOriginals, remote: Remote
) -> None:
    with await originals.open("bulk/a.jpg"):
        pass
    with await originals.open("s3://photos/a.jpg"):
        pass
    figures = originals.statistics()
    assert (figures["opened"], figures["failures_missing"]) == (2, 2)


async def test_all_storages_are_closed(originals: RoutedOriginals, remote: Remote) -> None:
    await originals.aclose()
    assert remote.closed
