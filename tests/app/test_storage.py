"""Opening the storage: a database that is away at the start is prepared later."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from proxy.app import storage
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import Settings
from tests.support.restarts import Restarts


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
