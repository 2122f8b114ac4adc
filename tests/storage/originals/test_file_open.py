import errno
import os
import socket
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import SourceMissing, SourceTooLarge, SourceUnavailable
from proxy.settings import StorageSettings
from proxy.storage.originals.file_open import names_below, open_below, translated
from proxy.storage.originals.local_store import LocalOriginals
from tests.storage.originals.conftest import MAX_BYTES
from tests.support.swapping import swapped

PATH = "bulk/2025-01-15/x.jpg"


async def read(sources: LocalOriginals, path: str) -> bytes:
    async with sources.open(path) as source:
        return os.read(source.descriptor, source.byte_size + 1)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_source_is_a_descriptor_at_its_beginning_and_its_size(
    sources: LocalOriginals,
) -> None:
    async with sources.open(PATH) as source:
        assert source.byte_size == 8
        assert os.read(source.descriptor, 100) == b"original"
        assert not os.get_inheritable(source.descriptor)


async def test_it_is_closed_when_the_block_ends(sources: LocalOriginals) -> None:
    await read(sources, PATH)
    before = descriptors()

    for _ in range(5):
        await read(sources, PATH)

    assert descriptors() == before


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
        source = open_below(str(root), PATH.split("/"), max_bytes=MAX_BYTES)
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
    before = descriptors()

    with pytest.raises(SourceTooLarge):
        await read(sources, "large.jpg")

    assert descriptors() <= before + 1


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
            names = names_below(path, prefix=str(root))
            source = open_below(str(root), names, max_bytes=100)
        except SourceMissing:
            return
        opened = Path(f"/proc/self/fd/{source.descriptor}").readlink()
        os.close(source.descriptor)
        assert opened.is_relative_to(root)
