"""Fixtures: a worker with real services, and a fake main API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from proxy.app.ingest import IngestUrls, open_ingest
from proxy.domain.media import Media
from proxy.ingest.worker_loop import WorkerLoop
from tests.ingest.fake_main_api import KEY, FakeMainApi, fake_main_api
from tests.storage.database.backends import SqliteBackend
from tests.support.server import Serve, Serving

BACKEND = "https://media.example.org"
QUICK: Mapping[str, Any] = {
    "main_api_key": KEY,
    "step_backoff_s": 0.01,
    "max_step_backoff_s": 0.02,
    "request_timeout_s": 5,
}
PLAIN: Mapping[str, Any] = {"renditions": "none", "analyse": False}


@dataclass(frozen=True)
class Worker:
    """A worker that runs when the test says so, and the server of its media."""

    server: Serving
    ingest: WorkerLoop
    sql: Callable[[str], list[str]]

    async def media(self, media_id: str | None) -> Media:
        """Return a medium as it is in the database."""
        found = await self.server.services.storage.repository.find(int(media_id or 0))
        assert found is not None
        return found

    def row(self, columns: str, table: str = "ingest_items") -> list[str]:
        """Return columns of the only row of a table."""
        (row,) = self.sql(f"SELECT {columns} FROM {table}")
        return row.split("\t")

    def due(self) -> None:
        """Make all waiting uploads due now."""
        self.sql("UPDATE ingest_items SET not_before = 1 WHERE not_before IS NOT NULL; SELECT 1")


class Work(Protocol):
    """Starts a worker; settings override the quick ones."""

    async def __call__(
        self, sections: Mapping[str, Any] | None = None, **ingest: Any
    ) -> Worker: ...


@pytest.fixture
async def fake() -> AsyncIterator[FakeMainApi]:
    async with fake_main_api() as fake:
        yield fake


@pytest.fixture
async def work(serve: Serve, fake: FakeMainApi) -> AsyncIterator[Work]:
    async with AsyncExitStack() as stack:

        async def start(sections: Mapping[str, Any] | None = None, **ingest: Any) -> Worker:
            server = await serve(**(sections or {}), ingest={**QUICK, **ingest})
            addresses = IngestUrls(fake.base, BACKEND)
            worker = await stack.enter_async_context(open_ingest(server.services, addresses))
            settings = server.services.settings
            sql = SqliteBackend(settings.data_path).run
            return Worker(server, worker, lambda text: sql(settings.database_url, text))

        yield start


@pytest.fixture
async def worker(work: Work) -> Worker:
    return await work()


@pytest.fixture
async def plain(work: Work) -> Worker:
    """A worker without analysis and renditions, for tests that need neither: it is much faster."""
    return await work(**PLAIN)
