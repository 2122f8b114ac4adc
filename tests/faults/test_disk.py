"""Row 14: disks that are full, read-only, gone or broken: each answer goes out, and it heals."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
import xxhash

from proxy.storage.renditions.file_read import TRAILER_BYTES, FileTrailer
from tests.benchmarks.servers import command, environment
from tests.faults.asking import ask, ask_all, bodies, statuses, unavailable
from tests.faults.conftest import Launch
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.support.mounts import Mount, remount
from tests.support.server import Library

_DISK_ONLY: Sections = {
    "log": {"access": False},
    "renditions": {"memory_max_bytes": 0},
    "database": {"row_ttl_s": 3600},
}
"""What is not stored has to be rendered each time."""

Harm = Callable[[Path], AbstractContextManager[None]]


def targets(library: Library) -> list[str]:
    return [
        f"/serve/{library.ids[name]}?w={width}&format={kind}"
        for name in ("photo", "logo", "badge")
        for width in (64, 128, 256, 384)
        for kind in ("webp", "png")
    ]


async def reference(launch: Launch, library: Library, place: Path) -> Mapping[str, bytes]:
    """What an undisturbed server answers."""
    server = await launch(_DISK_ONLY, data_dir=library.copy(place))
    async with server.client() as client:
        right = bodies(await ask_all(client, targets(library)))
    await server.stop()
    return right


async def undisturbed(server: Server, library: Library) -> Mapping[str, bytes]:
    """What a server answers before harm is done to it; nothing of it is on the disk any more."""
    async with server.client() as client:
        right = bodies(await ask_all(client, targets(library)))
    await until_all_stored(server, right)
    for path in stored(server.data_dir / "renditions"):
        path.unlink()
    return right


def stored(root: Path) -> list[Path]:
    return list(root.glob("??/*/*"))


def whole(path: Path) -> bool:
    """Whether a file is what its trailer says."""
    content = path.read_bytes()
    body, mark = content[:-TRAILER_BYTES], FileTrailer.parse(content[-TRAILER_BYTES:])
    assert mark is not None
    return (mark.length, mark.checksum) == (len(body), xxhash.xxh3_128_digest(body))


@contextmanager
def no_room(root: Path) -> Iterator[None]:
    """No block is left."""
    filler = root / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(root).f_bavail == 0
    yield
    filler.unlink()


@contextmanager
def no_inodes(root: Path) -> Iterator[None]:
    """There is room, but not for one more name."""
    folder = root / "names"
    folder.mkdir()
    with suppress(OSError):
        for number in range(1000):
            (folder / str(number)).touch()
    assert os.statvfs(root).f_favail == 0
    yield
    shutil.rmtree(folder)


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    remount(root, "ro")
    yield
    remount(root, "rw")


@contextmanager
def a_file_instead(root: Path) -> Iterator[None]:
    """The directory is gone, and cannot be made."""
    root.rename(root.with_suffix(".old"))
    root.touch()
    yield
    root.unlink()


async def until_all_stored(server: Server, right: Mapping[str, bytes]) -> None:
    root = server.data_dir / "renditions"
    async with asyncio.timeout(30), server.client() as client:
        while len(stored(root)) < len(right):
            await asyncio.sleep(0.5)
            assert bodies(await ask_all(client, right)) == right


async def failures(server: Server, kind: str) -> float:
    return await server.metric("smartserve_cache_failures_total", kind=kind)


async def until_stored(server: Server, targets: Sequence[str]) -> None:
    """Ask until the next miss is on the disk again."""
    root = server.data_dir / "renditions"
    before = len(stored(root))
    async with asyncio.timeout(30), server.client() as client:
        while len(stored(root)) <= before:
            await asyncio.sleep(0.2)
            await ask_all(client, targets)


async def harmed(
    server: Server, right: Mapping[str, bytes], harm: Harm, *, kind: str, at_most: int = 12
) -> int:
    """Do harm while pictures are asked for, and mend it; gives how many answers went out.

    Asserts that all were right, that the breaker spared the disk, that nothing half-written is
    there, and that without a restart all is stored again.
    """
    root, pid = server.data_dir / "renditions", server.pid
    misses = list(right)
    async with server.client() as client:
        await ask_all(client, misses[::4])
        with harm(root):
            for _ in range(3):
                assert bodies(await ask_all(client, misses)) == right
            counted = await failures(server, kind)
            # Some writes had begun when the first one failed; those that came later held off.
            assert 1 <= counted <= at_most
        await until_stored(server, misses)
        assert bodies(await ask_all(client, misses)) == right
        async with asyncio.timeout(20):
            while len(stored(root)) < len(misses):
                await asyncio.sleep(0.5)
                assert bodies(await ask_all(client, misses)) == right
        assert [path for path in stored(root) if not whole(path)] == []
        assert list((root / "tmp").iterdir()) == []
        hits = await server.metric("smartserve_cache_hits_total", tier="disk")
        assert bodies(await ask_all(client, misses)) == right
        assert await server.metric("smartserve_cache_hits_total", tier="disk") - hits == len(right)
    assert (server.pid, "circuit_opened" in server.told()) == (pid, True)
    assert "circuit_closed" in server.told()
    return 3 * len(misses)


async def test_a_full_disk_costs_no_answer_and_heals(
    launch: Launch,
    library: Library,
    data_dir: Path,
    tmp_path: Path,
    mounted: Mount,
    record: Record,
) -> None:
    with mounted(data_dir / "renditions", "size=4m"):
        server = await launch(_DISK_ONLY)
        right = await undisturbed(server, library)
        answers = await harmed(server, right, no_room, kind="no_space")
        await server.stop()
    record(Figure(14, "renditions: no room", answers, 0, "stored again without a restart"))


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("harm", "kind"),
    [(no_inodes, "no_space"), (read_only, "read_only")],
)
async def test_harm_to_the_disk_of_renditions_costs_no_answer(
    launch: Launch,
    library: Library,
    tmp_path: Path,
    mounted: Mount,
    record: Record,
    harm: Harm,
    kind: str,
) -> None:
    data_dir = library.copy(tmp_path / "harmed")
    with mounted(data_dir / "renditions", "size=4m,nr_inodes=100"):
        server = await launch(_DISK_ONLY, data_dir=data_dir)
        right = await undisturbed(server, library)
        answers = await harmed(server, right, harm, kind=kind)
        await server.stop()
    name = harm.__name__.replace("_", " ")
    record(Figure(14, f"renditions: {name}", answers, 0, "stored again without a restart"))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_directory_of_renditions_that_cannot_be_made_costs_no_answer(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    server = await launch(_DISK_ONLY)
    right = await undisturbed(server, library)
    # Reads are not held off where they fail at once, and each is counted; where many miss at once
    # the directory is listed first.
    reads = 2 * 3 * len(right)
    answers = await harmed(server, right, a_file_instead, kind="missing", at_most=12 + reads)
    record(Figure(14, "renditions: a file in place of the directory", answers, 0))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_directory_removed_while_serving_is_made_again(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    server = await launch(_DISK_ONLY)
    right = await undisturbed(server, library)
    root = server.data_dir / "renditions"
    answers = 0
    async with server.client() as client:
        for turn in range(20):
            asking = asyncio.create_task(ask_all(client, right))
            await asyncio.sleep(0.01 * turn)
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
            assert bodies(await asking) == right
            answers += len(right)
        await until_stored(server, list(right))
        assert bodies(await ask_all(client, right)) == right
    assert [path for path in stored(root) if not whole(path)] == []
    record(Figure(14, "renditions: rm -rf while serving, 20 times", answers, 0))


class Fiu:
    """Faults of system calls in a server that was started by fiu-run(1), as they are asked for.

    Of its calls, ``pread`` and ``pwrite`` reach files alone, and ``rename`` as well: what uvloop
    does to sockets and pipes goes by others. Workers get nothing of the server's environment.
    """

    def __init__(self, place: Path) -> None:
        self._control = str(place / "fiu")
        self.prefix = ["fiu-run", "-x", "-f", self._control]

    def __call__(self, server: Server, point: str, code: int) -> AbstractContextManager[None]:
        return self._failing(server, point, code)

    @contextmanager
    def _failing(self, server: Server, point: str, code: int) -> Iterator[None]:
        """Every third call fails, by chance, for the length of the block."""
        name = f"name=posix/io/{point}"
        self._send(server, f"enable_random {name},probability=0.3,failinfo={code}")
        yield
        self._send(server, f"disable {name}")

    def _send(self, server: Server, order: str) -> None:
        subprocess.run(
            ["fiu-ctrl", "-f", self._control, "-c", order, str(server.pid)], check=True, timeout=20
        )


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("point", "code", "kind"),
    [
        ("rw/pwrite", errno.ENOSPC, "no_space"),
        ("rw/pwrite", errno.EIO, "io"),
        ("dir/rename", errno.EIO, "io"),
        ("rw/pread", errno.EIO, "io"),
    ],
)
async def test_calls_that_fail_by_chance_cost_no_answer(
    launch: Launch,
    library: Library,
    tmp_path: Path,
    record: Record,
    point: str,
    code: int,
    kind: str,
) -> None:
    if shutil.which("fiu-run") is None:
        unavailable("fiu-run")
    fiu = Fiu(tmp_path)
    server = await launch(_DISK_ONLY, prefix=fiu.prefix)
    right = await undisturbed(server, library)
    assert "fiu_posix_preload" in Path(f"/proc/{server.pid}/maps").read_text()
    root = server.data_dir / "renditions"
    async with server.client() as client:
        await ask_all(client, right)
        for _ in range(5):
            for path in stored(root)[::2]:
                path.unlink()
            with fiu(server, point, code):
                assert bodies(await ask_all(client, right)) == right
        counted = await failures(server, kind)
        assert counted >= 1
        await until_all_stored(server, right)
    assert [path for path in stored(root) if not whole(path)] == []
    assert list((root / "tmp").iterdir()) == []
    name = f"{errno.errorcode[code]} from {point.rpartition('/')[2]}, by libfiu"
    record(Figure(14, name, int(counted), 0, f"{5 * len(right)} answers"))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_without_originals_what_is_cached_goes_on(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    """An other size of a cached picture stands in; a picture of which nothing is there is a 503."""
    right = await reference(launch, library, tmp_path / "reference")
    server = await launch(_DISK_ONLY)
    originals = server.data_dir / "originals"
    cached = [
        target for target in right if "w=128" in target and f"/{library.ids['photo']}?" in target
    ]
    others = [target for target in right if f"/{library.ids['photo']}?" in target]
    unknown = [target for target in right if f"/{library.ids['photo']}?" not in target]
    async with server.client() as client:
        await ask_all(client, cached)
        originals.rename(originals.with_suffix(".away"))
        for _ in range(3):
            assert {one: right[one] for one in cached} == bodies(await ask_all(client, cached))
            near = bodies(await ask_all(client, others))
            assert set(near.values()) <= {right[one] for one in cached}
            refused = await ask_all(client, unknown)
            assert set(statuses(refused).values()) == {503}
            assert len(statuses(refused)) == len(unknown)
        gone = await server.metric("smartserve_source_errors_total", kind="unavailable")
        originals.with_suffix(".away").rename(originals)
        assert bodies(await ask_all(client, right)) == right
        await until_all_stored(server, right)
        for path in originals.rglob("*.png"):
            path.unlink()
        for path in stored(server.data_dir / "renditions"):
            path.unlink()
        found = await ask_all(client, right)
    assert set(statuses(found)) == set(unknown)
    assert set(statuses(found).values()) == {404}
    assert gone >= len(unknown)
    record(Figure(14, "originals gone: cached go on, others 503", int(gone), 0))


def facts(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        (count,) = connection.execute("SELECT count(*) FROM media_facts").fetchone()
    connection.close()
    return int(count)


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_full_disk_of_the_database_costs_no_answer(
    launch: Launch, library: Library, tmp_path: Path, mounted: Mount, record: Record
) -> None:
    """What is learned about pictures is kept in memory, and saved when there is room again."""
    right = await reference(launch, library, tmp_path / "reference")
    place = tmp_path / "database"
    with mounted(place, "size=1m"):
        database = place / "smartserve.db"
        shutil.copy(library.directory / "smartserve.db", database)
        with sqlite3.connect(database) as connection:
            connection.execute("DELETE FROM media_facts")
        connection.close()
        url = f"sqlite+aiosqlite:///{database}"
        server = await launch({**_DISK_ONLY, "database": {"url": url, "row_ttl_s": 0.2}})
        async with server.client() as client:
            assert (await ask(client, "/readyz")).status == 200
            with no_room(place):
                for _ in range(3):
                    assert bodies(await ask_all(client, right)) == right
                assert facts(database) == 0
                refused = await server.metric("smartserve_database_errors_total")
                imported = await asyncio.to_thread(import_samples, server, url)
                assert imported.returncode == 1, imported.stderr
                assert "database" in imported.stderr
            async with asyncio.timeout(30):
                while facts(database) < 3:
                    await asyncio.sleep(0.3)
                    assert bodies(await ask_all(client, right)) == right
        assert refused >= 1
        assert len(list((server.data_dir / "originals").rglob("*.*"))) == len(library.ids)
        await server.stop()
    record(Figure(14, "the disk of SQLite full: served, facts saved later", 3 * len(right), 0))


def import_samples(server: Server, url: str) -> subprocess.CompletedProcess[str]:
    samples = Path(__file__).parents[2] / "proxy" / "samples"
    return subprocess.run(
        [*command("import", samples / "kodak-23.jpg"), "--data-dir", str(server.data_dir)],
        env=environment(DATABASE__URL=url),
        capture_output=True,
        text=True,
        check=False,
    )
