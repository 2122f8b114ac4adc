"""Row 18: a server and imports, killed at any moment: no wrong response, nothing left over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import xxhash
from PIL import Image

from proxy.storage.renditions.disk_state import RenditionPaths, shard_of
from proxy.storage.renditions.rendition_file import trailer_of
from tests.benchmarks.processes import family
from tests.benchmarks.servers import command, environment
from tests.faults.conftest import Launch
from tests.faults.responses import Answer, fetch
from tests.faults.server import Sections, Server, ended
from tests.faults.table import Figure, Record
from tests.support.server import CHROME, WEBP_ONLY, Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_KILLS = 30
_STAGED: Sections = {
    "log": {"access": False},
    "upgrades": {"enabled": True, "all_sizes": False, "budget_s": 0},
    "encoders": {"target": 0},
    "encoders__avif__final": {"effort": 1},
    "encoders__webp__final": {"effort": 3},
}
"""Drafts, and finals that take little time."""

_MANY = 100_000
_PER_MEDIUM = 20
_READY_S = 2.0
_SEGMENT = b"\xff\xfe\xff\xff" + bytes(65533)
"""A JPEG comment segment: many of them make a valid file long."""

Asked = tuple[str, str]
"""A target and an Accept header."""

Seen = Mapping[str, bytes]
"""Response bodies by ETag."""


def asked_for(library: Library) -> list[Asked]:
    return [
        (f"/serve/{library.ids[name]}?w={width}", accept)
        for name in ("photo", "logo", "badge")
        for width in (64, 128, 256)
        for accept in (CHROME, WEBP_ONLY, "*/*")
    ]


async def fetch_each(server: Server, asked: Sequence[Asked]) -> list[Answer]:
    async with server.client(force_close=True) as client:
        return [await fetch(client, target, Accept=accept) for target, accept in asked]


def by_etag(answers: Sequence[Answer]) -> dict[str, bytes]:
    assert {answer.status for answer in answers} == {200}
    return {(answer.headers or {})["ETag"]: answer.body for answer in answers}


async def until_finals(server: Server) -> None:
    async def reached() -> bool:
        return not (await server.metric("smartserve_upgrade_backlog"))

    await eventually(reached, timeout_s=240)


async def reference(launch: Launch, library: Library, place: Path) -> dict[str, bytes]:
    """Return the drafts and finals of an undisturbed server."""
    server = await launch(_STAGED, data_dir=library.copy(place))
    drafts = by_etag(await fetch_each(server, asked_for(library)))
    await until_finals(server)
    finals = by_etag(await fetch_each(server, asked_for(library)))
    await server.stop()
    assert len(finals.keys() - drafts.keys()) > len(asked_for(library)) / 2
    return drafts | finals


def wrong_responses(answers: Sequence[Answer], right: Seen) -> list[Answer]:
    """Return responses that differ from an undisturbed server's; missing ones do not count."""
    return [
        answer
        for answer in answers
        if answer.status and answer.body != right.get((answer.headers or {}).get("ETag", ""))
    ]


@contextmanager
def running(data_dir: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command over a data directory; kill it with its children at the end of the block."""
    with data_dir.with_suffix(".commands").open("ab") as log:
        process = subprocess.Popen(
            [*command(*arguments), "--data-dir", str(data_dir)],
            stdout=log,
            stderr=log,
            env=environment(WORKERS__COUNT="1"),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def import_all(data_dir: Path, folder: Path) -> None:
    """Import a folder completely; asserts that every file was accepted."""
    done = subprocess.run(
        [*command("import", folder), "--data-dir", str(data_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def draw(folder: Path, count: int) -> Path:
    """Create a folder of different images."""
    folder.mkdir()
    for number in range(count):
        Image.effect_noise((640, 480), 10 + number).save(folder / f"{number}.jpg", quality=95)
    return folder


def ids(data_dir: Path) -> list[int]:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        found = [int(one) for (one,) in database.execute("SELECT id FROM media_files ORDER BY id")]
    database.close()
    return found


def temporary(data_dir: Path) -> list[Path]:
    """Return the temporary files, in progress or left over."""
    return [*data_dir.glob("renditions/tmp/*"), *data_dir.glob("originals/**/.smartserve-*")]


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    # Often, because the kill that follows must come while the condition is true.
    await eventually(condition, timeout_s=within_s, interval_s=0.001)


async def kill_with_workers(server: Server) -> None:
    """Kill the server, maybe while it starts; its workers end by themselves, soon after."""
    members = family(server.pid)
    await server.kill()
    await until(lambda: all(map(ended, members)))


async def keep_requesting(
    server: Server, asked: Sequence[Asked], chance: random.Random
) -> list[Answer]:
    """Send requests for as long as the server lives."""
    answers: list[Answer] = []
    async with server.client() as client:
        while not answers or answers[-1].status:
            target, accept = chance.choice(asked)
            answers.append(await fetch(client, target, Accept=accept))
    return answers


async def kill_while_busy(
    server: Server, asked: Sequence[Asked], chance: random.Random, *beside: str | Path
) -> list[Answer]:
    """Keep a server busy with misses, hits and finals and a command beside it, and kill both."""
    asking = [asyncio.create_task(keep_requesting(server, asked, chance)) for _ in range(4)]
    with running(server.data_dir, *beside):
        await asyncio.sleep(chance.uniform(0.02, 1.5))
        await kill_with_workers(server)
    return [answer for answers in await asyncio.gather(*asking) for answer in answers]


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_a_killed_server_serves_the_same_bytes_after_its_restart(
    launch: Launch, library: Library, tmp_path: Path, record: Record
) -> None:
    """Misses and finals, and a purge or an import; every third round begins with an empty cache."""
    right = await reference(launch, library, tmp_path / "reference")
    asked, chance = asked_for(library), random.Random(18)
    pictures = draw(tmp_path / "pictures", 40)
    server = await launch(_STAGED)
    answers: list[Answer] = []
    starting = 0
    for turn in range(_KILLS):
        if turn % 3 == 0:
            for path in server.data_dir.glob("renditions/??/*/*"):
                path.unlink()
        purged = str(library.ids["photo"])
        beside = ("import", pictures) if turn % 2 else ("purge", purged)
        answers += await kill_while_busy(server, asked, chance, *beside)
        if turn % 5 == 4:
            start = asyncio.create_task(server.start(fails=True))
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            await kill_with_workers(server)
            await start
            starting += 1
        await server.start()
        answers += await fetch_each(server, chance.sample(asked, 5))
    answers += await fetch_each(server, asked)
    assert wrong_responses(answers, right) == []
    assert len(answers) > 7 * _KILLS

    import_all(server.data_dir, pictures)
    served = ids(server.data_dir)
    assert len(served) == len(library.ids) + 40
    kept = await fetch_each(server, [(f"/serve/{one}?w=64", "*/*") for one in served])
    assert {answer.status for answer in kept} == {200}
    await until_finals(server)
    await until(lambda: temporary(server.data_dir) == [])
    measured = f"{len(answers)} answers, start {statistics.median(server.starts_s):.2f} s"
    record(Figure(18, "kill -9 of server and import at work", _KILLS + starting, 0, measured))


async def test_a_partial_copy_of_a_killed_import_is_deleted_and_imported_again(
    launch: Launch, data_dir: Path, tmp_path: Path
) -> None:
    picture = draw(tmp_path / "pictures", 1) / "0.jpg"
    jpeg = picture.read_bytes()
    picture.write_bytes(jpeg[:2] + 400 * _SEGMENT + jpeg[2:])
    before = len(ids(data_dir))

    def copies() -> list[Path]:
        return [*data_dir.glob("originals/**/.smartserve-*")]

    with running(data_dir, "import", picture) as process:
        await until(lambda: copies() != [] or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # The row is inserted after the copy: a kill may leave the copy, but never a row without it.
    assert len(ids(data_dir)) - before <= (not copies())

    server = await launch()
    await until(lambda: temporary(data_dir) == [])
    import_all(data_dir, picture)
    (answer,) = await fetch_each(server, [(f"/serve/{ids(data_dir)[-1]}?w=64", "*/*")])
    assert answer.status == 200


async def test_tempfiles_of_a_killed_server_are_deleted_and_its_workers_end(
    launch: Launch, library: Library
) -> None:
    server = await launch()
    for size in ("zoom", "w=2048", "w=1080"):
        query = size if "=" in size else f"size={size}"
        target = (f"/serve/{library.ids['large']}?{query}", "*/*")
        asking = asyncio.create_task(fetch_each(server, [target]))
        await until(lambda: temporary(server.data_dir) != [] or asking.done())  # noqa: B023
        await kill_with_workers(server)
        (answer,) = await asking
        # Whole, or cut off by the kill.
        assert answer.status in (200, 0)
        await server.start()
        await until(lambda: temporary(server.data_dir) == [])
        (answer,) = await fetch_each(server, [target])
        assert answer.status == 200


async def test_a_hanging_worker_ends_with_its_killed_server(launch: Launch) -> None:
    server = await launch()
    await server.until_workers_ready(2)
    for worker in server.workers():
        os.kill(worker, signal.SIGSTOP)
    await kill_with_workers(server)


def fill(root: Path, count: int, *, byte_size: int = 100) -> None:
    """Create files as the store does, complete and with correct trailers."""
    layout = RenditionPaths(str(root))
    body = bytes(byte_size)
    checksum = xxhash.xxh3_128_digest(body)
    for start in range(0, count, _PER_MEDIUM):
        media_id = 1_000_000 + start
        medium = f"{layout.shard(shard_of(media_id))}/{media_id}"
        os.makedirs(medium)  # noqa: PTH103 - creating Path objects would take as long as the rest
        for number in range(start, start + _PER_MEDIUM):
            digest = number.to_bytes(16)
            name = f"{medium}/{digest.hex()}.avif"
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, body + trailer_of(len(body), checksum, digest))
            os.close(descriptor)


@pytest.mark.drill
@pytest.mark.alone
@pytest.mark.timeout(600)
async def test_a_killed_server_serves_again_within_two_seconds_with_100_000_files(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch({"renditions": {"memory_max_bytes": 0}})
    await asyncio.to_thread(fill, server.data_dir / "renditions", _MANY)
    target = (f"/serve/{library.ids['photo']}?w=256", "*/*")
    (before,) = await fetch_each(server, [target])
    taken_s = []
    for _ in range(5):
        await kill_with_workers(server)
        began = time.monotonic()
        await server.start()
        (after,) = await fetch_each(server, [target])
        taken_s.append(time.monotonic() - began)
        assert (after.status, after.body) == (200, before.body)
        await until_counted(server, _MANY)
    assert statistics.median(taken_s) <= _READY_S, taken_s
    measured = f"first answer after {statistics.median(taken_s):.2f} s"
    record(Figure(18, f"kill -9 with {_MANY:,} files in the cache", 5, 0, measured))


async def until_counted(server: Server, count: int) -> None:
    """Return when the scan has counted all files, which proves that the store accepts them."""

    async def reached() -> bool:
        return await server.metric("smartserve_cache_items", tier="disk") >= count

    await eventually(reached, timeout_s=60)
