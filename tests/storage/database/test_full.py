"""SQLite on a disk that is full: what it refuses at the commit is known not to stand."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from proxy.domain.errors import CommitUncertain, DatabaseUnavailable
from proxy.domain.media import MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository, open_media_repository
from proxy.storage.database.schema import upgrade
from tests.support.mounts import Mount


async def add_many(database: SqlMediaRepository, new: NewMedia, facts: MediaFacts) -> None:
    """Until there is no room: some is left in what SQLite has taken already."""
    for _ in range(1000):
        await database.insert(new, facts)


async def test_a_row_that_found_no_room_does_not_stand_for_certain(
    tmp_path: Path, mounted: Mount, settings: DatabaseSettings, new: NewMedia, facts: MediaFacts
) -> None:
    """So who filed its original first takes that away, and nothing is left over."""
    place = tmp_path / "place"
    with mounted(place, "size=2m"):
        url = f"sqlite+aiosqlite:///{place}/smartserve.db"
        await upgrade(url, settings)
        async with open_media_repository(url, settings) as database:
            await database.insert(new, facts)
            filler = place / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(DatabaseUnavailable) as refused:
                await add_many(database, new, facts)
            assert not isinstance(refused.value, CommitUncertain)
            filler.unlink()
            assert await database.insert(new, facts) > 1
