"""A server whose database is a real MariaDB behind a network that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import aiomysql

from proxy.domain.media import DataType
from proxy.settings import DatabaseSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import upgrade
from tests.faults.server import Server
from tests.faults.tcpproxy import TcpProxy
from tests.support.mariadb import MariaDB
from tests.support.waiting import eventually

FRESH = range(1001, 4001)
"""Ids of rows that show the photo, and that no server has read."""
WIDTH, OTHER_WIDTH = 64, 96
_SETTINGS = DatabaseSettings()
_COPIES = f"""
    INSERT INTO media_files
        (id, main_api_id, user_id, data_type, original_name, mime_type, file_size, bulk_path,
         status)
    SELECT seq, 0, user_id, data_type, original_name, mime_type, file_size, bulk_path, status
    FROM media_files, seq_{FRESH[0]}_to_{FRESH[-1]} WHERE id = %d;
    INSERT INTO media_facts
        (media_id, content_hash, byte_size, source_type, width, height, has_alpha, pages,
         flat_background, focus_x, focus_y, source_path, row_version)
    SELECT seq, content_hash, byte_size, source_type, width, height, has_alpha, pages,
        flat_background, focus_x, focus_y, source_path, ''
    FROM media_facts, seq_{FRESH[0]}_to_{FRESH[-1]} WHERE media_id = %d;
"""


async def moved_in(mariadb: MariaDB, data_dir: Path, ids: dict[str, int]) -> str:
    """Create a database with the library's rows and the `FRESH` ones; return its name.

    The account ``proxy`` has all rights in it, and none elsewhere.
    """
    name = await asyncio.to_thread(mariadb.create_database)
    await upgrade(mariadb.url(name), _SETTINGS)
    library = f"sqlite+aiosqlite:///{data_dir / 'smartserve.db'}"
    async with (
        SqlMediaRepository(library, _SETTINGS) as old,
        SqlMediaRepository(mariadb.url(name), _SETTINGS) as new,
    ):
        for media_id in sorted(ids.values()):
            media = await old.find(media_id)
            assert media is not None
            assert media.facts is not None
            row = NewMedia(
                user_id=media.user_id,
                data_type=DataType(media.data_type),
                original_name=media.original_name or "",
                bulk_path=media.bulk_path or "",
            )
            assert await new.insert(row, media.facts) == media_id
    photo = ids["photo"]
    account = f"CREATE OR REPLACE USER proxy; GRANT ALL ON {name}.* TO proxy;"
    await asyncio.to_thread(mariadb.execute, _COPIES % (photo, photo) + account, database=name)
    return name


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Site:
    """The server, its database and the network between them."""

    def __init__(self, server: Server, mariadb: MariaDB, proxy: TcpProxy, database: str) -> None:
        self.server = server
        self.mariadb = mariadb
        self.proxy = proxy
        self.database = database
        self.answers = 0
        self.bodies: dict[int, bytes] = {}
        """The photo by width, as it was before the fault."""
        self._fresh: Iterator[int] = iter(FRESH)

    async def sql(self, statements: str) -> str:
        """Run statements as root, not through the network."""
        return await asyncio.to_thread(self.mariadb.execute, statements, database=self.database)

    async def sessions(self) -> list[str]:
        """Return the ids of the server's database connections, as the database sees them."""
        query = "SELECT id FROM information_schema.processlist WHERE user = 'proxy'"
        return (await self.sql(query)).split()

    async def until_sessions(self, most: int) -> None:
        """Return when at most ``most`` connections are left; it takes the database a second."""

        async def reached() -> bool:
            return len(await self.sessions()) <= most

        await eventually(reached, timeout_s=5)

    async def fetch(
        self, client: aiohttp.ClientSession, media_id: int, width: int = WIDTH
    ) -> Answer:
        """Return the response to a request for an image, within the time that a browser waits."""
        async with (
            asyncio.timeout(20),
            client.get(f"/serve/{media_id}?w={width}&format=jpeg") as answer,
        ):
            body = await answer.read()
        self.answers += 1
        return Answer(answer.status, dict(answer.headers), body)

    async def read_photo(self, client: aiohttp.ClientSession, photo: int) -> None:
        """Request the photo in one width, so that its row is cached, and store its bytes."""
        for media_id, width in ((photo, WIDTH), (self.fresh(), OTHER_WIDTH)):
            answer = await self.fetch(client, media_id, width)
            assert answer.status == 200
            self.bodies[width] = answer.body

    def fresh(self) -> int:
        """Return an id that exists and that the server has not read."""
        return next(self._fresh)

    @asynccontextmanager
    async def hold_connections(
        self, count: int, *, user: str
    ) -> AsyncIterator[list[aiomysql.Connection]]:
        """Hold ``count`` connections to the same database, not through the network."""
        async with AsyncExitStack() as stack:
            connections = []
            for _ in range(count):
                connection = await aiomysql.connect(
                    host="127.0.0.1", port=self.mariadb.port, user=user, db=self.database
                )
                stack.callback(connection.close)
                connections.append(connection)
            yield connections
