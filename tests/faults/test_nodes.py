"""Two servers with separate directories and one database: purges and changes reach both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import connect
from statistics import median
from typing import Any

import aiohttp
import aiomysql
import pytest

from tests.faults.conftest import Launch
from tests.faults.outage import moved_in
from tests.faults.server import Server
from tests.support.commands import KEY
from tests.support.mariadb import MariaDB
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_BEARER = {"Authorization": f"Bearer {KEY}"}
_REACHED_S = 2.0
_LONG_S = 10.0
"""Far below `row_ttl_s`, and enough for a machine that is busy."""
_SIZES = ("grid", "small")


@dataclass(frozen=True)
class Nodes:
    """Two servers, and the database that they share."""

    here: Server
    there: Server
    photo: int
    sql: Callable[[str], Awaitable[str]]
    fail: Callable[[], Awaitable[None]]
    """Make the database fail until `repair`."""
    repair: Callable[[], Awaitable[None]]

    async def cached(self, server: Server) -> None:
        """Store the photo in two sizes in a server's memory and on its disk."""

        async def stored() -> bool:
            return [await self.origin(server, size) for size in _SIZES] == ["memory"] * 2

        await eventually(stored)

    async def origin(self, server: Server, size: str = "grid") -> str:
        """Return where a size of the photo came from."""
        async with server.client() as client:
            return (await _get(client, self.photo, size))[0]

    async def purge(self, server: Server, query: str = "") -> dict[str, Any]:
        """Purge the photo at a server."""
        path = f"/api/media/{self.photo}/renditions{query}"
        async with server.client(headers=_BEARER) as client, client.delete(path) as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
            return found

    async def counted(self, server: Server, purges: int) -> None:
        """Return when a server has counted the purges of others, each after it was applied."""

        async def reached() -> bool:
            return await server.metric("smartserve_purges_applied_total") == purges

        await eventually(reached)

    async def purged(self, server: Server, *, within_s: float = _LONG_S) -> float:
        """Return the seconds until the photo is rendered again at a server."""
        began = time.monotonic()

        async def rendered() -> bool:
            return await self.origin(server) == "render"

        await eventually(rendered, timeout_s=within_s)
        return time.monotonic() - began


async def _get(client: aiohttp.ClientSession, media_id: int, size: str) -> tuple[str, bytes]:
    async with client.get(f"/serve/{media_id}?size={size}&format=jpeg") as answer:
        assert answer.status == 200
        body = await answer.read()
        return answer.headers["Cache-Status"].rpartition("detail=")[2], body


@pytest.fixture(params=["mariadb", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def nodes(
    kind: str, request: pytest.FixtureRequest, launch: Launch, library: Library, tmp_path: Path
) -> AsyncIterator[Nodes]:
    """Start the servers over copies of the library."""
    folders = [library.copy(tmp_path / name) for name in ("here", "there")]
    mariadb: MariaDB | None = None
    if kind == "mariadb":
        mariadb = server = request.getfixturevalue("mariadb")
        name = await moved_in(server, folders[0], library.ids)
        url = f"mysql+aiomysql://proxy@127.0.0.1:{server.port}/{name}"

        async def sql(statements: str) -> str:
            return await asyncio.to_thread(server.execute, statements, database=name)

        async def fail() -> None:
            await asyncio.to_thread(server.kill)

        async def repair() -> None:
            await asyncio.to_thread(server.start)
    else:
        file = folders[0] / "smartserve.db"
        url = f"sqlite+aiosqlite:///{file}"

        async def sql(statements: str) -> str:
            with closing(connect(file, timeout=20)) as database, database:
                return "\n".join(str(one) for row in database.execute(statements) for one in row)

        async def fail() -> None:
            pytest.skip("an SQLite file is on the server's own machine")

        repair = fail

    sections = {"admin": {"key": KEY}, "database": {"url": url}}
    here, there = [await launch(sections, data_dir=folder) for folder in folders]
    yield Nodes(here, there, library.ids["photo"], sql, fail, repair)
    if mariadb is not None and not mariadb.running:
        await asyncio.to_thread(mariadb.start)


async def test_a_purge_reaches_memory_and_disk_of_the_other_server_within_two_seconds(
    nodes: Nodes,
) -> None:
    took = []
    for _ in range(5):
        await nodes.cached(nodes.there)
        assert (await nodes.purge(nodes.here))["recorded"]
        took.append(await nodes.purged(nodes.there))
    assert median(took) <= _REACHED_S
    await nodes.counted(nodes.there, 5)
    assert await nodes.here.metric("smartserve_purges_applied_total") == 0


async def test_a_purge_of_one_size_leaves_the_others_on_both_servers(nodes: Nodes) -> None:
    await nodes.cached(nodes.there)
    await nodes.purge(nodes.here, "?size=grid")
    await nodes.purged(nodes.there)
    assert await nodes.origin(nodes.there, "small") == "memory"


async def test_a_server_that_was_away_has_applied_what_it_missed_before_it_listens(
    nodes: Nodes,
) -> None:
    await nodes.cached(nodes.there)
    await nodes.there.kill()
    await nodes.purge(nodes.here)
    await nodes.there.start()
    assert await nodes.origin(nodes.there) == "render"


async def test_a_server_that_was_away_longer_than_purges_are_kept_deletes_its_renditions(
    nodes: Nodes,
) -> None:
    await nodes.cached(nodes.there)
    await nodes.there.stop()
    position = nodes.there.data_dir / "renditions" / "purged-until"
    position.write_text(str(time.time() - 31 * 86_400))
    await nodes.there.start()
    assert await nodes.origin(nodes.there) == "render"
    await eventually(lambda: "renditions_cleared" in nodes.there.output())


async def test_a_changed_row_takes_effect_on_both_servers_within_two_seconds(
    nodes: Nodes, library: Library
) -> None:
    paths = {
        one: await nodes.sql(f"SELECT bulk_path FROM media_files WHERE id = {library.ids[one]}")
        for one in ("photo", "large")
    }
    took = []
    async with nodes.here.client() as here, nodes.there.client() as there:
        for turn in range(4):
            path = paths["large" if turn % 2 == 0 else "photo"].strip()
            before = [await _get(client, nodes.photo, "grid") for client in (here, there)]
            await nodes.sql(f"UPDATE media_files SET bulk_path = '{path}' WHERE id = {nodes.photo}")
            began = time.monotonic()

            async def changed(old: list[tuple[str, bytes]] = before) -> bool:
                new = [await _get(client, nodes.photo, "grid") for client in (here, there)]
                return all(one[1] != two[1] for one, two in zip(old, new, strict=True))

            await eventually(changed, timeout_s=_LONG_S)
            took.append(time.monotonic() - began)
    assert median(took) <= _REACHED_S


async def test_a_purge_that_commits_after_later_ones_is_not_lost(
    nodes: Nodes, kind: str, mariadb: MariaDB
) -> None:
    if kind == "sqlite":
        pytest.skip("SQLite commits in order")
    name = (await nodes.sql("SELECT DATABASE()")).strip()
    late = await aiomysql.connect(host="127.0.0.1", port=mariadb.port, user="root", db=name)
    async with late.cursor() as cursor:
        await cursor.execute(
            "INSERT INTO purges (media_id, purged_at, server)"
            f" VALUES ({nodes.photo}, UNIX_TIMESTAMP(NOW(6)) + 0E0, 'late')"
        )
        # A purge with a higher id is visible first.
        await nodes.cached(nodes.there)
        await nodes.purge(nodes.here)
        await nodes.purged(nodes.there)
        await nodes.cached(nodes.there)
        await late.commit()
    late.close()
    await nodes.purged(nodes.there)


@pytest.mark.drill
async def test_a_purge_without_the_database_is_done_here_and_reaches_the_other_server_later(
    nodes: Nodes,
) -> None:
    for server in (nodes.here, nodes.there):
        await nodes.cached(server)
    await nodes.fail()
    told = await nodes.purge(nodes.here)
    assert told == {"dropped": 2, "recorded": False}
    assert await nodes.origin(nodes.here) == "render", "rows are cached, so images are served"
    assert await nodes.here.metric("smartserve_purges_unrecorded") == 1
    await nodes.here.kill()
    await nodes.here.start()
    assert await nodes.here.metric("smartserve_purges_unrecorded") == 1
    assert await nodes.origin(nodes.there) == "memory"
    await nodes.repair()
    await nodes.purged(nodes.there)

    async def recorded() -> bool:
        return await nodes.here.metric("smartserve_purges_unrecorded") == 0

    await eventually(recorded)
    await nodes.here.until_ready()


async def test_with_a_read_only_database_this_server_is_purged_and_says_so(
    nodes: Nodes, kind: str
) -> None:
    if kind == "sqlite":
        pytest.skip("a file would be read-only for the test as well")
    for server in (nodes.here, nodes.there):
        await nodes.cached(server)
    await nodes.sql("SET GLOBAL read_only = 1")
    try:
        assert await nodes.purge(nodes.here) == {"dropped": 2, "recorded": False}
        assert await nodes.origin(nodes.here) == "render"
        assert await nodes.origin(nodes.there) == "memory"
    finally:
        await nodes.sql("SET GLOBAL read_only = 0")
    await nodes.purged(nodes.there)
