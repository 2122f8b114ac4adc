"""Row 14: a disk that is full, read-only, missing or faulty costs no response, and recovers."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import pytest
import xxhash
from aiohttp import ClientSession

from proxy.storage.renditions.rendition_file import TRAILER_BYTES, trailer_of
from tests.benchmarks.servers import command, environment
from tests.faults.conftest import Launch
from tests.faults.responses import bodies, fetch, fetch_all, statuses
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.support.mounts import Mount, remount
from tests.support.server import Library
from tests.support.unavailable import unavailable
from tests.support.waiting import eventually, wait_until

pytestmark = pytest.mark.slow

_DISK_ONLY: Sections = {
    "log": {"access": False},
    "renditions": {"memory_max_bytes": 0},
    "database": {"row_ttl_s": 3600},
}
"""Renditions that are not stored must be rendered for each request."""

Harm = Callable[[Path], AbstractContextManager[None]]


def targets(library: Library) -> list[str]:
    return [
        f"/serve/{library.ids[name]}?w={width}&format={kind}"
        for name in ("photo", "logo", "badge")
        for width in (64, 128, 256, 384)
        for kind in ("webp", "png")
    ]


async def reference(launch: Launch, library: Library, place: Path) -> Mapping[str, bytes]:
    """Return the responses of an undisturbed server."""
    server = await launch(_DISK_ONLY, data_dir=library.copy(place))
    async with server.client() as client:
        right = bodies(await fetch_all(client, targets(library)))
    await server.stop()
    return right


async def undisturbed(server: Server, library: Library) -> Mapping[str, bytes]:
    """Return the responses before a fault; the disk cache is empty afterwards."""
    async with server.client() as client:
        right = bodies(await fetch_all(client, targets(library)))
    await until_all_stored(server, right)
    for path in stored(server.data_dir / "renditions"):
        path.unlink()
    return right


def stored(root: Path) -> list[Path]:
    return list(root.glob("??/*/*"))


def is_intact(path: Path) -> bool:
    """Return whether a file agrees with its trailer."""
    content = path.read_bytes()
    body, digest = content[:-TRAILER_BYTES], bytes.fromhex(path.name.partition(".")[0])
    return content == body + trailer_of(len(body), xxhash.xxh3_128_digest(body), digest)


@contextmanager
def fill_blocks(root: Path) -> Iterator[None]:
    """Leave no free block."""
    filler = root / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(root).f_bavail == 0
    yield
    filler.unlink()


@contextmanager
def fill_inodes(root: Path) -> Iterator[None]:
    """Leave free blocks, but no inode."""
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
def replace_by_file(root: Path) -> Iterator[None]:
    """Replace the directory by a file, so that it cannot be created."""
    root.rename(root.with_suffix(".old"))
    root.touch()
    yield
    root.unlink()


async def until_all_stored(server: Server, right: Mapping[str, bytes]) -> None:
    root = server.data_dir / "renditions"
    async with server.client() as client:
        await _request_until(client, right, lambda: len(stored(root)) >= len(right))


async def _request_until(
    client: ClientSession, right: Mapping[str, bytes], condition: Callable[[], bool]
) -> None:
    """Request all images until the condition is true; every response must be correct."""

    async def reached() -> bool:
        assert bodies(await fetch_all(client, right)) == right
        return condition()

    await eventually(reached, timeout_s=30, interval_s=0.3)


async def failures(server: Server, kind: str) -> float:
    return await server.metric("smartserve_cache_failures_total", kind=kind)


async def until_stored(server: Server, targets: Sequence[str]) -> None:
    """Send requests until the next miss is stored."""
    root = server.data_dir / "renditions"
    before = len(stored(root))
    async with server.client() as client:

        async def another_stored() -> bool:
            await fetch_all(client, targets)
            return len(stored(root)) > before

        await eventually(another_stored, timeout_s=30, interval_s=0.2)


_BREAKER_PAUSE_S = 5.0
"""As `proxy.storage.renditions.disk_state` has it."""


async def with_fault(
    server: Server, right: Mapping[str, bytes], harm: Harm, *, kind: str, at_most: int = 12
) -> int:
    """Cause a fault during requests, and repair it; return the number of responses.

    Asserts that all responses are correct, that the circuit breaker spares the disk, that there is
    no incomplete file, and that everything is stored again without a restart.
    """
    root, pid = server.data_dir / "renditions", server.pid
    misses = list(right)
    async with server.client() as client:
        await fetch_all(client, misses[::4])
        with harm(root):
            began = time.monotonic()
            for _ in range(3):
                assert bodies(await fetch_all(client, misses)) == right
            counted = await failures(server, kind)
            # Some writes had begun when the first one failed; later ones are held off until the
            # circuit breaker lets some through again. A busy machine is slow enough for that.
            pauses = 1 + int((time.monotonic() - began) / _BREAKER_PAUSE_S)
            assert 1 <= counted <= at_most * pauses
        await until_stored(server, misses)
        assert bodies(await fetch_all(client, misses)) == right
        await _request_until(client, right, lambda: len(stored(root)) >= len(misses))
        assert [path for path in stored(root) if not is_intact(path)] == []
        assert list((root / "tmp").iterdir()) == []
        hits = await server.metric("smartserve_cache_hits_total", tier="disk")
        assert bodies(await fetch_all(client, misses)) == right
        assert await server.metric("smartserve_cache_hits_total", tier="disk") - hits == len(right)
    assert (server.pid, "circuit_opened" in server.output()) == (pid, True)
    await eventually(lambda: "circuit_closed" in server.output())
    return 3 * len(misses)


async def test_a_full_disk_costs_no_response_and_recovers(
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
        answers = await with_fault(server, right, fill_blocks, kind="no_space")
        await server.stop()
    record(Figure(14, "renditions: no room", answers, 0, "stored again without a restart"))


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("harm", "kind"),
    [(fill_inodes, "no_space"), (read_only, "read_only")],
)
async def test_a_fault_of_the_rendition_disk_costs_no_response(
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
        answers = await with_fault(server, right, harm, kind=kind)
        await server.stop()
    name = harm.__name__.replace("_", " ")
    record(Figure(14, f"renditions: {name}", answers, 0, "stored again without a restart"))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_rendition_directory_that_cannot_be_created_costs_no_response(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    server = await launch(_DISK_ONLY)
    right = await undisturbed(server, library)
    # Reads are not held off if they fail at once, and each is counted: that of the look-up and that
    # of the handler, before which the directory is listed if many miss at once.
    reads = 3 * 3 * len(right)
    answers = await with_fault(server, right, replace_by_file, kind="missing", at_most=12 + reads)
    record(Figure(14, "renditions: a file in place of the directory", answers, 0))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_directory_removed_while_serving_is_created_again(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    server = await launch(_DISK_ONLY)
    right = await undisturbed(server, library)
    root = server.data_dir / "renditions"
    answers = 0
    async with server.client() as client:
        for turn in range(20):
            asking = asyncio.create_task(fetch_all(client, right))
            # The directory disappears at a different moment in each round.
            await asyncio.sleep(0.01 * turn)
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
            assert bodies(await asking) == right
            answers += len(right)
        await until_stored(server, list(right))
        assert bodies(await fetch_all(client, right)) == right
    assert [path for path in stored(root) if not is_intact(path)] == []
    record(Figure(14, "renditions: rm -rf while serving, 20 times", answers, 0))


class Fiu:
    """Faults of system calls in a server started by fiu-run(1).

    Of its calls ``pread`` and ``pwrite`` apply to files only: uvloop uses others for sockets and
    pipes. Workers do not inherit the server's environment.
    """

    def __init__(self, place: Path) -> None:
        self._control = str(place / "fiu")
        self.prefix = ["fiu-run", "-x", "-f", self._control]

    def __call__(self, server: Server, point: str, code: int) -> AbstractContextManager[None]:
        return self._failing(server, point, code)

    @contextmanager
    def _failing(self, server: Server, point: str, code: int) -> Iterator[None]:
        """Let every third call on average fail for the length of the block."""
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
        ("rw/pread", errno.EIO, "io"),
    ],
)
async def test_system_calls_that_fail_randomly_cost_no_response(
    launch: Launch,
    library: Library,
    tmp_path: Path,
    record: Record,
    point: str,
    code: int,
    kind: str,
) -> None:
    if shutil.which("fiu-run") is None:
        unavailable("fiu-run is not installed")
    fiu = Fiu(tmp_path)
    server = await launch(_DISK_ONLY, prefix=fiu.prefix)
    right = await undisturbed(server, library)
    assert "fiu_posix_preload" in Path(f"/proc/{server.pid}/maps").read_text()
    counted = await failures_without_loss(server, right, lambda: fiu(server, point, code), kind)
    name = f"{errno.errorcode[code]} from {point.rpartition('/')[2]}, by libfiu"
    record(Figure(14, name, counted, 0, f"{5 * len(right)} answers"))


async def failures_without_loss(
    server: Server,
    right: Mapping[str, bytes],
    failing: Callable[[], AbstractContextManager[None]],
    kind: str,
) -> int:
    """Delete renditions and request them while system calls fail; return the failures counted."""
    root = server.data_dir / "renditions"
    async with server.client() as client:
        await fetch_all(client, right)
        for _ in range(5):
            for path in stored(root)[::2]:
                path.unlink()
            with failing():
                assert bodies(await fetch_all(client, right)) == right
        counted = await failures(server, kind)
        assert counted >= 1
        await until_all_stored(server, right)
    assert [path for path in stored(root) if not is_intact(path)] == []
    assert list((root / "tmp").iterdir()) == []
    return int(counted)


@contextmanager
def failing_links(server: Server) -> Iterator[None]:
    """Let every third linkat(2) of each thread fail: that call publishes a rendition."""
    inject = ["-e", "trace=linkat", "-e", "inject=linkat:error=EIO:when=1+3"]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.devnull, *inject, "-p", str(server.pid)]
    )
    status = Path(f"/proc/{server.pid}/status")
    wait_until(lambda: "TracerPid:\t0" not in status.read_text())
    yield
    tracer.terminate()
    tracer.wait()


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_files_that_cannot_be_published_cost_no_response(
    launch: Launch, library: Library, record: Record
) -> None:
    if shutil.which("strace") is None:
        unavailable("strace is not installed")
    server = await launch(_DISK_ONLY)
    right = await undisturbed(server, library)
    counted = await failures_without_loss(server, right, lambda: failing_links(server), "io")
    record(Figure(14, "EIO from linkat, by strace", counted, 0, f"{5 * len(right)} answers"))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_cached_images_are_served_without_originals(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    """Another size of a cached image is the fallback; an image without any rendition is a 503."""
    right = await reference(launch, library, tmp_path / "reference")
    server = await launch(_DISK_ONLY)
    originals = server.data_dir / "originals"
    cached = [
        target for target in right if "w=128" in target and f"/{library.ids['photo']}?" in target
    ]
    others = [target for target in right if f"/{library.ids['photo']}?" in target]
    unknown = [target for target in right if f"/{library.ids['photo']}?" not in target]
    async with server.client() as client:
        await fetch_all(client, cached)
        originals.rename(originals.with_suffix(".away"))
        for _ in range(3):
            assert {one: right[one] for one in cached} == bodies(await fetch_all(client, cached))
            near = bodies(await fetch_all(client, others))
            assert set(near.values()) <= {right[one] for one in cached}
            refused = await fetch_all(client, unknown)
            assert set(statuses(refused).values()) == {503}
            assert len(statuses(refused)) == len(unknown)
        gone = await server.metric("smartserve_source_errors_total", kind="unavailable")
        originals.with_suffix(".away").rename(originals)
        assert bodies(await fetch_all(client, right)) == right
        await until_all_stored(server, right)
        for path in originals.rglob("*.png"):
            path.unlink()
        for path in stored(server.data_dir / "renditions"):
            path.unlink()
        found = await fetch_all(client, right)
    assert set(statuses(found)) == set(unknown)
    assert set(statuses(found).values()) == {404}
    assert gone >= len(unknown)
    record(Figure(14, "originals gone: cached go on, others 503", int(gone), 0))


def facts(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection, connection:
        (count,) = connection.execute("SELECT count(*) FROM media_facts").fetchone()
    connection.close()
    return int(count)


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_full_disk_of_the_database_costs_no_response(
    launch: Launch, library: Library, tmp_path: Path, mounted: Mount, record: Record
) -> None:
    """Facts about images are cached in memory, and stored when there is space again."""
    right = await reference(launch, library, tmp_path / "reference")
    place = tmp_path / "database"
    with mounted(place, "size=1m"):
        database = place / "smartserve.db"
        shutil.copy(library.directory / "smartserve.db", database)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("DELETE FROM media_facts")
        connection.close()
        url = f"sqlite+aiosqlite:///{database}"
        server = await launch({**_DISK_ONLY, "database": {"url": url, "row_ttl_s": 0.2}})
        async with server.client() as client:
            assert (await fetch(client, "/readyz")).status == 200
            with fill_blocks(place):
                for _ in range(3):
                    assert bodies(await fetch_all(client, right)) == right
                assert facts(database) == 0
                refused = await server.metric("smartserve_database_errors_total")
                imported = await asyncio.to_thread(import_samples, server, url)
                assert imported.returncode == 1, imported.stderr
                assert "database" in imported.stderr
            await _request_until(client, right, lambda: facts(database) >= 3)
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
