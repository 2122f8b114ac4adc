"""Opening: the providers that the settings switch on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.analysis.providers import VisionProvider
from proxy.analysis.providers.google import GoogleVision
from proxy.analysis.providers.http_retry import open_session
from proxy.analysis.providers.openai import OpenAIVision
from proxy.domain.errors import ConfigurationError
from proxy.settings import VisionSettings, provider_key


@asynccontextmanager
async def open_providers(settings: VisionSettings) -> AsyncIterator[tuple[VisionProvider, ...]]:
    """Those that have a key, none without one; their connections are closed in the end.

    Reads key files: to be entered at start.

    Raises:
        ConfigurationError: a key file cannot be read, or holds no key.
    """
    google = provider_key(settings.google, GoogleVision.name)
    openai = provider_key(settings.openai, OpenAIVision.name)
    limit = settings.max_response_bytes
    async with open_session() as session:
        providers: list[VisionProvider] = []
        if google:
            providers.append(
                GoogleVision(settings.google, google, session=session, max_bytes=limit)
            )
        if openai:
            providers.append(
                OpenAIVision(settings.openai, openai, session=session, max_bytes=limit)
            )
        yield tuple(providers)


def provider_faults(settings: VisionSettings) -> list[str]:
    """What is wrong with the key files, each as a sentence; reads them."""
    faults: list[str] = []
    for section, name in (
        (settings.google, GoogleVision.name),
        (settings.openai, OpenAIVision.name),
    ):
        try:
            provider_key(section, name)
        except ConfigurationError as error:
            faults.extend(error.faults)
    return faults
