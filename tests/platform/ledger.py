"""What the databases and folders hold in the end, read past the program itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.mariadb import MariaDB

PROFILES = (
    ("user_profiles", "profile_image_path"),
    ("user_profiles", "header_image_path"),
    ("artist_profiles", "logo_path"),
    ("site_media", "media_path"),
)
"""Where the embedded default writes what was uploaded; product and event have no table."""


class Ledger(Protocol):
    """Answers one query."""

    def rows(self, query: str) -> list[tuple[str, ...]]:
        """All rows, each value as text, NULL as ``NULL``."""


class SqliteLedger:
    """Over an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, query: str) -> list[tuple[str, ...]]:
        """All rows, each value as text."""
        with closing(sqlite3.connect(self._path, timeout=30)) as database:
            found = database.execute(query).fetchall()
        return [tuple("NULL" if one is None else str(one) for one in row) for row in found]


@dataclass(frozen=True, slots=True)
class MariaLedger:
    """Over a database of a MariaDB."""

    server: MariaDB
    database: str

    def rows(self, query: str) -> list[tuple[str, ...]]:
        """All rows, each value as text."""
        lines = self.server.execute(query, database=self.database).splitlines()
        return [tuple(line.split("\t")) for line in lines]


def statuses(ledger: Ledger) -> Mapping[str, int]:
    """Uploads by status."""
    found = ledger.rows("SELECT status, COUNT(*) FROM pending_images GROUP BY status")
    return {status: int(count) for status, count in found}


def completed(ledger: Ledger) -> dict[int, int]:
    """Media ids of completed uploads, by the ids of these."""
    query = "SELECT id, permanent_url FROM pending_images WHERE status = 'complete'"
    return {int(image): int(media) for image, media in ledger.rows(query)}


def failed(ledger: Ledger) -> set[int]:
    """Ids of uploads that failed."""
    query = "SELECT id FROM pending_images WHERE status = 'failed'"
    return {int(image) for (image,) in ledger.rows(query)}


def reasons(ledger: Ledger) -> dict[int, str]:
    """Why uploads failed, by their ids, as the worker has it."""
    query = "SELECT main_api_id, reason FROM ingest_items WHERE state = 'failed'"
    return {int(image): reason for image, reason in ledger.rows(query)}


def doubled(ledger: Ledger) -> list[tuple[str, ...]]:
    """Uploads that more than one medium was made of."""
    return ledger.rows(
        "SELECT main_api_id, COUNT(*) FROM media_files WHERE main_api_id > 0"
        " GROUP BY main_api_id HAVING COUNT(*) > 1"
    )


def profile_addresses(ledger: Ledger) -> list[str]:
    """All addresses of pictures that the profiles hold."""
    return [
        address
        for table, column in PROFILES
        for (address,) in ledger.rows(f"SELECT {column} FROM {table}")
        if address != "NULL"
    ]


def leftovers(folders: Sequence[Path]) -> list[str]:
    """Files below folders, temporary ones of ours among originals included."""
    return sorted(str(path) for folder in folders for path in folder.rglob("*") if path.is_file())
