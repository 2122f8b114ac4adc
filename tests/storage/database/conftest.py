"""The databases under test, each fresh and up to date, and what is put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.domain.media import DataType, Focus, MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import upgrade
from tests.storage.database.backends import Backend, MariaDBBackend, SqliteBackend
from tests.storage.database.items import LEASE_S


@pytest.fixture
def settings() -> DatabaseSettings:
    return DatabaseSettings(query_timeout_s=5, connect_timeout_s=3, retry_after_s=7)


@pytest.fixture
def new() -> NewMedia:
    return NewMedia(
        user_id=42,
        data_type=DataType.PRODUCT,
        original_name="Überfahrt 🚢.jpg",
        bulk_path="bulk/2026/11/a.jpg",
    )


@pytest.fixture
def facts() -> MediaFacts:
    return MediaFacts(
        content_hash="ab" * 32,
        byte_size=1234,
        source_type="jpeg",
        width=640,
        height=480,
        has_alpha=False,
        pages=1,
        flat_background=True,
        focus=Focus(1 / 3, 0.1),
        source_path="bulk/2026/11/a.jpg",
    )


@pytest.fixture(params=["sqlite", "mariadb"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "sqlite":
        return SqliteBackend(tmp_path)
    return MariaDBBackend(request.getfixturevalue("mariadb"))


@pytest.fixture
async def url(backend: Backend, settings: DatabaseSettings) -> str:
    """A database of its own for the test, up to date."""
    url = backend.empty()
    await upgrade(url, settings)
    return url


@pytest.fixture
async def database(url: str, settings: DatabaseSettings) -> AsyncIterator[SqlMediaRepository]:
    async with SqlMediaRepository(url, settings) as database:
        yield database


@pytest.fixture
async def writer(url: str, settings: DatabaseSettings) -> AsyncIterator[LeasedWriter]:
    writer = LeasedWriter(url, settings, lease_s=LEASE_S)
    yield writer
    await writer.aclose()


@pytest.fixture
def queue(writer: LeasedWriter) -> IngestQueue:
    return IngestQueue(writer)
