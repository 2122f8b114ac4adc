"""Ingest workers as processes: several on one queue, killed at random, stopped in order."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from PIL import Image

from proxy.storage.originals.sweep import sweep
from tests.ingest.fake_main_api import KEY, FakeMainApi
from tests.support.mariadb import MariaDB
from tests.support.server import SAMPLES
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SMARTSERVE = (sys.executable, "-m", "proxy.cli")
QUICK = {
    "LEASE_S": "2",
    "STEP_BACKOFF_S": "0.05",
    "MAX_STEP_BACKOFF_S": "0.2",
    "RETRY_BACKOFF_S": "0.5",
    "MAX_RETRY_BACKOFF_S": "1",
    "POLL_INTERVAL_S": "0.5",
}
Process = asyncio.subprocess.Process


def image_of(number: int) -> bytes:
    """Return a small photograph with unique content."""
    out = io.BytesIO()
    with Image.open(SAMPLES / "kodak-23.jpg") as photo:
        photo.resize((320 + number, 240)).save(out, "jpeg", quality=85)
    return out.getvalue()


@pytest.fixture
def environment(fake: FakeMainApi, tmp_path: Path) -> dict[str, str]:
    own = {f"SMARTSERVE_INGEST__{name}": value for name, value in QUICK.items()}
    return {
        **os.environ,
        **own,
        "SMARTSERVE_WORKERS__COUNT": "1",
        "SMARTSERVE_UPGRADES__ENABLED": "false",
        # An upload took longer than the default of 20 s on a machine under load.
        "SMARTSERVE_SERVER__DRAIN_S": "120",
        "SMARTSERVE_MAIN__ALLOW_LOOPBACK_URL": "true",
        "SMARTSERVE_DATA_DIR": str(tmp_path / "data"),
        "MAIN_API_URL": fake.base,
        "MAIN_API_KEY": KEY,
    }


async def start(environment: Mapping[str, str], *arguments: str) -> Process:
    command = (*SMARTSERVE, *arguments)
    return await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_once_ends_when_nothing_is_due_and_its_exit_code_tells_failures(
    fake: FakeMainApi, environment: dict[str, str]
) -> None:
    image = fake.add(image_of(1))
    assert await (await start(environment, "ingest", "--once")).wait() == 0
    assert image.status == "processed"
    fake.add(b"no picture")
    assert await (await start(environment, "ingest", "--once")).wait() == 1


async def test_sigterm_ends_a_worker_after_its_current_upload(
    fake: FakeMainApi, environment: dict[str, str]
) -> None:
    worker = await start(environment, "ingest")
    await eventually(lambda: fake.asked["pending"], timeout_s=60)
    image = fake.add(image_of(1))
    await eventually(lambda: fake.asked["file"])
    worker.terminate()
    assert await worker.wait() == 0
    assert image.status == "processed"


async def test_status_reports_the_queue(fake: FakeMainApi, environment: dict[str, str]) -> None:
    fake.add(image_of(1))
    fake.add(b"no picture")
    await (await start(environment, "ingest", "--once")).wait()
    fake.add(image_of(2))
    told, _ = await (await start(environment, "status", "--json")).communicate()
    report = json.loads(told)
    assert report["states"] == {
        "queued": 0,
        "done": 1,
        "incomplete": 0,
        "failed": 1,
        "kept": 0,
    }
    assert report["main_api"] == {"pending": 2}
    assert report["failures"][0]["main_api_id"] == 2
    assert report["steps"]["retrieve_file"] == {"pending": 0, "completed": 1, "failed": 1}
    table, _ = await (await start(environment, "status")).communicate()
    assert "retrieve_file" in table.decode()
    fake.status["pending"] = 500
    told, _ = await (await start(environment, "status", "--json")).communicate()
    assert "500" in json.loads(told)["main_api"]["pending"]


async def test_a_server_has_an_embedded_worker(
    fake: FakeMainApi, environment: dict[str, str]
) -> None:
    image = fake.add(image_of(1))
    server = await start(environment, "serve", "--port", "0")
    try:
        await eventually(lambda: image.status == "processed", timeout_s=60)
        assert image.completions[0]["permanent_url"].endswith(f"/serve/{image.media_id}")
    finally:
        server.terminate()
        assert await server.wait() == 0


def uploads(fake: FakeMainApi, count: int) -> None:
    """Add uploads; each tenth is not an image."""
    for number in range(count):
        fake.add(image_of(number) if number % 10 else b"no picture")


async def settled(environment: Mapping[str, str], fake: FakeMainApi) -> None:
    """Let one worker, which is not killed, finish everything."""
    worker = await start(environment, "ingest")
    await eventually(lambda: not fake.count("pending"), timeout_s=120)
    worker.terminate()
    await worker.wait()


def check(fake: FakeMainApi, data: Path, rows: list[tuple[int, str, str]]) -> None:
    """Require that nothing is lost, duplicated or incomplete, and that every file is known."""
    assert Counter(one.status for one in fake.images.values()) == {
        "processed": len(fake.images) * 9 // 10,
        "failed": len(fake.images) // 10,
    }
    media = [one.media_id for one in fake.images.values() if one.media_id]
    assert len(set(media)) == len(media)
    assert all(len({c["media_id"] for c in one.completions}) <= 1 for one in fake.images.values())
    assert Counter(row[0] for row in rows) == Counter(range(1, len(fake.images) + 1))
    originals = data / "originals"
    sweep(str(originals), Event())
    found = {str(path.relative_to(originals)) for path in originals.rglob("*") if path.is_file()}
    assert found == {path for _, *paths in rows for path in paths if path}


_ROWS = "SELECT main_api_id, coalesce(bulk_path, ''), coalesce(library_path, '') FROM media_files"


@pytest.mark.drill
async def test_a_worker_that_is_killed_at_random_loses_nothing(
    fake: FakeMainApi, environment: dict[str, str], tmp_path: Path
) -> None:
    uploads(fake, 30)
    chance, kills, began = random.Random(5), 0, time.monotonic()
    while fake.count("pending") and kills < 15 and time.monotonic() < began + 60:
        worker = await start(environment, "ingest")
        await asyncio.sleep(chance.uniform(1.2, 3.0))
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
        kills += 1
    await settled(environment, fake)
    assert kills > 2
    with closing(sqlite3.connect(tmp_path / "data" / "smartserve.db")) as connection:
        rows = connection.execute(_ROWS).fetchall()
    check(fake, tmp_path / "data", rows)


@pytest.mark.drill
async def test_two_workers_on_mariadb_one_of_which_is_killed_lose_nothing(
    fake: FakeMainApi, environment: dict[str, str], tmp_path: Path, mariadb: MariaDB
) -> None:
    name = mariadb.create_database()
    environment["SMARTSERVE_DATABASE__URL"] = mariadb.url(name)
    uploads(fake, 30)

    async def killed() -> None:
        chance = random.Random(6)
        for _ in range(4):
            worker = await start(environment, "ingest")
            await asyncio.sleep(chance.uniform(1.5, 3.0))
            worker.send_signal(signal.SIGKILL)
            await worker.wait()

    async def steady() -> None:
        await settled(environment, fake)

    await _both(killed, steady)
    rows = [line.split("\t") for line in mariadb.execute(_ROWS, database=name).splitlines()]
    check(fake, tmp_path / "data", [(int(one), bulk, library) for one, bulk, library in rows])


async def _both(*works: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(work() for work in works))


async def test_two_workers_on_mariadb_share_the_work(
    fake: FakeMainApi, environment: dict[str, str], tmp_path: Path, mariadb: MariaDB
) -> None:
    name = mariadb.create_database()
    environment["SMARTSERVE_DATABASE__URL"] = mariadb.url(name)
    uploads(fake, 20)
    workers = [await start(environment, "ingest") for _ in range(2)]
    await eventually(lambda: not fake.count("pending"), timeout_s=120)
    for worker in workers:
        worker.terminate()
        assert await worker.wait() == 0
    rows = [line.split("\t") for line in mariadb.execute(_ROWS, database=name).splitlines()]
    check(fake, tmp_path / "data", [(int(one), bulk, library) for one, bulk, library in rows])
    assert all(len(one.completions) <= 1 for one in fake.images.values())
    # One bad download is no proof that the file is bad: both are downloaded three times more.
    assert fake.asked["file"] == 20 + 2 * 3
    told = "SELECT DISTINCT worker_id FROM processing_checklist"
    assert len(mariadb.execute(told, database=name).split()) == 2
