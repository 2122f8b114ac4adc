"""Live servers for the tests of proxies and of monitoring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.benchmarks.servers import smartserve
from tests.deploy.origin import Origin
from tests.faults.server import Sections, Server
from tests.support.server import Library

Started = Callable[[Sections], Awaitable[Server]]

TWO_STAGES: Sections = {
    "upgrades": {"enabled": True, "budget_s": 0.0, "all_sizes": False},
    "encoders": {"target": 0},
    "encoders__avif__final": {"effort": 1},
}
"""Settings for drafts first, then finals that need little processor time."""


@pytest.fixture(scope="session")
def origin(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """Run a server with one stage, shared by tests that do not change it; its counters continue."""
    data_dir = library.copy(tmp_path_factory.mktemp("origin") / "data")
    settings = {"UPGRADES__ENABLED": "false", "WORKERS__COUNT": "2"}
    with smartserve(data_dir, settings=settings) as running:
        yield Origin(running.address[1])


@pytest.fixture
async def started(data_dir: Path) -> AsyncIterator[Started]:
    """Start servers over a copy of the library; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(sections: Sections) -> Server:
            server = Server(data_dir, sections)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start
