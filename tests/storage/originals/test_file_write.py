import asyncio
import os
from pathlib import Path

import pytest

from proxy.domain.errors import SourceMissing, SourceTooLarge, SourceUnavailable
from proxy.runtime.tempfiles import fill, scratch_file
from proxy.settings import StorageSettings
from proxy.storage.originals.local_store import LocalOriginals
from tests.storage.originals.conftest import MAX_BYTES, descriptors, read
from tests.support.waiting import eventually


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(b"new original")
    return path


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_an_original_is_copied_into_directories_that_are_made(
    sources: LocalOriginals, original: Path, root: Path
) -> None:
    assert await sources.add("library/2026/a.jpg", original)

    assert await read(sources, "library/2026/a.jpg") == b"new original"
    assert "upload" in names(original.parent)
    assert names(root) == ["bulk/2025-01-15/x.jpg", "library/2026/a.jpg"]


async def test_a_descriptor_is_copied_from_where_it_stands_and_stays_open(
    sources: LocalOriginals, original: Path
) -> None:
    descriptor = os.open(original, os.O_RDONLY)
    os.read(descriptor, 4)

    assert await sources.add("a.jpg", descriptor)

    assert await read(sources, "a.jpg") == b"original"
    os.close(descriptor)


async def test_a_file_that_stands_is_never_replaced(
    sources: LocalOriginals, original: Path, root: Path
) -> None:
    assert not await sources.add("bulk/2025-01-15/x.jpg", original)

    assert await read(sources, "bulk/2025-01-15/x.jpg") == b"original"
    assert names(root) == ["bulk/2025-01-15/x.jpg"]


async def test_of_two_that_add_one_name_at_once_one_wins(
    sources: LocalOriginals, original: Path
) -> None:
    added = await asyncio.gather(*[sources.add("a/b/c.jpg", original) for _ in range(8)])

    assert sorted(added) == [False] * 7 + [True]


@pytest.mark.parametrize("path", ["../x.jpg", "", "a/../../x.jpg", "x/", "a\0b"])
async def test_nothing_is_added_outside_the_root(
    sources: LocalOriginals, original: Path, root: Path, path: str
) -> None:
    with pytest.raises(SourceMissing):
        await sources.add(path, original)

    assert names(root) == ["bulk/2025-01-15/x.jpg"]


async def test_nothing_is_added_through_a_symbolic_link(
    sources: LocalOriginals, original: Path, root: Path, tmp_path: Path
) -> None:
    (root / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(SourceMissing):
        await sources.add("link/a.jpg", original)

    assert names(tmp_path / "secret") == ["x.jpg"]


async def test_what_is_too_large_leaves_nothing(
    sources: LocalOriginals, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(MAX_BYTES + 1))

    with pytest.raises(SourceTooLarge):
        await sources.add("a.jpg", tmp_path / "large")

    assert names(root) == ["bulk/2025-01-15/x.jpg"]


async def test_an_upload_that_is_not_there_is_the_callers_error(
    sources: LocalOriginals, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        await sources.add("a.jpg", tmp_path / "nothing")


async def test_a_missing_root_is_not_made(original: Path, tmp_path: Path) -> None:
    sources = LocalOriginals(tmp_path / "unmounted", StorageSettings())

    with pytest.raises(SourceUnavailable):
        await sources.add("a.jpg", original)

    assert not (tmp_path / "unmounted").exists()
    await sources.aclose()


async def test_a_cancelled_copy_leaves_nothing(sources: LocalOriginals, root: Path) -> None:
    reading, writing = os.pipe()
    before = descriptors()
    task = asyncio.create_task(sources.add("a.jpg", reading))
    # The root, its parent directory and the new file are open: the copy waits for the pipe.
    await eventually(lambda: descriptors() >= before + 4)

    task.cancel()
    await asyncio.sleep(0)
    os.write(writing, b"too late")
    with pytest.raises(asyncio.CancelledError):
        await task

    assert names(root) == ["bulk/2025-01-15/x.jpg"]
    assert descriptors() == before
    os.close(reading)
    os.close(writing)


async def test_nothing_stays_open_behind_what_was_added(
    sources: LocalOriginals, original: Path
) -> None:
    await sources.add("first.jpg", original)
    before = descriptors()

    for number in range(5):
        await sources.add(f"a/b/{number}.jpg", original)

    assert descriptors() == before


async def test_a_removed_original_is_gone(sources: LocalOriginals, root: Path) -> None:
    assert await sources.remove("bulk/2025-01-15/x.jpg")

    assert names(root) == []


@pytest.mark.parametrize(
    "path", ["nothing.jpg", "nothing/x.jpg", "bulk", "bulk/2025-01-15/x.jpg/y"]
)
async def test_removing_what_is_no_original_removes_nothing(
    sources: LocalOriginals, root: Path, path: str
) -> None:
    assert not await sources.remove(path)

    assert names(root) == ["bulk/2025-01-15/x.jpg"]


async def test_nothing_is_removed_through_a_symbolic_link(
    sources: LocalOriginals, root: Path, tmp_path: Path
) -> None:
    (root / "link").symlink_to(tmp_path / "secret")

    assert not await sources.remove("link/x.jpg")

    assert names(tmp_path / "secret") == ["x.jpg"]


async def test_an_original_from_a_scratch_file_is_readable_as_any_other(
    sources: LocalOriginals, original: Path, root: Path
) -> None:
    async with scratch_file(root) as file:
        fill(file, b"downloaded")
        assert await sources.add("linked.jpg", file.fileno())
    assert await sources.add("copied.jpg", original)
    assert await read(sources, "linked.jpg") == b"downloaded"
    assert (root / "linked.jpg").stat().st_mode == (root / "copied.jpg").stat().st_mode
