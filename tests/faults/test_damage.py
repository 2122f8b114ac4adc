"""Row 15: damaged files of the disk cache are never served; they are deleted and rendered again.

Length and key are verified at every open. The checksum is verified too, but for a file too long to
be read at once (`memory_max_item_bytes`, at least 256 KiB) only at the first open by a process,
and later if its inode, size or time of change differ. Damage that leaves those unchanged is
therefore found at the next start.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from proxy.storage.renditions.rendition_file import TRAILER_BYTES
from tests.faults.conftest import Launch
from tests.faults.responses import bodies, fetch_all
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_DISK_ONLY: Sections = {
    "log": {"access": False},
    "renditions": {"memory_max_bytes": 0, "memory_max_item_bytes": 0},
    "database": {"row_ttl_s": 3600},
}
"""Every hit is read from disk; the checksum of files over 256 KiB is computed once."""

Damage = Callable[[Path, Sequence[Path], random.Random], None]


def targets(library: Library, *, widths: Sequence[int]) -> list[str]:
    """Files of some kilobytes, and one that is long."""
    short = [
        f"/serve/{library.ids[name]}?w={width}&format={kind}"
        for name in ("photo", "logo", "badge")
        for width in widths
        for kind in ("webp", "png", "jpeg")
    ]
    return [*short, long(library)]


def long(library: Library) -> str:
    return f"/serve/{library.ids['large']}?w=1200&format=jpeg"


def rewritten(file: Path, content: bytes | bytearray) -> None:
    """Overwrite the bytes in place: the same inode, as after a bad block or a stray write."""
    with file.open("r+b") as opened:
        opened.write(content)
        opened.truncate()


def cut(file: Path, _others: Sequence[Path], chance: random.Random) -> None:
    os.truncate(file, chance.randrange(file.stat().st_size))


def flipped(file: Path, _others: Sequence[Path], chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    rewritten(file, content)


def flipped_in_the_trailer(file: Path, _others: Sequence[Path], chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[-1 - chance.randrange(TRAILER_BYTES)] ^= 1 << chance.randrange(8)
    rewritten(file, content)


def zeroed(file: Path, _others: Sequence[Path], chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    start = chance.randrange(len(content))
    content[start:] = bytes(len(content) - start)
    rewritten(file, content)


def lengthened(file: Path, _others: Sequence[Path], chance: random.Random) -> None:
    rewritten(file, file.read_bytes() + chance.randbytes(chance.randint(1, 100)))


def swapped(file: Path, others: Sequence[Path], chance: random.Random) -> None:
    """Return the intact file of another size, format or image."""
    other = chance.choice([one for one in others if one != file and one.is_file()])
    aside = file.with_suffix(".aside")
    shutil.copy(other, aside)
    aside.rename(file)


def as_directory(file: Path, _others: Sequence[Path], _chance: random.Random) -> None:
    file.unlink()
    file.mkdir()
    (file / "something").touch()


def as_link(file: Path, others: Sequence[Path], chance: random.Random) -> None:
    file.unlink()
    file.symlink_to(chance.choice(others))


def as_fifo(file: Path, _others: Sequence[Path], _chance: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def as_socket(file: Path, _others: Sequence[Path], _chance: random.Random) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        # By the descriptor of its directory: the path of a socket has at most 108 bytes.
        directory = os.open(file.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/{file.name}")
        os.close(directory)


_IN_PLACE: Sequence[Damage] = (cut, flipped, flipped_in_the_trailer, zeroed, lengthened, swapped)
_REPLACED: Sequence[Damage] = (as_directory, as_link, as_fifo, as_socket)
_DAMAGES = (*_IN_PLACE, *_REPLACED)


def stored(server: Server) -> list[Path]:
    return sorted((server.data_dir / "renditions").glob("??/*/*"))


async def until_stored(server: Server, count: int) -> list[Path]:
    await eventually(lambda: len(stored(server)) >= count)
    return stored(server)


async def damaged(
    server: Server,
    damages: Sequence[Damage],
    right: dict[str, bytes],
    *,
    seed: int = 0,
    down: bool = False,
) -> int:
    """Damage each file; each must be detected and rendered again. Return their number."""
    files, chance = await until_stored(server, len(right)), random.Random(seed)
    good = {file: file.read_bytes() for file in files}
    if down:
        await server.kill()
    else:
        before = await server.metric("smartserve_cache_corrupt_total")
    for number, file in enumerate(files):
        damages[number % len(damages)](file, files, chance)
    if down:
        before = 0.0
        await server.start()
    # A link may lead to a copy of the former content.
    spoilt = [f for f in files if f.is_symlink() or not f.is_file() or f.read_bytes() != good[f]]
    harmed = len(spoilt)
    async with server.client() as client:
        assert bodies(await fetch_all(client, right)) == right
    assert await server.metric("smartserve_cache_corrupt_total") - before == harmed
    assert harmed > 0.9 * len(files)
    return harmed


async def assert_on_disk(server: Server, right: dict[str, bytes]) -> None:
    """Assert that every target is served from disk."""
    await until_stored(server, len(right))
    hits = await server.metric("smartserve_cache_hits_total", tier="disk")
    async with server.client() as client:
        assert bodies(await fetch_all(client, right)) == right
    assert await server.metric("smartserve_cache_hits_total", tier="disk") - hits == len(right)
    for file in stored(server):
        assert file.is_file()
        assert not file.is_symlink()


async def filled_server(launch: Launch, wanted: Sequence[str]) -> tuple[Server, dict[str, bytes]]:
    """Return a server with all images on disk, and its responses from when it rendered them."""
    server = await launch(_DISK_ONLY)
    async with server.client() as client:
        right = bodies(await fetch_all(client, wanted))
    files = await until_stored(server, len(right))
    assert max(file.stat().st_size for file in files) > 256 * 1024
    return server, right


async def test_damaged_files_are_not_served_and_are_rendered_again(
    launch: Launch, library: Library
) -> None:
    server, right = await filled_server(launch, targets(library, widths=(64, 128)))
    await damaged(server, _DAMAGES, right)
    await assert_on_disk(server, right)


async def test_damage_of_a_long_file_with_unchanged_times_is_detected_at_the_next_start(
    launch: Launch, library: Library
) -> None:
    """The checksum of a long file is verified at the first open by a process only."""
    server, right = await filled_server(launch, [long(library)])
    await assert_on_disk(server, right)  # the first open
    (file,) = stored(server)
    before = file.stat()
    flipped(file, [], random.Random(1))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    await server.kill()
    await server.start()
    async with server.client() as client:
        assert bodies(await fetch_all(client, right)) == right
    assert await server.metric("smartserve_cache_corrupt_total") == 1


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_thousands_of_damaged_files_are_detected(
    launch: Launch, library: Library, record: Record
) -> None:
    """In every fourth round the files are damaged while the server is stopped."""
    widths = (16, 32, 48, 64, 96, 128)
    server, right = await filled_server(launch, targets(library, widths=widths))
    chance, harmed = random.Random(15), 0
    for turn in range(32):
        damages = chance.sample(_DAMAGES, len(_DAMAGES))
        harmed += await damaged(server, damages, right, seed=turn, down=turn % 4 == 3)
    await assert_on_disk(server, right)
    assert harmed > 1600
    record(Figure(15, "files cut, flipped, zeroed, swapped, replaced", harmed, 0, "all counted"))
