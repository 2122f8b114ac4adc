"""Opens the providers that have a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.analysis.providers import VisionProvider
from proxy.analysis.providers.google import GoogleVision
from proxy.analysis.providers.openai import OpenAIVision
from proxy.domain.errors import ConfigurationError
from proxy.runtime.http_client import open_session
from proxy.settings import VisionSettings, provider_key


@asynccontextmanager
async def open_providers(settings: VisionSettings) -> AsyncIterator[tuple[VisionProvider, ...]]:
    """Yield the providers that have a key, and close their connections after the block.

    Reads key files, so it blocks briefly.

    Raises:
        ConfigurationError: a key file cannot be read, or contains no key.
    """
    limit = settings.max_response_bytes
    google, openai = settings.google, settings.openai
    google_key = provider_key(google, GoogleVision.name)
    openai_key = provider_key(openai, OpenAIVision.name)
    async with open_session() as session:
        providers: list[VisionProvider] = []
        if google_key:
            providers.append(GoogleVision(google, google_key, session=session, max_bytes=limit))
        if openai_key:
            providers.append(OpenAIVision(openai, openai_key, session=session, max_bytes=limit))
        yield tuple(providers)


def provider_faults(settings: VisionSettings) -> list[str]:
    """Return the faults of all key files, a sentence each."""
    faults: list[str] = []
    for provider in (GoogleVision, OpenAIVision):
        try:
            provider_key(getattr(settings, provider.name), provider.name)
        except ConfigurationError as error:
            faults.extend(error.faults)
    return faults
