from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from pytest_aiohttp.plugin import AiohttpServer

from proxy.analysis.providers.google import GoogleVision
from proxy.analysis.providers.openai import OpenAIVision
from proxy.runtime.http_client import open_session
from proxy.settings.vision import GoogleSettings, OpenAISettings
from tests.analysis.providers.service import KEY, Service

Provider = GoogleVision | OpenAIVision
Open = Callable[..., Awaitable[Provider]]
QUICK = {"timeout_s": 5, "backoff_s": 0.01}
MAX_BYTES = 100_000


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as opened:
        yield opened


@pytest.fixture
async def open_provider(
    service: Service, session: aiohttp.ClientSession, aiohttp_server: AiohttpServer
) -> Open:
    """Makes a provider, by its name, that asks the service."""
    server = await aiohttp_server(service.app())

    async def make(name: str, **options: Any) -> Provider:
        chosen: dict[str, Any] = {**QUICK, "base_url": str(server.make_url("/api")), **options}
        if name == "google":
            google = GoogleSettings(**chosen)
            return GoogleVision(google, KEY, session=session, max_bytes=MAX_BYTES)
        openai = OpenAISettings(**chosen)
        return OpenAIVision(openai, KEY, session=session, max_bytes=MAX_BYTES)

    return make
