"""The kinds of database that one contract holds for, and ways past the code under test."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tests.support.mariadb import MariaDB


class Backend(Protocol):
    """One kind of database."""

    def empty(self) -> str:
        """The URL of a new database without tables."""

    def run(self, url: str, statements: str) -> list[str]:
        """Run statements without the code under test; the rows of the answer, tab-separated."""


class SqliteBackend:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def empty(self) -> str:
        return f"sqlite+aiosqlite:///{self._folder / uuid.uuid4().hex / 'media.db'}"

    def run(self, url: str, statements: str) -> list[str]:
        *before, last = (part for part in statements.split(";") if part.strip())
        with closing(sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///"))) as connection:
            for statement in before:
                connection.execute(statement)
            rows = connection.execute(last).fetchall()
            connection.commit()
        return ["\t".join(map(str, row)) for row in rows]


class MariaDBBackend:
    def __init__(self, server: MariaDB) -> None:
        self._server = server

    def empty(self) -> str:
        return self._server.url(self._server.create_database())

    def run(self, url: str, statements: str) -> list[str]:
        return self._server.execute(statements, database=url.rpartition("/")[2]).splitlines()
