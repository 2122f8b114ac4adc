"""The real application for tests: real database, real workers, real sockets."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import AddrInfoType, TCPConnector, web
from aiohttp.test_utils import BaseTestServer, TestClient
from anyio.from_thread import BlockingPortal, start_blocking_portal

from proxy.app.services import Services, open_services
from proxy.app.uploads import UploadServices, open_uploads
from proxy.app.web import HttpServer, build_http_server
from proxy.domain.media import DataType
from proxy.library.import_files import ImportedFile
from proxy.settings import Settings, load_settings
from proxy.web.server.runner import ServerRunner
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "proxy" / "samples"

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
WEBP_ONLY = "image/webp,*/*"

ACCESS = {"keys": {"a": "k" * 32}, "max_ttl_s": 86_400}
"""Settings with a key for signed URLs."""


Client = TestClient[Any, Any]


class SmartServer(BaseTestServer):
    """aiohttp's test server with the runner of production."""

    def __init__(self, runner: ServerRunner) -> None:
        super().__init__()
        self._front = runner

    async def _make_runner(self, **_kwargs: Any) -> web.BaseRunner:
        return self._front


@dataclass(frozen=True)
class Serving:
    """A running server, and its services."""

    services: Services
    surface: HttpServer
    client: Client
    main: UploadServices | None = None
    portal: BlockingPortal | None = None
    """Calls functions in the thread of the server; None if it runs in that of the test."""

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels, or 0."""
        if self.portal is None:
            return self._metric(name, labels)
        # There it includes what the server did directly after it sent a response.
        return self.portal.call(self._metric, name, labels)

    def _metric(self, name: str, labels: Mapping[str, str]) -> float:
        return sum(
            sample.value
            for family in self.services.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def renders(self) -> float:
        """Return how many jobs for renditions the workers were given."""
        return self.metric("smartserve_render_seconds_count")


def make_settings(data_dir: Path, **sections: Mapping[str, Any]) -> Settings:
    """Return settings for a test: its own data directory, no access log, one worker.

    A test that needs several workers requests them; each one adds a quarter of a second.
    """
    given: dict[str, Any] = {
        "data_dir": str(data_dir),
        "log": {"access": False},
        "workers": {"count": 1},
        # Only drafts, for tests that are not about finals: the first response is the last one.
        "upgrades": {"enabled": False},
        # With the first upload, four processes would start.
        "ingest": {"extract_metadata": False},
    }
    for section, values in sections.items():
        given[section] = {**given.get(section, {}), **values}
    return load_settings(None, given)


class Library:
    """A data directory with images that were imported once, to be copied for each test."""

    def __init__(self, directory: Path, files: Mapping[str, Path]) -> None:
        self.directory = directory
        self.ids = asyncio.run(_fill(directory, files))

    def copy(self, target: Path) -> Path:
        """Return a copy of the directory that the test may change."""
        return shutil.copytree(self.directory, target)


async def _fill(directory: Path, files: Mapping[str, Path]) -> dict[str, int]:
    ids: dict[str, int] = {}
    async with open_services(make_settings(directory)) as services:
        for name, path in files.items():
            taken = await services.importer.import_file(path, user_id=7, data_type=DataType.PRODUCT)
            assert isinstance(taken, ImportedFile), taken
            ids[name] = taken.media_id
    return ids


class Standing(SmartServer):
    """A server that runs in another thread, so closing a client does not stop it."""

    async def close(self) -> None:
        """Do nothing: `end` stops the server."""

    async def end(self) -> None:
        """Stop serving."""
        await super().close()


@asynccontextmanager
async def connected(server: SmartServer) -> AsyncIterator[Client]:
    """Give a client, and wait for the end of its connections after it is closed.

    A connection with unsent bytes, because the server answered before it read the whole body,
    stays open until the server has read or refused them. The event loop must not end before.
    """
    sockets: list[socket.socket] = []

    def create(address: AddrInfoType) -> socket.socket:
        sockets.append(socket.socket(*address[:3]))
        return sockets[-1]

    client: Client = TestClient(server, connector=TCPConnector(socket_factory=create))
    async with client:
        yield client
    await eventually(lambda: all(one.fileno() == -1 for one in sockets))


@asynccontextmanager
async def standing(settings: Settings) -> AsyncIterator[tuple[Services, HttpServer, Standing]]:
    """Run a server for the length of the block."""
    async with open_services(settings) as services, open_uploads(settings) as main:
        surface = build_http_server(services, main)
        server = Standing(surface.runner)
        await server.start_server()
        try:
            yield services, surface, server
        finally:
            await server.end()


@dataclass(frozen=True)
class Background:
    """A server that runs in a thread of its own, for several tests."""

    services: Services
    surface: HttpServer
    server: Standing
    portal: BlockingPortal

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Serving]:
        """Give the server with a client for one test."""
        async with connected(self.server) as client:
            yield Serving(self.services, self.surface, client, portal=self.portal)


@contextmanager
def background(settings: Settings) -> Iterator[Background]:
    """Run a server in a thread of its own for the length of the block."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(standing(settings)) as (services, surface, server),
    ):
        yield Background(services, surface, server, portal)


class Serve(Protocol):
    """Starts a server with default settings except for the given sections."""

    def __call__(self, **sections: Mapping[str, Any]) -> Awaitable[Serving]: ...
