"""A server that is followed, and the collector that its spans go to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from proxy.app.services import open_services
from proxy.app.startup_checks import start_tracing
from proxy.app.web import build_http_server
from tests.support.server import Client, Serving, SmartServer, make_settings
from tests.telemetry.tracing.collector import Collector, collecting


class Follow(Protocol):
    """Starts a server that is followed, with default settings but for the sections given."""

    def __call__(self, **sections: Mapping[str, Any]) -> Awaitable[Serving]: ...


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as one:
        yield one


@pytest.fixture
async def follow(
    data_dir: Path,
    aiohttp_client: AiohttpClient,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Follow]:
    """Starts servers of which all is followed; they end with the test."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    async with AsyncExitStack() as stack:

        async def start(**sections: Mapping[str, Any]) -> Serving:
            given = {
                "enabled": True,
                "ratio": 1,
                "honour_parent": True,
                "endpoint": collector.endpoint,
            }
            tracing = {**given, **sections.pop("tracing", {})}
            settings = make_settings(data_dir, **sections, tracing=tracing)
            followed = await stack.enter_async_context(start_tracing(settings.tracing))
            services = await stack.enter_async_context(open_services(settings, tracing=followed))
            surface = build_http_server(services)
            client: Client = await aiohttp_client(SmartServer(surface.runner))
            stack.push_async_callback(client.close)
            return Serving(services, surface, client)

        yield start
