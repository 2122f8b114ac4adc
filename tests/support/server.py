"""The real application for tests: real database, real workers, real sockets."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestClient

from proxy.app.services import Services, open_rooms
from proxy.app.uploads import UploadServices, open_main_side
from proxy.app.web import HttpServer, build_surface
from proxy.domain.media import DataType
from proxy.library.import_files import ImportedFile
from proxy.settings import Settings, load_settings
from proxy.web.server.runner import ServerRunner

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "proxy" / "samples"

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
WEBP_ONLY = "image/webp,*/*"


Client = TestClient[Any, Any]


class SmartServer(BaseTestServer):
    """aiohttp's test server around the runner that production uses."""

    def __init__(self, runner: ServerRunner) -> None:
        super().__init__()
        self._front = runner

    async def _make_runner(self, **_kwargs: Any) -> web.BaseRunner:
        return self._front


@dataclass(frozen=True)
class Serving:
    """A running server, and what is behind it."""

    rooms: Services
    surface: HttpServer
    client: Client
    main: UploadServices | None = None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 where there are none."""
        return sum(
            sample.value
            for family in self.rooms.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def renders(self) -> float:
        """How many jobs the workers were given that made a rendition."""
        return self.metric("smartserve_render_seconds_count")


def make_settings(data_dir: Path, **sections: Mapping[str, Any]) -> Settings:
    """Settings for a test: a data directory of its own, quiet, one worker.

    Who is about several asks for them: each takes a quarter of a second of each test.
    """
    given: dict[str, Any] = {
        "data_dir": str(data_dir),
        "log": {"access": False},
        "workers": {"count": 1},
        # One stage, where a test is not about two: its first answer is its last.
        "upgrades": {"enabled": False},
    }
    for section, values in sections.items():
        given[section] = {**given.get(section, {}), **values}
    return load_settings(None, given)


class Library:
    """A data directory with pictures imported once, to be copied for each test."""

    def __init__(self, directory: Path, files: Mapping[str, Path]) -> None:
        self.directory = directory
        self.ids = asyncio.run(_fill(directory, files))

    def copy(self, target: Path) -> Path:
        """A copy of the directory that the test may do with as it likes."""
        return shutil.copytree(self.directory, target)


async def _fill(directory: Path, files: Mapping[str, Path]) -> dict[str, int]:
    ids: dict[str, int] = {}
    async with open_rooms(make_settings(directory)) as rooms:
        for name, path in files.items():
            taken = await rooms.importer.take(path, user_id=7, data_type=DataType.PRODUCT)
            assert isinstance(taken, ImportedFile), taken
            ids[name] = taken.media_id
    return ids


class Standing(SmartServer):
    """A server that runs already, in another thread: a client's end is not its own."""

    async def close(self) -> None:
        """Leave it running; `end` ends it."""

    async def end(self) -> None:
        """Stop serving."""
        await super().close()


@asynccontextmanager
async def standing(settings: Settings) -> AsyncIterator[tuple[Services, HttpServer, Standing]]:
    """A server for as long as the block lasts."""
    async with open_rooms(settings) as rooms, open_main_side(settings) as main:
        surface = build_surface(rooms, main)
        server = Standing(surface.runner)
        await server.start_server()
        try:
            yield rooms, surface, server
        finally:
            await server.end()


class Serve(Protocol):
    """Starts a server with default settings but for the sections given."""

    def __call__(self, **sections: Mapping[str, Any]) -> Awaitable[Serving]: ...
