"""All providers, and those that have a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from proxy.analysis.providers.embedding import EmbeddingModel
from proxy.analysis.providers.google import GoogleVision
from proxy.analysis.providers.openai import OpenAIVision
from proxy.domain.analysis import VisionResult, provider_values
from proxy.domain.errors import AnalysisError, ConfigurationError
from proxy.runtime.http_client import open_session
from proxy.settings import VisionSettings, provider_key

PROVIDERS = (GoogleVision, OpenAIVision)
"""Those whose answers are stored in columns of ``media_ai_analysis``."""
_Provider = GoogleVision | OpenAIVision | EmbeddingModel
_ALL: tuple[type[_Provider], ...] = (*PROVIDERS, EmbeddingModel)


@asynccontextmanager
async def open_providers(settings: VisionSettings) -> AsyncIterator[list[_Provider]]:
    """Yield the providers that have a key, and close their connections after the block.

    Reads key files, so it blocks briefly.

    Raises:
        ConfigurationError: a key file cannot be read, or contains no key.
    """
    providers: list[_Provider] = []
    async with open_session() as session:
        for provider in _ALL:
            section = getattr(settings, provider.name)
            # Without a key the provider is switched off.
            if key := provider_key(section, provider.name):
                limit = settings.max_response_bytes
                providers.append(provider(section, key, session=session, max_bytes=limit))
        yield providers


def values_of_answers(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `provider_values` from the answers in ``media_ai_analysis``.

    Analyses of older versions, and of other programs, have the answers only. Empty if there are
    none.
    """
    found: dict[str, VisionResult] = {}
    for provider in PROVIDERS:
        # An answer that cannot be read has no values; the other provider's count.
        with suppress(AnalysisError):
            if (raw := columns[provider.column]) is not None:
                found[provider.name] = provider.recall(raw)
    return provider_values(found) if found else {}


def provider_faults(settings: VisionSettings) -> list[str]:
    """Return the faults of all key files, a sentence each."""
    faults: list[str] = []
    for provider in _ALL:
        try:
            provider_key(getattr(settings, provider.name), provider.name)
        # All faults at once, so that they are corrected in one go.
        except ConfigurationError as error:
            faults.extend(error.faults)
    return faults
