"""What is asked elsewhere about a picture: two services, and a program that reads text."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from proxy.settings.base import PositiveSeconds, Section
from proxy.settings.secrets import read_key, require_one

_MIB = 1024 * 1024
_KEY = re.compile(r"[!-~]+")
"""ASCII without spaces: what a header can carry."""
_LANGUAGES = re.compile(r"[A-Za-z_]+(\+[A-Za-z_]+)*", re.ASCII)

Money = float
"""US dollars."""


class ProviderSettings(Section):
    """A service that looks at pictures for money; a key switches it on."""

    key: str = Field("", repr=False)
    key_file: str = Field("", repr=False)
    base_url: str = Field("", pattern=r"^https?://[^\s?#]+$")
    timeout_s: PositiveSeconds = 30
    max_attempts: int = Field(3, ge=1, le=10)
    first_wait_s: PositiveSeconds = 0.5
    max_wait_s: PositiveSeconds = 30
    max_requests_per_day: int = Field(1000, ge=0)
    max_usd_per_day: Money = Field(5.0, ge=0)

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: str) -> str:
        if key:
            check_header_key(key)
        return key

    @model_validator(mode="after")
    def _check(self) -> ProviderSettings:
        require_one(self, "key", "key_file")
        return self


class GoogleSettings(ProviderSettings):
    """Google Cloud Vision."""

    base_url: str = Field("https://vision.googleapis.com", pattern=r"^https?://[^\s?#]+$")
    max_results: int = Field(20, ge=1, le=100)
    usd_per_request: Money = Field(0.00825, ge=0)


class OpenAISettings(ProviderSettings):
    """A model that takes pictures behind an API like OpenAI's."""

    base_url: str = Field("https://api.openai.com/v1", pattern=r"^https?://[^\s?#]+$")
    model: str = Field("gpt-4o-mini", min_length=1, max_length=200)
    detail: Literal["low", "high", "auto"] = "auto"
    max_output_tokens: int = Field(800, ge=50, le=100_000)
    max_tokens_per_day: int = Field(2_000_000, ge=0)
    usd_per_million_input: Money = Field(0.15, ge=0)
    usd_per_million_output: Money = Field(0.60, ge=0)


class TextSettings(Section):
    """Tesseract, which reads text where it is installed."""

    enabled: bool = True
    program: str = Field("tesseract", min_length=1)
    languages: str = "eng"
    timeout_s: PositiveSeconds = 20
    max_memory_bytes: int = Field(1024 * _MIB, ge=128 * _MIB)

    @field_validator("languages")
    @classmethod
    def _check_languages(cls, languages: str) -> str:
        if not _LANGUAGES.fullmatch(languages):
            message = "must be names of languages joined by +"
            raise ValueError(message)
        return languages


class VisionSettings(Section):
    """Who is asked about a picture beside its own pixels."""

    picture_side: int = Field(1024, ge=64, le=4096)
    max_response_bytes: int = Field(4 * _MIB, ge=1024)
    google: GoogleSettings = GoogleSettings()
    openai: OpenAISettings = OpenAISettings()
    text: TextSettings = TextSettings()


def check_header_key(key: str) -> None:
    """Return for a key that a header can carry; it is never repeated.

    Raises:
        ValueError: it cannot.
    """
    if not _KEY.fullmatch(key):
        raise ValueError("must be ASCII without spaces")


def provider_key(section: ProviderSettings, name: str) -> str:
    """The key of a provider, from the settings or from its file; empty where none is set.

    Reads a file: to be called at start.

    Raises:
        ConfigurationError: the file cannot be read, or holds no key that can be sent.
    """
    if not section.key_file:
        return section.key
    return read_key(section.key_file, setting=f"vision.{name}.key_file", check=check_header_key)
