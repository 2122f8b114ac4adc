from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from pytest_aiohttp.plugin import AiohttpServer

from proxy.analysis.providers.google import GoogleVision
from proxy.analysis.providers.openai import OpenAIVision
from proxy.domain.analysis import VisionResult
from proxy.domain.errors import AnalysisError
from proxy.runtime.http_client import open_session
from proxy.settings.vision import GoogleSettings, OpenAISettings
from tests.analysis.providers.service import (
    GOOGLE_ANSWER,
    KEY,
    SEEN,
    Service,
    completion,
    says,
)

Provider = GoogleVision | OpenAIVision
Open = Callable[..., Awaitable[Provider]]
IMAGE = b"RIFF....WEBP" * 100
GOOD = {"google": says(GOOGLE_ANSWER), "openai": says(completion(json.dumps(SEEN)))}
"""By provider, an act that answers well."""
both = pytest.mark.parametrize("name", GOOD)
QUICK = {"timeout_s": 5, "backoff_s": 0.01}
MAX_BYTES = 100_000
SENT_SIZE = (400, 200)


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
    """Returns a function that opens a provider, by name, at the fake service."""
    server = await aiohttp_server(service.app())

    async def make(name: str, **options: Any) -> Provider:
        chosen: dict[str, Any] = {**QUICK, "base_url": str(server.make_url("/api")), **options}
        if name == "google":
            google = GoogleSettings(**chosen)
            return GoogleVision(google, KEY, session=session, max_bytes=MAX_BYTES)
        openai = OpenAISettings(**chosen)
        return OpenAIVision(openai, KEY, session=session, max_bytes=MAX_BYTES)

    return make


async def analyse(provider: Provider) -> VisionResult:
    return await provider.analyse(IMAGE, "image/webp", "product", SENT_SIZE)


async def failure(provider: Provider) -> AnalysisError:
    """Return the error of a failed request. It never contains the key."""
    with pytest.raises(AnalysisError) as caught:
        await analyse(provider)
    assert KEY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    return caught.value
