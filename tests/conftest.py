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
from hypothesis import settings
from PIL import Image

from proxy.app.services import open_services
from proxy.app.uploads import open_uploads
from proxy.app.web import build_http_server
from tests.benchmarks.servers import SUITE
from tests.support.commands import KEY as ADMIN_KEY
from tests.support.mariadb import MariaDB, private_mariadb
from tests.support.mounts import Mount, tmpfs
from tests.support.redis import RedisServer, private_redis
from tests.support.seaweedfs import SeaweedFS, private_seaweedfs
from tests.support.server import (
    ACCESS,
    SAMPLES,
    Background,
    Library,
    Serve,
    Serving,
    SmartServer,
    background,
    connected,
    make_settings,
)
from tests.support.uploads import MAIN, USERS

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
    SUITE[_name] = os.environ.setdefault(f"SMARTSERVE_{_name}", _value)

# The same examples in each run, and no deadline, because the machine may be busy.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

# A full collection visits all tests and modules. Python's default (10) spent a fifth of the
# processor time on them.
gc.set_threshold(700, 10, 100)


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collections: they live until the end."""
    gc.collect()
    gc.freeze()


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
def _shared(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    data_dir = library.copy(tmp_path_factory.mktemp("shared") / "data")
    with background(make_settings(data_dir)) as found:
        yield found


@pytest.fixture
async def shared(_shared: Background) -> AsyncIterator[Serving]:
    """A server with default settings, shared by all tests of a process.

    For tests that only send requests and do not depend on earlier ones: a server of its own takes a
    third of a second.
    """
    async with _shared.serving() as server:
        yield server


@pytest.fixture(scope="session")
def keyed_background(
    library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Background]:
    """The server of `keyed`, for what a module prepares once."""
    folder = tmp_path_factory.mktemp("keyed")
    settings = make_settings(
        library.copy(folder / "data"),
        # Each test may send wrong keys.
        admin={"key": ADMIN_KEY, "max_failures": 10_000},
        main={**MAIN, "max_file_bytes": 1_000_000, "upload_stall_s": 5},
        users=USERS,
        access=ACCESS,
        metadata={
            "temp_root": str(folder / "metaextract"),
            "engine": "pillow",
            "engines": 1,
            "callback_hosts": ["hooks.example.org"],
        },
    )
    with background(settings) as found:
        yield found


@pytest.fixture
async def keyed(keyed_background: Background) -> AsyncIterator[Serving]:
    """A server like `shared`, with all keys: of admins, of the media API, of tokens, of signatures.

    For tests that are refused, or that change only an image, upload or job of their own. They
    compare counters and lists with those before.
    """
    async with keyed_background.serving() as server:
        yield server


@pytest.fixture
def mounted() -> Mount:
    """Mount a tmpfs for the length of a block, with the options of mount(8)."""
    return tmpfs
