"""Fixtures for all: a library of pictures, and the server over a copy of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image
from pytest_aiohttp.plugin import AiohttpClient

from proxy.wiring.mainside import open_main_side
from proxy.wiring.rooms import open_rooms
from proxy.wiring.surface import build_surface
from tests.mariadb import MariaDB, private_mariadb
from tests.mounts import Mount, tmpfs
from tests.serving import SAMPLES, Client, Library, Serve, Serving, SmartServer, make_settings

# The same examples each time, and no deadline: the machine may be busy with something else.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Pictures, imported: of the samples ``photo``, ``logo`` and the transparent ``badge``.

    ``large`` is 2400 x 1800 pixels of noise, so that its renditions are large too.
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
    """A MariaDB of the tests' own; who harms it mends it."""
    with private_mariadb() as server:
        yield server


@pytest.fixture
def data_dir(library: Library, tmp_path: Path) -> Path:
    """A copy of the library's data directory."""
    return library.copy(tmp_path / "data")


@pytest.fixture
async def serve(data_dir: Path, aiohttp_client: AiohttpClient) -> AsyncIterator[Serve]:
    """Starts servers over a copy of the library; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(**sections: Mapping[str, Any]) -> Serving:
            settings = make_settings(data_dir, **sections)
            rooms = await stack.enter_async_context(open_rooms(settings))
            main = await stack.enter_async_context(open_main_side(settings))
            surface = build_surface(rooms, main)
            client: Client = await aiohttp_client(SmartServer(surface.runner))
            stack.push_async_callback(client.close)
            return Serving(rooms, surface, client, main)

        yield start


@pytest.fixture
async def server(serve: Serve) -> Serving:
    """A server with default settings."""
    return await serve()


@pytest.fixture
def mounted() -> Mount:
    """Mount a tmpfs for the length of a block, with the options of mount(8)."""
    return tmpfs
