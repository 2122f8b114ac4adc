"""Shared fixtures: a library of images, and servers over a copy of it."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from PIL import Image

from proxy.app.services import Services, open_services
from proxy.app.uploads import open_uploads
from proxy.app.web import HttpServer, build_http_server
from tests.support.mariadb import MariaDB, private_mariadb
from tests.support.mounts import Mount, tmpfs
from tests.support.redis import RedisServer, private_redis
from tests.support.seaweedfs import SeaweedFS, private_seaweedfs
from tests.support.server import (
    SAMPLES,
    Library,
    Serve,
    Serving,
    SmartServer,
    Standing,
    connected,
    make_settings,
    standing,
)

# Other programs may use all processors meanwhile. With the priorities of a server, what runs in the
# background would get next to nothing then, and the tests that wait for it would take minutes.
_SETTINGS = {
    "UPGRADES__IDLE_PRIORITY": "false",
    "METADATA__NICE": "0",
    "WORKERS__NICE": "0",
    # The default folder may belong to another user of this machine.
    "METADATA__TEMP_ROOT": f"{tempfile.gettempdir()}/metaextract-tests-{os.getuid()}",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(f"SMARTSERVE_{_name}", _value)

# The same examples in each run, and no deadline, because the machine may be busy.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

# A full collection visits all tests and modules. Python's default (10) spent a fifth of the
# processor time on them.
gc.set_threshold(700, 10, 100)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name what gzip has compressed by its length: ids must be equal, and it contains the time."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and val[:2] == b"\x1f\x8b" else None


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Imported images: of the samples ``photo``, ``logo`` and the transparent ``badge``.

    ``large`` is 2400 x 1800 pixels of noise, so its renditions are large.
    """
    large = tmp_path_factory.mktemp("drawn") / "large.jpg"
    Image.effect_noise((2400, 1800), 80).convert("RGB").save(large, quality=90)
    files = {
        "large": large,
        "photo": min(SAMPLES.glob("*.jpg")),
        "logo": SAMPLES / "logo.png",
        "badge": SAMPLES / "badge.png",
    }
    return Library(tmp_path_factory.mktemp("library") / "data", files)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB of the tests' own; a test that damages it repairs it."""
    with private_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def _redis() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def redis(_redis: RedisServer) -> Iterator[RedisServer]:
    """An empty Redis that runs; a test may pause or kill it."""
    _redis.start()
    _redis.execute("FLUSHALL")
    yield _redis
    _redis.resume()


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFS]:
    """A SeaweedFS of the tests' own; a test that pauses it resumes it."""
    with private_seaweedfs() as server:
        yield server


@pytest.fixture
def data_dir(library: Library, tmp_path: Path) -> Path:
    """A copy of the library's data directory."""
    return library.copy(tmp_path / "data")


@pytest.fixture
async def serve(data_dir: Path) -> AsyncIterator[Serve]:
    """Starts servers over a copy of the library; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(**sections: Mapping[str, Any]) -> Serving:
            settings = make_settings(data_dir, **sections)
            services = await stack.enter_async_context(open_services(settings))
            main = await stack.enter_async_context(
                open_uploads(settings, on_upload=services.upload_arrived.set)
            )
            surface = build_http_server(services, main)
            client = await stack.enter_async_context(connected(SmartServer(surface.runner)))
            return Serving(services, surface, client, main)

        yield start


@pytest.fixture
async def server(serve: Serve) -> Serving:
    """A server with default settings."""
    return await serve()


@pytest.fixture(scope="session")
def _standing(
    library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Services, HttpServer, Standing]]:
    settings = make_settings(library.copy(tmp_path_factory.mktemp("standing") / "data"))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(standing(settings)) as opened,
    ):
        yield opened


@pytest.fixture
async def shared(_standing: tuple[Services, HttpServer, Standing]) -> AsyncIterator[Serving]:
    """A server with default settings, shared by all tests of a process.

    For tests that only send requests and do not depend on earlier ones: a server of its own takes a
    third of a second.
    """
    services, surface, server = _standing
    async with connected(server) as client:
        yield Serving(services, surface, client)


@pytest.fixture
def mounted() -> Mount:
    """Mount a tmpfs for the length of a block, with the options of mount(8)."""
    return tmpfs
