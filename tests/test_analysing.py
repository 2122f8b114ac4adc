"""Analysing a medium: through real workers, with providers that answer or fail."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from proxy.analysing import Analyst
from proxy.errors import ProviderUnavailable
from proxy.findings import VisionResult
from proxy.settings.vision import TextSettings
from proxy.vision import VisionContext, VisionProvider
from proxy.vision.tesseract import TextReader
from tests.serving import Library, Serving


class Seer:
    """A provider that keeps what it was shown."""

    name = "openai"

    def __init__(self) -> None:
        self.shown: list[tuple[bytes, str, VisionContext]] = []

    async def analyse(
        self, picture: bytes, media_type: str, context: VisionContext
    ) -> VisionResult:
        self.shown.append((picture, media_type, context))
        return VisionResult(self.name, {}, style="Cubist", medium="Gouache", subject="A fish.")


class Blind:
    """A provider that is never there."""

    name = "google"

    async def analyse(
        self, picture: bytes, media_type: str, context: VisionContext
    ) -> VisionResult:
        raise ProviderUnavailable("google is down")


def analyst(server: Serving, *providers: VisionProvider) -> Analyst:
    rooms = server.rooms
    return Analyst(
        workshop=rooms.inspector._workshop,
        limits=rooms.settings.limits.to_limits(),
        providers=providers,
        reader=TextReader(TextSettings(enabled=False)),
        picture_side=500,
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("photo", "photo"), ("logo", "logo"), ("badge", "logo")]
)
async def test_a_medium_is_analysed_by_its_pixels(
    name: str, kind: str, server: Serving, library: Library
) -> None:
    media = await server.rooms.storage.database.find(library.ids[name])
    assert media is not None
    facts = await server.rooms.inspector.facts(media)
    found = await analyst(server).analyse(media, facts)
    assert found.local.kind.name == kind
    assert (found.local.width, found.local.height) == (facts.width, facts.height)
    assert "switched off" in found.reasons["detected_text"]


async def test_providers_get_a_small_picture_and_one_may_fail(
    server: Serving, library: Library
) -> None:
    media = await server.rooms.storage.database.find(library.ids["large"])
    assert media is not None
    seer = Seer()
    facts = await server.rooms.inspector.facts(media)
    found = await analyst(server, seer, Blind()).analyse(media, facts)
    ((picture, media_type, context),) = seer.shown
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.size, media_type) == ("WEBP", (500, 375), "image/webp")
    assert context == VisionContext(media.data_type)
    assert (found.style, found.reasons["google"]) == ("Cubist", "google is down")
