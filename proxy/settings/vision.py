"""Settings of image analysis by external services, and of text recognition."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from proxy.settings.secrets import check_header_key, checked, stored_key
from proxy.settings.sections import MAX_BYTES, MIB, PositiveSeconds, Section

_LANGUAGES = re.compile(r"[A-Za-z_]+(\+[A-Za-z_]+)*", re.ASCII)
_API_URL = r"^https?://[^\s?#]+$"


class ProviderSettings(Section):
    """A paid service that analyses images. It is used if it has a key."""

    exclusive = ("key", "key_file")

    key: Annotated[str, checked(check_header_key), Field(repr=False)] = ""
    """API key. Set it in the environment (SMARTSERVE_VISION__GOOGLE__KEY,
    SMARTSERVE_VISION__OPENAI__KEY, SMARTSERVE_VISION__EMBEDDING__KEY) or in a file; it is never
    printed."""
    key_file: str = Field("", repr=False)
    """File that contains the key. Read at start."""
    base_url: str = Field("", pattern=_API_URL)
    """Address of the API."""
    timeout_s: PositiveSeconds = 30
    """Time limit of one request."""
    # Every attempt counts towards max_requests_per_day.
    max_attempts: int = Field(3, ge=1, le=10)
    """Maximum number of attempts if a request fails temporarily."""
    backoff_s: PositiveSeconds = 0.5
    """Maximum of the random delay before the second attempt. It doubles with each attempt."""
    max_backoff_s: PositiveSeconds = 30
    """Upper limit of that delay. If the provider requests a longer one, the request is given
    up."""
    max_requests_per_day: int = Field(1000, ge=0, le=10**12)
    """Maximum number of requests of each process per day (UTC), every attempt counted. 0 sends
    none."""
    max_usd_per_day: float = Field(5.0, ge=0, le=1e9)
    """Maximum cost per day in US dollars, by the prices below."""


class GoogleSettings(ProviderSettings):
    """Google Cloud Vision: labels, objects, text, logos of brands, and unsafe content."""

    base_url: str = Field("https://vision.googleapis.com", pattern=_API_URL)
    max_results: int = Field(20, ge=1, le=100)
    """Maximum number of labels, of objects and of logos."""
    usd_per_request: float = Field(0.00675, ge=0, le=1e9)
    """Price of a request with five features, in US dollars. See Google's price list."""


class OpenAISettings(ProviderSettings):
    """A vision model with an OpenAI-compatible API: style, medium, subject, objects, brands."""

    base_url: str = Field("https://api.openai.com/v1", pattern=_API_URL)
    """Address of the API. vLLM, Ollama and others are compatible."""
    model: str = Field("gpt-4o-mini", min_length=1, max_length=200)
    """Name of the model."""
    # "low" costs the least: a fixed number of tokens for an image of any size.
    detail: Literal["low", "high", "auto"] = "auto"
    """Resolution at which the model reads the image."""
    max_output_tokens: int = Field(800, ge=50, le=100_000)
    """Maximum number of tokens of an answer."""
    max_tokens_per_day: int = Field(2_000_000, ge=0, le=10**12)
    """Maximum number of tokens per day, requests and answers together."""
    usd_per_million_input: float = Field(0.15, ge=0, le=1e9)
    """Price of a million input tokens in US dollars."""
    usd_per_million_output: float = Field(0.60, ge=0, le=1e9)
    """Price of a million output tokens in US dollars."""


class EmbeddingSettings(ProviderSettings):
    """A model that makes a vector of each image, for the search of similar images.

    Its API is that of vLLM, which serves CLIP, SigLIP and others from model files. If your server
    needs no key, set any.
    """

    base_url: str = Field("http://127.0.0.1:8000/v1", pattern=_API_URL)
    """Address of the API."""
    model: str = Field("openai/clip-vit-base-patch32", min_length=1, max_length=200)
    """Name of the model. Images with vectors of another model are not found any more."""
    usd_per_request: float = Field(0.0, ge=0, le=1e9)
    """Price of a request in US dollars."""


class TextSettings(Section):
    """Text recognition with Tesseract, if it is installed."""

    enabled: bool = True
    """Runs Tesseract. If false, text comes only from the services above."""
    program: str = Field("tesseract", min_length=1)
    """Name or path of the program. It must be a binary, not a script, and readable for everyone: it
    runs in the sandbox of the workers."""
    tessdata: str = ""
    """Directory of the language files, the only data that Tesseract may read. Empty: searched in
    the usual places."""
    languages: str = "eng"
    """Expected languages by Tesseract's names, joined by +: "eng+deu"."""
    timeout_s: PositiveSeconds = 20
    """Limit of the CPU time of the program. On a busy machine it may take four times as long."""
    max_memory_bytes: int = Field(1024 * MIB, ge=128 * MIB, le=MAX_BYTES)
    """Maximum address space of the program."""
    nice: int = Field(19, ge=0, le=19)
    """CPU priority of the program, as nice(1). With 19, images are served first; use a lower value
    if other programs always use all processors."""

    @field_validator("languages")
    @classmethod
    def _check_languages(cls, languages: str) -> str:
        # The value becomes an argument of the program, which also accepts paths.
        if not _LANGUAGES.fullmatch(languages):
            raise ValueError("must be language names joined by +")
        return languages


class VisionSettings(Section):
    """Analysis of new images by external services.

    Without a key no service is used. The fields of the analysis that need a model then remain empty
    and state the reason.
    """

    image_side: int = Field(1024, ge=64, le=4096)
    """Length of the longer side of the WebP image that is sent, in pixels."""
    max_response_bytes: int = Field(4 * MIB, ge=1024, le=MAX_BYTES)
    """Maximum size of an answer."""
    google: GoogleSettings = GoogleSettings()
    openai: OpenAISettings = OpenAISettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    text: TextSettings = TextSettings()


def provider_key(section: ProviderSettings, name: str) -> str:
    """Return the key of a provider from the settings or its file; empty if none is set.

    Blocking: call it at start.

    Raises:
        ConfigurationError: the file cannot be read, or contains no valid key.
    """
    setting = f"vision.{name}.key_file"
    return stored_key(section.key, section.key_file, setting=setting, check=check_header_key)
