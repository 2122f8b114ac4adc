"""Names of generators in names of software."""

from __future__ import annotations

import re

import pytest

from proxy.metadata.generation.tools import _TOOLS, tool_of


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
        ("Microsoft_Responsible_AI/1.0", "microsoft"),
        ("Microsoft Responsible AI", "microsoft"),
        ("Adobe_Firefly/1.0", "firefly"),
        ("Firefly Image 3", "firefly"),
        ("DALLE 3", "dall-e"),
        ("Azure OpenAI DALL-E", "dall-e"),
        ("gpt-image-1", "dall-e"),
        ("Sora", "dall-e"),
        ("sora-2-pro", "dall-e"),
        ("Imagen 3", "google"),
        ("imagen-4.0-ultra-generate-001", "google"),
        ("Google Imagen", "google"),
        ("Google Gemini", "google"),
        ("gemini-2.5-flash-image", "google"),
        ("Nano Banana Pro", "google"),
        ("Invoke_AI", "invokeai"),
        ("Draw Things 1.20240101.0 (2)", "stable_diffusion"),
        ("Ideogram 3.0", "other"),
        ("flux1-dev", "other"),
        ("FLUX 1.1 [pro]", "other"),
        ("Recraft V3", "other"),
        ("Playground v2.5", "other"),
        ("Seedream 4.0", "other"),
        ("Jimeng AI", "other"),
    ],
)
def test_generators_are_named(text: str, source: str) -> None:
    tool = tool_of(text)
    assert tool is not None
    assert (tool.source.value, tool.only_generates) == (source, True)


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
        "Captura de Imagen 2.1",
        "Editor de imagen 3",
        "HP Imagen 2",
        "Imagenomic Portraiture",
        "Leonardo DRS",
        "f.lux",
        "Flux 2",
        "Flux Capacitor Camera 2",
        "FluxCD 2.1",
        "Gemini Photos",
        "Gemini North",
        "Gemini 2 Duplicate Finder",
        "Dreamweaver",
        "Adobe Dreamweaver 2021",
        "Sora Camera",
        "Soracom 2",
        "Firefly (Logitech)",
        "Firefly 8S Camera",
        "FLIR FireFly S",
        "Razer Firefly V2",
        "Foto dalle Alpi",
        "Carreaux et dalle 3D",
        "Ideogram Editor 2",
        "Recraft my photos",
        "Krea",
        "Grok JPEG 2000 10.0",
        "Grokker 2",
        "Runway Camera",
        "Swift Playground v5",
        "We draw things for you",
        "DreamStudio Photography",
        "Jimeng Wang",
        "Seedreamer",
        "Microsoftish",
        "Kling Klang Scanner",
        "Luma Display",
        "Pika Backup",
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


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Imagen", "google"),
        ("Gemini", "google"),
        ("Gemini 2", "google"),
        ("Firefly 8", "firefly"),
        ("Grok 10.0.1", "other"),
    ],
)
def test_a_name_that_other_products_have_proves_nothing_alone(text: str, source: str) -> None:
    tool = tool_of(text)
    assert tool is not None
    assert (tool.source.value, tool.only_generates) == (source, False)


def test_no_pattern_waits_for_what_the_search_replaces() -> None:
    for tool in _TOOLS:
        assert "_" not in tool.pattern.pattern
        literal = re.sub(r"\\[A-Z]", "", tool.pattern.pattern)
        assert literal == literal.lower()
