"""Callbacks of uploads: stored whole, with the server that has the medium."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest
import sqlalchemy as sa

from proxy.domain.errors import RowRejected
from proxy.settings import DatabaseSettings
from proxy.storage.database.schema import upgrade
from proxy.storage.database.tables import media_files
from proxy.storage.database.upload_repository import UNKNOWN_SERVER, UploadResults
from tests.storage.database.backends import Backend

VM = "http://34.60.105.144:3001"
RICH = {"permanent_url": f"{VM}/serve/5", "ai_analysis": {"style": "Kubismus 🎨", "site": {}}}


@pytest.fixture
async def results(backend: Backend, settings: DatabaseSettings) -> AsyncIterator[UploadResults]:
    url = backend.empty()
    await upgrade(url, settings)
    async with UploadResults(url, settings) as database:
        yield database


async def add_row(results: UploadResults, media_id: int, main_api_id: int) -> None:
    async with results.transaction() as connection:
        values = {"id": media_id, "main_api_id": main_api_id, "user_id": 4, "data_type": "logo"}
        await connection.execute(sa.insert(media_files).values(values))


async def test_the_whole_callback_is_stored_with_the_server_of_the_medium(
    results: UploadResults,
) -> None:
    assert await results.servers(5) == frozenset()
    assert await results.callback(5) is None
    for _ in range(2):
        assert await results.record(7, 5, RICH, server=VM) == VM
    assert await results.record(8, 5, {"media_id": 5}, server="") == UNKNOWN_SERVER
    assert await results.servers(5) == {VM, UNKNOWN_SERVER}
    await results.record(8, 6, RICH | {"again": True}, server=VM)
    assert await results.servers(5) == {VM}
    assert await results.callback(5) == RICH
    assert await results.callback(6) == RICH | {"again": True}


@pytest.mark.parametrize("levels", [31, 32])
async def test_mariadb_stores_31_levels(results: UploadResults, levels: int) -> None:
    deep: object = 1
    for _ in range(levels - 1):
        deep = [deep]
    stored = levels <= 31 or results.engine.dialect.name == "sqlite"
    with nullcontext() if stored else pytest.raises(RowRejected):
        await results.record(7, 5, {"deep": deep}, server=VM)
    assert (await results.callback(5) is not None) == stored


async def test_only_a_row_of_the_same_upload_makes_a_medium_our_own(
    results: UploadResults,
) -> None:
    """Two databases count their ids from 1: equal ids alone mean nothing."""
    await add_row(results, 5, 9)
    assert await results.record(7, 5, RICH, server=VM) == VM
    assert await results.record(9, 5, RICH, server=VM) == ""
    assert await results.servers(5) == {"", VM}
