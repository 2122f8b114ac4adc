"""Diagnostics of an SQLite database."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.storage.database.diagnostics import (
    clock_offset_s,
    denied_operations,
    describe_server,
)
from tests.support.server import make_settings


async def test_a_server_is_described_by_kind_version_and_latency(data_dir: Path) -> None:
    settings = make_settings(data_dir)
    version, latency_s = await describe_server(settings.database_url, settings.database)
    assert version.startswith("sqlite 3.")
    assert 0 < latency_s < 60


async def test_the_clock_of_sqlite_is_this_machines(data_dir: Path) -> None:
    settings = make_settings(data_dir)
    assert abs(await clock_offset_s(settings.database_url, settings.database)) < 60


@pytest.mark.parametrize("ingest", [False, True])
async def test_the_owner_of_a_database_may_do_everything(
    ingest: bool,  # noqa: FBT001
    data_dir: Path,
) -> None:
    settings = make_settings(data_dir)
    denied = await denied_operations(settings.database_url, settings.database, ingest=ingest)
    assert denied == []
