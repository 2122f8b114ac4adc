"""Uploads become served pictures with no hand on them, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.faults.server import Sections, Server, variables
from tests.platform.ledger import (
    Ledger,
    MariaLedger,
    SqliteLedger,
    completed,
    doubled,
    failed,
    leftovers,
    profile_addresses,
    reasons,
    statuses,
)
from tests.platform.pictures import uploads
from tests.platform.processes import IngestProcess, killing, workers_of
from tests.platform.sending import SECRET, Uploaded, send_all
from tests.support.mariadb import MariaDB
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SIZES = ("thumbnail", "small", "grid", "detail", "header", "zoom")
_KEY = "the-media-api-key-of-the-tests"

COMMON: Sections = {
    "main": {
        "key": _KEY,
        "replace_interval_s": 2,
        "allow_loopback_url": True,
        "max_uploads_per_day": 0,
        "max_bytes_per_day": 0,
    },
    "users": {"jwt_secret": SECRET},
    # Whoever is killed is missed soon, and what failed by that is tried again soon.
    "ingest": {"poll_interval_s": 2, "lease_s": 5, "retry_backoff_s": 2, "max_retry_backoff_s": 10},
    # Below retry_backoff_s, as by default: who is taken up again is looked at again.
    "workers": {"count": 2, "quarantine_s": 1},
}


@asynccontextmanager
async def serving(data_dirs: Sequence[Path], sections: Sections) -> AsyncIterator[list[Server]]:
    """A server over each data directory."""
    async with AsyncExitStack() as stack:
        servers = [Server(data_dir, sections) for data_dir in data_dirs]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        yield servers


async def until_all_are_through(ledger: Ledger, within_s: float) -> None:
    """Return when every upload is complete or failed, and told so by the worker."""
    await eventually(
        lambda: not set(statuses(ledger)) - {"complete", "failed"},
        timeout_s=within_s,
        interval_s=0.5,
    )


async def check(
    ledger: Ledger, sent: Sequence[Uploaded], server: Server, folders: Sequence[Path]
) -> None:
    """All that has to be true in the end."""
    done, gone, told = completed(ledger), failed(ledger), reasons(ledger)
    lost = [one for one in sent if one.picture.servable and one.id not in done]
    assert [(one.picture.name, told.get(one.id)) for one in lost] == []
    assert {one.id for one in sent if not one.picture.servable} <= gone
    assert doubled(ledger) == []
    assert len(set(done.values())) == len(done)
    assert gone <= told.keys()
    assert all(told[image] not in ("", "NULL") for image in gone)
    assert leftovers([folder for folder in folders if folder.exists()]) == []
    await _all_sizes_are_served(server, sent, done)
    _the_profiles_name_the_media(ledger, sent, done)


async def _all_sizes_are_served(
    server: Server, sent: Sequence[Uploaded], done: Mapping[int, int]
) -> None:
    async with server.client(headers={"Accept": "image/webp,*/*;q=0.8"}) as client:
        for one in sent:
            if not one.picture.servable:
                continue
            for size in SIZES:
                async with client.get(f"/serve/{done[one.id]}", params={"size": size}) as answer:
                    body = await answer.read()
                    assert answer.status == 200, (one, size, body)
                Image.open(io.BytesIO(body)).load()


def _the_profiles_name_the_media(
    ledger: Ledger, sent: Sequence[Uploaded], done: Mapping[int, int]
) -> None:
    """Each user has one picture here; what could not be taken in is still named as it was."""
    addresses = profile_addresses(ledger)
    for one in sent:
        if one.picture.servable and one.picture.field not in ("product_image", "event_image"):
            end = f"/api/images/{done[one.id]}?size=detail"
            assert any(address.endswith(end) for address in addresses), one


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty one."""
    return tmp_path / "data"


def temporary_folders(data_dir: Path) -> list[Path]:
    """Where nothing is to be left."""
    return [data_dir / "temp_images"]


def unfinished(data_dir: Path) -> list[str]:
    """Parts of originals and downloads that nobody finished."""
    return [path for path in leftovers([data_dir / "originals"]) if ".part" in path]


@pytest.mark.parametrize(
    "count",
    [pytest.param(8, id="few"), pytest.param(200, id="many", marks=pytest.mark.drill)],
)
@pytest.mark.timeout(1500)
async def test_uploads_become_pictures_with_one_command_whoever_is_killed(
    data_dir: Path, count: int
) -> None:
    ledger = SqliteLedger(data_dir / "smartserve.db")
    async with serving([data_dir], COMMON) as (server,):
        async with killing(
            server.workers, every_s=(1.0, 4.0), seed=count, most=2 * count
        ) as killed:
            sent = await send_all([server.base], uploads(count))
            await until_all_are_through(ledger, 240 + 6 * count)
        assert killed
        await check(ledger, sent, server, temporary_folders(data_dir))
        assert unfinished(data_dir) == []


@pytest.mark.drill
@pytest.mark.timeout(1500)
async def test_uploads_become_pictures_when_the_server_itself_is_killed(data_dir: Path) -> None:
    ledger = SqliteLedger(data_dir / "smartserve.db")
    async with serving([data_dir], COMMON) as (server,):
        sending = asyncio.create_task(send_all([server.base], uploads(60, seed=2)))
        for wait_s in (3, 5, 7, 4, 9, 6):
            await asyncio.sleep(wait_s)
            await server.kill()
            await server.start()
        sent = await sending
        await until_all_are_through(ledger, 500)
        await check(ledger, sent, server, temporary_folders(data_dir))


@pytest.mark.parametrize(
    "count",
    [pytest.param(8, id="few"), pytest.param(200, id="many", marks=pytest.mark.drill)],
)
@pytest.mark.timeout(1500)
async def test_two_servers_and_two_workers_share_the_work_of_one_mariadb(
    data_dir: Path, count: int, mariadb: MariaDB
) -> None:
    database = mariadb.create_database()
    sections = {
        **COMMON,
        "database": {"url": mariadb.url(database)},
        "storage": {"root": data_dir / "originals"},
        "renditions": {"directory": data_dir / "renditions"},
        "main": {**COMMON["main"], "temp_root": data_dir / "temp_images"},
    }
    for folder in ("originals", "renditions", "temp_images"):
        (data_dir / folder).mkdir(parents=True)
    ledger = MariaLedger(mariadb, database)
    apart = {**sections, "ingest": {**COMMON["ingest"], "embedded": False}}
    async with serving([data_dir / "one", data_dir / "two"], apart) as servers:
        ingests = [
            IngestProcess(
                data_dir / name,
                {
                    **variables({**sections, "workers": {"count": 1, "quarantine_s": 1}}),
                    "INGEST__MAIN_API_URL": server.base,
                },
                log=data_dir / f"{name}.ingest.log",
            )
            for name, server in zip(("one", "two"), servers, strict=True)
        ]
        for ingest in ingests:
            ingest.start()
        try:
            await _work_while_all_are_killed(ledger, servers, ingests, count, data_dir)
        finally:
            for ingest in ingests:
                await ingest.stop()


async def _work_while_all_are_killed(
    ledger: Ledger,
    servers: Sequence[Server],
    ingests: Sequence[IngestProcess],
    count: int,
    data_dir: Path,
) -> None:
    def decoders() -> list[int]:
        return [pid for ingest in ingests for pid in workers_of(ingest.members())]

    async with killing(decoders, every_s=(1.0, 4.0), seed=count, most=count) as killed:
        sent = await send_all([server.base for server in servers], uploads(count, seed=3))
        whole = asyncio.create_task(_kill_whole_workers(ingests, count))
        try:
            await until_all_are_through(ledger, 240 + 6 * count)
        finally:
            whole.cancel()
            await asyncio.gather(whole, return_exceptions=True)
    assert killed
    await check(ledger, sent, servers[1], temporary_folders(data_dir))
    assert unfinished(data_dir) == []


async def _kill_whole_workers(ingests: Sequence[IngestProcess], times: int) -> None:
    """One after the other, each with all that it holds, and start them again."""
    for turn in range(times):
        await asyncio.sleep(8)
        ingest = ingests[turn % len(ingests)]
        ingest.kill()
        ingest.start()
