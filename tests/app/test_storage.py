"""Opening the storage: a database that is away at the start is prepared later."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest

from proxy.app import storage
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.domain.media import DataType
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import Settings
from proxy.storage.database import NewMedia
from proxy.storage.database.metadata_store import MetadataStore
from proxy.storage.database.tables import media_files
from tests.support.extractions import metadata_of
from tests.support.restarts import Restarts
from tests.support.server import make_settings
from tests.web.plans import FACTS


async def test_an_unforeseen_error_does_not_end_the_preparation_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, prepared, restarts = count(1), asyncio.Event(), Restarts()

    async def prepare(settings: Settings) -> None:
        del settings
        match next(calls):
            case 1:
                raise DatabaseUnavailable("away")
            case 2:
                raise LookupError("unforeseen")
            case _:
                prepared.set()

    monkeypatch.setattr(storage, "_prepare_database", prepare)
    monkeypatch.setattr(storage, "_PREPARE_AGAIN_S", 0)
    async with storage.database_prepared(Settings(), restarts.supervisor):
        await prepared.wait()
    assert restarts.tasks == [BackgroundTask.SCHEMA_UPGRADE]


async def test_a_schema_that_may_not_be_upgraded_refuses_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def prepare(settings: Settings) -> None:
        del settings
        raise ConfigurationError(["database: its schema is not up to date"])

    monkeypatch.setattr(storage, "_prepare_database", prepare)
    with pytest.raises(ConfigurationError):
        async with storage.database_prepared(Settings()):
            pass


@pytest.mark.parametrize(
    ("cause", "raised"),
    [(TimeoutError(), DatabaseUnavailable), (PermissionError("denied"), ConfigurationError)],
)
async def test_only_a_slow_upgrade_is_retried_later(
    cause: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def inspect(*_: object, schema: object) -> tuple[None, bool]:
        del schema
        return None, True

    async def upgrade(*_: object, schema: object) -> bool:
        del schema
        raise DatabaseUnavailable("not upgraded") from cause

    monkeypatch.setattr(storage, "inspect_version", inspect)
    monkeypatch.setattr(storage, "upgrade", upgrade)
    with pytest.raises(raised):
        await storage._prepare_database(Settings())


async def test_metadata_of_deleted_media_is_removed_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals, removed, restarts = count(1), asyncio.Event(), Restarts()
    remove = MetadataStore.delete_orphans

    async def counted(store: MetadataStore) -> int:
        if next(removals) == 1:
            raise DatabaseUnavailable("away")
        deleted = await remove(store)
        if deleted:
            removed.set()
        return deleted

    monkeypatch.setattr(MetadataStore, "delete_orphans", counted)
    monkeypatch.setattr(storage, "_DELETE_ORPHANS_EVERY_S", 0.01)
    async with storage.open_storage(make_settings(tmp_path), restarts.supervisor) as opened:
        media_id = await opened.repository.insert(NewMedia(7, DataType.LOGO, "a.png", "a"), FACTS)
        assert await opened.metadata.save(media_id, metadata_of(), ["style:raw"])
        gone = media_files.delete().where(media_files.c.id == media_id)
        await opened.writer.run(lambda one: one.execute(gone))
        await removed.wait()
    assert restarts.tasks == [], "a database that is away is no fault of the task"


async def test_a_purge_and_a_change_are_announced_to_other_processes(tmp_path: Path) -> None:
    announced: list[int] = []
    settings = make_settings(tmp_path / "data")
    async with storage.open_storage(settings, on_change=lambda: announced.append(1)) as opened:
        await opened.purger.medium(7)
        assert announced
        before = len(announced)
        opened.changed(8)
        assert len(announced) == before + 1
