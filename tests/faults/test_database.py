"""Row 17: the effect of a failing database on a server, and how fast it recovers."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.faults.conftest import Launch
from tests.faults.outage import OTHER_WIDTH, WIDTH, Answer, Site, moved_in
from tests.faults.table import Figure, Record
from tests.faults.tcpproxy import TcpProxy
from tests.support.mariadb import MariaDB
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

Fault = Callable[[Site], AbstractAsyncContextManager[None]]
Open = Callable[..., Awaitable[Site]]

_RECOVERED_S = 5.0
"""Maximum seconds until a pool is usable again."""
_ROW_TTL_S = 1
_BREAKER_S = 1.1
"""Longer than the circuit breaker stays open."""
_POOL_SIZE = 4
_FOR_UPLOADS = 7
"""Four connections of the main API, three of the worker."""
_AT_ONCE = 8
"""More than the pool has connections."""
_HURRIED: Mapping[str, Any] = {"query_timeout_s": 0.8, "connect_timeout_s": 0.5, "breaker_s": 0.3}


@pytest.fixture
async def open_site(
    launch: Launch, library: Library, mariadb: MariaDB, data_dir: Path
) -> AsyncIterator[Open]:
    """Open sites; the database is repaired at the end."""
    async with AsyncExitStack() as stack:
        name = await moved_in(mariadb, data_dir, library.ids)
        proxy = await stack.enter_async_context(TcpProxy(mariadb.port))
        url = f"mysql+aiomysql://proxy@127.0.0.1:{proxy.port}/{name}"

        async def start(**settings: Any) -> Site:
            section = {"url": url, "row_ttl_s": _ROW_TTL_S, "pool_size": _POOL_SIZE, **settings}
            server = await launch({"database": section})
            return Site(server, mariadb, proxy, name)

        yield start
    await asyncio.to_thread(mariadb.resume)
    if not mariadb.running:
        await asyncio.to_thread(mariadb.start)


@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[None]:
    await asyncio.to_thread(site.mariadb.kill)
    yield
    await asyncio.to_thread(site.mariadb.start)


@asynccontextmanager
async def stopped(site: Site) -> AsyncIterator[None]:
    await asyncio.to_thread(site.mariadb.pause)
    yield
    site.mariadb.resume()


@asynccontextmanager
async def silent(site: Site) -> AsyncIterator[None]:
    site.proxy.go_silent()
    yield
    await site.proxy.heal()


@asynccontextmanager
async def refused(site: Site) -> AsyncIterator[None]:
    site.proxy.refuse()
    yield
    await site.proxy.heal()


@asynccontextmanager
async def delayed(site: Site) -> AsyncIterator[None]:
    site.proxy.delay_s = 30
    yield
    await site.proxy.heal()


@asynccontextmanager
async def locked(site: Site) -> AsyncIterator[None]:
    async with site.hold_connections(1, user="root") as (other,), other.cursor() as cursor:
        await cursor.execute("LOCK TABLES media_files WRITE, media_facts WRITE")
        yield
        await cursor.execute("UNLOCK TABLES")


@asynccontextmanager
async def used_up(site: Site) -> AsyncIterator[None]:
    """Other clients hold all connections that the database allows."""
    await site.sql("SET GLOBAL max_connections = 10")
    await hang_up(site)
    async with site.hold_connections(10, user="proxy"):
        yield
    await site.sql("SET GLOBAL max_connections = 60")


async def hang_up(site: Site) -> None:
    """Close all idle connections, as the database itself does after wait_timeout."""
    await site.sql("".join(f"KILL {session};" for session in await site.sessions()))


@asynccontextmanager
async def cut(site: Site) -> AsyncIterator[None]:
    site.proxy.cut()
    yield


@asynccontextmanager
async def reset(site: Site) -> AsyncIterator[None]:
    site.proxy.reset()
    yield


@asynccontextmanager
async def hung_up(site: Site) -> AsyncIterator[None]:
    await hang_up(site)
    yield


@asynccontextmanager
async def forgotten(site: Site) -> AsyncIterator[None]:
    """Open connections are silently dead, new ones work: a firewall has lost its state."""
    site.proxy.go_silent()
    await site.proxy.heal()
    yield


@asynccontextmanager
async def restarted(site: Site) -> AsyncIterator[None]:
    await asyncio.to_thread(site.mariadb.stop)
    await asyncio.to_thread(site.mariadb.start)
    yield


@asynccontextmanager
async def slow(site: Site) -> AsyncIterator[None]:
    site.proxy.delay_s, site.proxy.bytes_per_s = 0.02, 20_000
    yield
    await site.proxy.heal()


@asynccontextmanager
async def rows_locked(site: Site) -> AsyncIterator[None]:
    async with site.hold_connections(1, user="root") as (other,), other.cursor() as cursor:
        await cursor.execute("BEGIN")
        await cursor.execute("SELECT * FROM media_files FOR UPDATE")
        await cursor.execute("SELECT * FROM media_facts FOR UPDATE")
        yield


OUTAGES: tuple[Fault, ...] = (killed, stopped, silent, refused, delayed, locked, used_up)
HARMLESS: tuple[Fault, ...] = (cut, reset, hung_up, forgotten, restarted, slow, rows_locked)


def _refused(answer: Answer) -> bool:
    return answer.status == 503 and int(answer.headers["Retry-After"]) > 0


async def _served(site: Site, client: ClientSession, body: bytes, count: int) -> int:
    """Request unknown images concurrently; return the number of wrong responses."""
    answers = await asyncio.gather(*(site.fetch(client, site.fresh()) for _ in range(count)))
    return sum((answer.status, answer.body) != (200, body) for answer in answers)


async def _without_database(site: Site, client: ClientSession, known: int) -> int:
    """Request cached images, also with expired rows; return the number of wrong responses."""
    wrong = 0
    ready = asyncio.create_task(client.get("/readyz"))
    for width in (WIDTH, OTHER_WIDTH):
        unknown = [site.fetch(client, site.fresh()) for _ in range(_AT_ONCE)]
        first, *others = await asyncio.gather(site.fetch(client, known, width), *unknown)
        wrong += (first.status, first.body) != (200, site.bodies[width])
        wrong += sum(not _refused(answer) for answer in others)
        # Until the row in the server's cache has expired.
        await asyncio.sleep(_ROW_TTL_S)
    assert (await ready).status == 503
    assert (await client.get("/healthz")).status == 200
    return wrong


async def _recovered(site: Site, client: ClientSession) -> tuple[int, float]:
    """Return the seconds until an unknown image is served, and the wrong responses until then."""
    began = time.monotonic()
    wrong = 0

    async def served() -> bool:
        nonlocal wrong
        answer = await site.fetch(client, site.fresh())
        if answer.status == 200:
            wrong += answer.body != site.bodies[WIDTH]
            return True
        wrong += not _refused(answer)
        return False

    await eventually(served, timeout_s=_RECOVERED_S, interval_s=0.05)
    return wrong, time.monotonic() - began


async def _endure(site: Site, client: ClientSession, known: int, fault: Fault) -> tuple[int, float]:
    """Return the wrong responses during an outage, and the seconds from its end until recovery."""
    async with fault(site):
        wrong = await _without_database(site, client, known)
        # The worst moment for recovery: a query was sent just now, and is lost.
        await asyncio.sleep(_BREAKER_S)
        lost = asyncio.create_task(site.fetch(client, site.fresh()))
        await asyncio.sleep(0.05)
    late, recovered_s = await _recovered(site, client)
    last = await lost
    wrong += not _refused(last) and last.body != site.bodies[WIDTH]
    return wrong + late, recovered_s


@pytest.mark.drill
@pytest.mark.timeout(180)
async def test_the_server_recovers_from_every_outage(
    open_site: Open, library: Library, record: Record
) -> None:
    """About 50 s. Limits are below the defaults, which would allow a recovery to take 4 s."""
    site = await open_site(query_timeout_s=3, connect_timeout_s=2)
    known = library.ids["photo"]
    async with site.server.client() as client:
        await site.read_photo(client, known)
        for fault in OUTAGES:
            name, before = fault.__name__, site.answers
            await _served(site, client, site.bodies[WIDTH], _AT_ONCE)
            wrong, recovered_s = await _endure(site, client, known, fault)
            assert wrong == 0, name
            await site.until_sessions(_POOL_SIZE + _FOR_UPLOADS)
            measured = f"recovered in {recovered_s:.1f} s"
            record(Figure(17, f"the database {name}", site.answers - before, wrong, measured))


@pytest.mark.drill
async def test_dead_connections_cost_no_response_while_the_database_is_up(
    open_site: Open, library: Library, record: Record
) -> None:
    """No response shows it: connections are tested before use."""
    site = await open_site()
    async with site.server.client() as client:
        await site.read_photo(client, library.ids["photo"])
        for fault in HARMLESS:
            await _served(site, client, site.bodies[WIDTH], _AT_ONCE)
            async with fault(site):
                wrong = await _served(site, client, site.bodies[WIDTH], _AT_ONCE)
            assert wrong == 0, fault.__name__
        await site.until_sessions(_POOL_SIZE + _FOR_UPLOADS)
    names = ", ".join(fault.__name__ for fault in HARMLESS)
    record(Figure(17, f"connections {names}"[:70], site.answers, 0))


async def test_a_server_started_without_its_database_creates_the_tables_later(
    open_site: Open, mariadb: MariaDB, library: Library, record: Record
) -> None:
    await asyncio.to_thread(mariadb.stop)
    site = await open_site(**_HURRIED)
    async with site.server.client() as client:
        assert (await client.get("/readyz")).status == 503
        assert _refused(await site.fetch(client, library.ids["photo"]))
        await asyncio.to_thread(mariadb.start)
        # Back, and as another program has left it: without the table that is our own.
        await site.sql("DROP TABLE media_facts; DROP TABLE smartserve_version")
        recovered_s = await site.server.until_ready(within_s=_RECOVERED_S)
        assert (await site.fetch(client, library.ids["photo"])).status == 200
    record(Figure(17, "started without the database", 1, 0, f"ready {recovered_s:.1f} s after it"))


@pytest.mark.drill
async def test_an_account_with_read_access_is_enough(
    open_site: Open, library: Library, record: Record
) -> None:
    """Facts that cannot be stored in the database are computed and cached in memory."""
    site = await open_site()
    await site.sql(f"REVOKE ALL ON {site.database}.* FROM proxy; DELETE FROM media_facts")
    await site.sql(f"GRANT SELECT ON {site.database}.* TO proxy")
    await hang_up(site)
    async with site.server.client() as client:
        first = await site.fetch(client, library.ids["photo"])
        wrong = await _served(site, client, first.body, _AT_ONCE)
    assert (first.status, wrong) == (200, 0)
    assert (await site.sql("SELECT COUNT(*) FROM media_facts")).strip() == "0"
    record(Figure(17, "an account that may only read", site.answers, wrong))


@pytest.mark.drill
async def test_readers_and_writers_together_stay_within_the_pool(
    open_site: Open, library: Library
) -> None:
    site = await open_site()
    await site.sql("DELETE FROM media_facts")
    most = 0
    async with site.server.client() as client:
        asked = asyncio.gather(*(site.fetch(client, site.fresh()) for _ in range(40)))
        while not asked.done():
            most = max(most, len(await site.sessions()))
        assert {answer.status for answer in await asked} == {200}
    assert 2 <= most <= _POOL_SIZE + _FOR_UPLOADS


_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


async def test_an_sqlite_file_locked_by_another_process_is_served(
    launch: Launch, data_dir: Path, library: Library, record: Record
) -> None:
    """Nothing can be written meanwhile: facts about an image are cached in memory."""
    file = data_dir / "smartserve.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("DELETE FROM media_facts")
        database.commit()
    server = await launch({"database": {**_HURRIED, "row_ttl_s": 0}})
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HOLDER, str(file)), stdin=PIPE, stdout=PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    async with server.client() as client:
        for media_id in list(library.ids.values()) * 2:
            async with client.get(f"/serve/{media_id}?w=64") as answer:
                assert answer.status == 200
    assert holder.stdin is not None
    holder.stdin.close()
    await holder.wait()
    record(Figure(17, "an SQLite file locked by another process", 2 * len(library.ids), 0))
