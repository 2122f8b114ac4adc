"""The store of originals: paths of the database, deadlines, cancellation, statistics."""

import asyncio
import errno
import os
import re
import resource
import socket
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import SourceMissing, SourceTimeout, SourceTooLarge, SourceUnavailable
from proxy.domain.media import DataType
from proxy.domain.upload import Lease, LeasedItem, Upload
from proxy.runtime.tempfiles import fill, scratch_file
from proxy.settings import StorageSettings
from proxy.storage.originals.local_store import (
    LocalOriginals,
    OpenSource,
    library_path,
    names_below,
    original_path,
    readable,
    translated,
)
from tests.storage.originals.conftest import MAX_BYTES, PATH, read
from tests.support.descriptors import open_descriptors
from tests.support.swapping import swapped
from tests.support.waiting import eventually


@pytest.mark.parametrize("form", [PATH, f"/{PATH}", f"//{PATH}", "bulk//2025-01-15/x.jpg"])
async def test_all_forms_of_a_path_mean_below_the_root(sources: LocalOriginals, form: str) -> None:
    assert await read(sources, form) == b"original"


async def test_a_path_that_begins_with_the_root_means_below_it(
    sources: LocalOriginals, root: Path
) -> None:
    assert await read(sources, str(root / PATH)) == b"original"


async def test_paths_written_for_another_root_are_read_below_this_one(tmp_path: Path) -> None:
    (tmp_path / "bulk").mkdir()
    (tmp_path / "bulk" / "x.jpg").write_bytes(b"picture")
    settings = StorageSettings(strip_prefix="/var/www/media-backend/storage")
    sources = LocalOriginals(tmp_path, settings)
    with await sources.open("/var/www/media-backend/storage/bulk/x.jpg") as source:
        assert source.byte_size == 7
    await sources.aclose()


async def test_a_missing_root_is_unavailable_and_not_a_missing_file(tmp_path: Path) -> None:
    sources = LocalOriginals(tmp_path / "unmounted", StorageSettings())

    with pytest.raises(SourceUnavailable):
        await read(sources, PATH)
    with pytest.raises(SourceUnavailable):
        await sources.check()

    (tmp_path / "unmounted").mkdir()
    await sources.check()
    await sources.aclose()


async def test_no_descriptors_is_unavailable_and_heals(sources: LocalOriginals) -> None:
    await read(sources, PATH)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SourceUnavailable):
            await read(sources, PATH)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert await read(sources, PATH) == b"original"


class SlowSources(LocalOriginals):
    """Sources on a file system that answers when it is told to."""

    def __init__(self, root: Path, *, open_timeout_s: float) -> None:
        super().__init__(root, StorageSettings(open_timeout_s=open_timeout_s))
        self.asked = Event()
        self.answer = Event()
        self.late: list[int] = []

    def _open(self, path: str) -> OpenSource:
        self.asked.set()
        self.answer.wait()
        source = super()._open(path)
        self.late.append(source.descriptor)
        return source


def closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


async def test_a_descriptor_that_comes_after_the_deadline_is_closed(root: Path) -> None:
    sources = SlowSources(root, open_timeout_s=0.02)
    before = open_descriptors()

    with pytest.raises(SourceTimeout):
        await read(sources, PATH)
    sources.answer.set()

    await eventually(lambda: bool(sources.late) and closed(sources.late[0]))
    assert open_descriptors() <= before
    assert sources.statistics()["failures_timeout"] == 1
    await sources.aclose()


async def test_a_descriptor_that_comes_after_a_cancellation_is_closed(root: Path) -> None:
    sources = SlowSources(root, open_timeout_s=5)
    before = open_descriptors()
    task = asyncio.create_task(read(sources, PATH))
    await eventually(sources.asked.is_set)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sources.answer.set()

    await eventually(lambda: bool(sources.late) and closed(sources.late[0]))
    assert open_descriptors() <= before
    await sources.aclose()


async def test_statistics_count_opened_sources_and_failures_by_kind(
    sources: LocalOriginals,
) -> None:
    await read(sources, PATH)
    for _ in range(2):
        with pytest.raises(SourceMissing):
            await read(sources, "nothing.jpg")

    statistics = sources.statistics()

    assert statistics["opened"] == 1
    assert statistics["failures_missing"] == 2
    assert statistics["failures_unavailable"] == 0


async def test_a_source_is_a_descriptor_at_its_beginning_and_its_size(
    sources: LocalOriginals,
) -> None:
    with await sources.open(PATH) as source:
        assert source.byte_size == 8
        assert os.read(source.descriptor, 100) == b"original"
        assert not os.get_inheritable(source.descriptor)


async def test_it_is_closed_when_the_block_ends(sources: LocalOriginals) -> None:
    await read(sources, PATH)
    before = open_descriptors()

    for _ in range(5):
        await read(sources, PATH)

    assert open_descriptors() <= before


async def test_the_root_itself_may_be_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    sources = LocalOriginals(tmp_path / "link", StorageSettings())

    assert await read(sources, PATH) == b"original"
    await sources.aclose()


@pytest.mark.parametrize(
    "name", ["x.jpg[shrink=2]", "-rf.jpg", "~", "*", "$HOME.jpg", "a\nb.jpg", "ä ö.jpg", "..x"]
)
async def test_a_name_is_only_a_name(sources: LocalOriginals, root: Path, name: str) -> None:
    (root / name).write_bytes(b"named")

    assert await read(sources, name) == b"named"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        ".",
        "..",
        "../secret/x.jpg",
        "bulk/../../secret/x.jpg",
        "bulk/../bulk/2025-01-15/x.jpg",
        "bulk/./2025-01-15/x.jpg",
        "/../secret/x.jpg",
        "bulk/2025-01-15/x.jpg/",
        "bulk/2025-01-15/x.jpg/.",
        "bulk/2025-01-15/x.jpg\0",
        "bulk/2025-01-15/\0x.jpg",
        "nothing.jpg",
        "nothing/x.jpg",
        "bulk/2025-01-15/x.jpg/y.jpg",
        "bulk",
        "a" * 256,
        "ä" * 128,
        "a/" * 2048 + "x.jpg",
        "\ud800.jpg",
        "/etc/passwd",
        "%2e%2e/secret/x.jpg",
    ],
)
async def test_what_is_no_file_below_the_root_is_missing(
    sources: LocalOriginals, path: str
) -> None:
    with pytest.raises(SourceMissing):
        await read(sources, path)


async def test_a_root_that_is_a_prefix_of_a_name_is_no_root(
    sources: LocalOriginals, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceMissing):
        await read(sources, f"{root}-old/x.jpg")
    with pytest.raises(SourceMissing):
        await read(sources, f"{root}/../secret/x.jpg")
    with pytest.raises(SourceMissing):
        await read(sources, f"{tmp_path}/secret/x.jpg")


@pytest.mark.parametrize("path", ["link/2025-01-15/x.jpg", "bulk/link/x.jpg", "bulk/link"])
@pytest.mark.parametrize("inside", [True, False])
async def test_no_symbolic_link_is_followed(
    sources: LocalOriginals, root: Path, tmp_path: Path, path: str, *, inside: bool
) -> None:
    target = root / "bulk" if inside else tmp_path / "secret"
    (root / "link").symlink_to(target)
    leaf = root / PATH if inside else tmp_path / "secret" / "x.jpg"
    (root / "bulk" / "link").symlink_to(leaf if path.endswith("link") else leaf.parent)

    with pytest.raises(SourceMissing):
        await read(sources, path)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_swapped_for_a_link_meanwhile_is_never_followed(
    root: Path, tmp_path: Path, kind: str
) -> None:
    place = {"file": root / PATH, "directory": (root / PATH).parent}[kind]
    target = {"file": tmp_path / "secret" / "x.jpg", "directory": tmp_path / "secret"}[kind]
    with swapped(place, target):
        found = Counter(opened_or_missing(root) for _ in range(10_000))
    assert found.keys() <= {b"original", b""}


def opened_or_missing(root: Path) -> bytes:
    """What is read from the original, or nothing where it is missing."""
    try:
        source = LocalOriginals(root, StorageSettings())._open(PATH)
    except SourceMissing:
        return b""
    try:
        return os.read(source.descriptor, MAX_BYTES)
    finally:
        os.close(source.descriptor)


async def test_a_fifo_is_missing_and_does_not_hang(sources: LocalOriginals, root: Path) -> None:
    os.mkfifo(root / "fifo")

    with pytest.raises(SourceMissing):
        await read(sources, "fifo")


async def test_a_socket_is_missing(
    sources: LocalOriginals, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

    with pytest.raises(SourceMissing):
        await read(sources, "socket")


async def test_a_device_is_missing(sources: LocalOriginals, root: Path) -> None:
    try:
        os.mknod(root / "device", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")

    with pytest.raises(SourceMissing):
        await read(sources, "device")


async def test_a_file_as_large_as_the_limit_is_opened(sources: LocalOriginals, root: Path) -> None:
    (root / "large.jpg").write_bytes(bytes(MAX_BYTES))

    assert len(await read(sources, "large.jpg")) == MAX_BYTES


async def test_a_file_past_the_limit_is_too_large(sources: LocalOriginals, root: Path) -> None:
    (root / "large.jpg").write_bytes(bytes(MAX_BYTES + 1))
    before = open_descriptors()

    with pytest.raises(SourceTooLarge):
        await read(sources, "large.jpg")

    assert open_descriptors() <= before + 1


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENODEV]
)
def test_a_storage_that_fails_is_unavailable(number: int) -> None:
    with pytest.raises(SourceUnavailable), translated():
        raise OSError(number, os.strerror(number))


_words = st.one_of(
    st.sampled_from(["..", ".", "", "bulk", "x.jpg", "link", "secret", "root", "\0", "~"]),
    st.text(max_size=8),
)


@given(st.lists(_words, max_size=8).map("/".join))
def test_no_path_leads_out_of_the_root(path: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve() / "root"
        (root / "bulk").mkdir(parents=True)
        (root / "bulk" / "x.jpg").touch()
        (root / "link").symlink_to("..")
        (root / "bulk" / "link").symlink_to("/")
        (root.parent / "x.jpg").touch()
        (root.parent / "secret").mkdir()
        (root.parent / "secret" / "x.jpg").touch()
        try:
            source = LocalOriginals(root, StorageSettings())._open(path)
        except SourceMissing:
            return
        opened = Path(f"/proc/self/fd/{source.descriptor}").readlink()
        os.close(source.descriptor)
        assert opened.is_relative_to(root)


MEDIA_BACKEND = "/var/www/media-backend/storage"


PREFIXED = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "/", MEDIA_BACKEND]),
    st.sampled_from(["", "/", "-old/", "/../", "//", "/./", "\0/", f"{MEDIA_BACKEND}/"]),
    st.lists(_words, max_size=8).map("/".join),
)


@given(st.text(max_size=300) | PREFIXED)
def test_names_are_safe_or_refused(path: str) -> None:
    try:
        names = names_below(path, prefix=MEDIA_BACKEND)
    except SourceMissing:
        return
    assert names
    for name in names:
        assert "/" not in name
        assert "\0" not in name
        assert name not in ("", ".", "..")
        assert len(os.fsencode(name)) <= 255


def test_the_root_of_the_media_backend_is_taken_off() -> None:
    root = "/var/www/media-backend/storage"

    assert names_below(f"{root}/bulk/x.jpg", prefix=root) == ("bulk", "x.jpg")
    assert names_below("/bulk/x.jpg", prefix="/") == ("bulk", "x.jpg")


def item(original_name: str | None = "Käse & Brot.png") -> LeasedItem:
    return LeasedItem(
        upload=Upload(12, 4, "/temp_images/x", original_name, "image/png", DataType.LOGO),
        lease=Lease(12, 7, "token"),
        day=date(2025, 1, 15),
        steps={},
        retries=0,
        report_due=False,
    )


def test_an_original_is_named_by_day_id_name_and_hash() -> None:
    path = original_path(item(), "ab" * 32, "png")
    assert path == f"bulk/2025-01-15/12-Kase-Brot-{'ab' * 8}.png"


def test_a_library_file_is_named_by_user_and_kind() -> None:
    path = library_path(item(), "ab" * 32, "avif")
    assert path == f"library/user_4/logo/img/12-Kase-Brot-{'ab' * 8}.avif"


@pytest.mark.parametrize("name", [None, "", "...", "🚢.png", "///"])
def test_a_name_without_readable_characters_is_replaced(name: str | None) -> None:
    assert original_path(item(name), "ab" * 32, "png").startswith("bulk/2025-01-15/12-picture-")


@given(st.text(max_size=300))
def test_readable_names_are_plain_and_short(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,60}", readable(name))
    assert names_below(f"a/{readable(name)}", prefix="/x") == ("a", readable(name))


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
    before = open_descriptors()
    task = asyncio.create_task(sources.add("a.jpg", reading))
    # The root, its parent directory and the new file are open: the copy waits for the pipe.
    await eventually(lambda: open_descriptors() >= before + 4)

    task.cancel()
    await asyncio.sleep(0)
    os.write(writing, b"too late")
    with pytest.raises(asyncio.CancelledError):
        await task

    assert names(root) == ["bulk/2025-01-15/x.jpg"]
    assert open_descriptors() <= before
    os.close(reading)
    os.close(writing)


async def test_nothing_stays_open_behind_what_was_added(
    sources: LocalOriginals, original: Path
) -> None:
    await sources.add("first.jpg", original)
    before = open_descriptors()

    for number in range(5):
        await sources.add(f"a/b/{number}.jpg", original)

    assert open_descriptors() <= before


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
