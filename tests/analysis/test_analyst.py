"""Analysing a medium: through real workers, with providers that answer or fail."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any, cast

import pytest
from PIL import Image

from proxy.analysis.analyst import Analyst
from proxy.analysis.providers.http_provider import VisionProvider
from proxy.analysis.providers.openai import OpenAIVision
from proxy.analysis.providers.tesseract import TextReader
from proxy.domain.analysis import VisionResult
from proxy.domain.errors import ProviderUnavailable, SourceMissing
from proxy.settings import WorkerSettings
from proxy.settings.vision import TextSettings
from tests.support.server import Library, Serving

SAID = {
    "choices": [
        {
            "message": {
                "content": json.dumps(
                    {
                        "style": "Cubist",
                        "medium": "Gouache",
                        "subject": "A fish.",
                        "mood_keywords": [],
                        "objects": [],
                        "text": "",
                        "confidence": 0.9,
                    }
                )
            }
        }
    ]
}
"""What a model of OpenAI's answers."""


class Seer:
    """A provider that keeps what it was shown."""

    name = "openai"

    def __init__(self) -> None:
        self.shown: list[tuple[bytes, str, str]] = []

    async def analyse(
        self, image: bytes, media_type: str, data_type: str, sent_size: tuple[int, int]
    ) -> VisionResult:
        self.shown.append((image, media_type, data_type))
        return OpenAIVision.recall(SAID, sent_size)


class Blind:
    """A provider that is never there."""

    name = "google"

    async def analyse(
        self, image: bytes, media_type: str, data_type: str, sent_size: tuple[int, int]
    ) -> VisionResult:
        raise ProviderUnavailable("google is down")


def analyst(server: Serving, *providers: Seer | Blind, reader: TextReader | None = None) -> Analyst:
    services = server.services
    return Analyst(
        dispatcher=services.serving.facts._dispatcher,
        limits=services.settings.limits.to_limits(),
        providers=[cast("VisionProvider[Any]", one) for one in providers],
        reader=reader or TextReader(TextSettings(enabled=False), WorkerSettings()),
        image_side=500,
        find_brand=services.storage.analyses.find_brand,
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("photo", "photo"), ("logo", "logo"), ("badge", "logo")]
)
async def test_a_medium_is_analysed_by_its_pixels(
    name: str, kind: str, server: Serving, library: Library
) -> None:
    media = await server.services.storage.database.find(library.ids[name])
    assert media is not None
    facts = await server.services.serving.facts.facts(media)
    found = await analyst(server).analyse(media, facts)
    assert found.own["kind"]["name"] == kind
    assert (found.own["width"], found.own["height"]) == (facts.width, facts.height)
    assert "switched off" in found.own["reasons"]["detected_text"]


async def test_providers_get_a_small_picture_and_one_may_fail(
    server: Serving, library: Library
) -> None:
    media = await server.services.storage.database.find(library.ids["large"])
    assert media is not None
    seer = Seer()
    facts = await server.services.serving.facts.facts(media)
    found = await analyst(server, seer, Blind()).analyse(media, facts)
    ((picture, media_type, context),) = seer.shown
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.size, media_type) == ("WEBP", (500, 375), "image/webp")
    assert context == media.data_type
    assert found.sent_size("openai") == (500, 375)
    assert found.columns["style_classification"] == "Cubist"
    assert found.own["reasons"]["google"] == "google is down"


async def test_who_has_told_before_is_not_asked_again(server: Serving, library: Library) -> None:
    media = await server.services.storage.database.find(library.ids["photo"])
    assert media is not None
    facts = await server.services.serving.facts.facts(media)
    seer = Seer()
    one = analyst(server, seer, Blind())
    first = await one.analyse(media, facts)
    assert first.pending_providers == ("google",)
    again = await one.analyse(media, facts, stored=first)
    assert len(seer.shown) == 1
    assert again.columns["style_classification"] == "Cubist"
    assert again.sent_size("openai") == first.sent_size("openai")
    assert again.pending_providers == ("google",)


async def test_what_was_said_outlasts_who_said_it(server: Serving, library: Library) -> None:
    """A key may be taken out, and Tesseract too, while another is still waited for."""
    media = await server.services.storage.database.find(library.ids["photo"])
    assert media is not None
    facts = await server.services.serving.facts.facts(media)
    first = await analyst(server, Seer(), Blind()).analyse(media, facts)
    stored = replace(first, columns={**first.columns, "detected_text": "EXIT"})
    again = await analyst(server, Blind()).analyse(media, facts, stored=stored)
    names = ("style_classification", "raw_gpt4_response", "detected_text")
    assert [again.columns[name] for name in names] == ["Cubist", SAID, "EXIT"]
    assert again.pending_providers == ("google",)


class Recorder(TextReader):
    """A reader that keeps the image it gets."""

    seen = b""
    missing = None

    async def read(self, png: bytes) -> str:
        self.seen = png
        return "HELLO"


async def test_text_is_read_in_a_png_of_the_picture(server: Serving, library: Library) -> None:
    media = await server.services.storage.database.find(library.ids["large"])
    assert media is not None
    facts = await server.services.serving.facts.facts(media)
    reader = Recorder(TextSettings(), WorkerSettings())
    found = await analyst(server, reader=reader).analyse(media, facts)
    assert found.columns["detected_text"] == "HELLO"
    with Image.open(io.BytesIO(reader.seen)) as opened:
        assert (opened.format, opened.size) == ("PNG", (1600, 1200))


async def test_a_picture_that_is_gone_is_an_error_of_its_own(
    server: Serving, library: Library
) -> None:
    media = await server.services.storage.database.find(library.ids["photo"])
    assert media is not None
    facts = await server.services.serving.facts.facts(media)
    with pytest.raises(SourceMissing):
        await analyst(server).analyse(replace(media, bulk_path="gone", library_path=None), facts)
