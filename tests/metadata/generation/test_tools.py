"""Names of generators in names of software."""

from __future__ import annotations

import pytest

from proxy.metadata.generation.tools import tool_of


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Adobe Firefly 2.0", "firefly"),
        ("DALL-E 3", "dall-e"),
        ("DALL·E", "dall-e"),
        ("OpenAI-API", "dall-e"),
        ("Midjourney 6.1", "midjourney"),
        ("Made with Google AI", "google"),
        ("Bing Image Creator", "microsoft"),
        ("Stable Diffusion XL", "stable_diffusion"),
        ("Leonardo.Ai", "other"),
        ("Ideogram AI", "other"),
        ("FLUX.1 [dev]", "other"),
        ("Grok Image Prompt", "other"),
    ],
)
def test_generators_are_named(text: str, source: str) -> None:
    tool = tool_of(text)
    assert tool is not None
    assert tool.source.value == source


@pytest.mark.parametrize(
    "text",
    [
        "Adobe Photoshop 26.0",
        "Sora Kim",
        "Dallas Express",
        "GIMP 2.10",
        "Fireflyer",
        "Leonardo da Vinci",
        "HDR+ 1.0.345",
        "Meta",
        "",
    ],
)
def test_other_software_and_people_are_not(text: str) -> None:
    assert tool_of(text) is None


def test_a_vendor_of_cameras_and_editors_proves_nothing_alone() -> None:
    for text in ("Google", "Microsoft Windows Photo Viewer"):
        tool = tool_of(text)
        assert tool is not None
        assert tool.only_generates is False
