"""Mood keywords follow from the colours of an image."""

from __future__ import annotations

import colorsys

import pytest

from tests.rendering.worker.imaging.analysis.bench import (
    analysed,
    photograph,
    stripes,
)
from tests.support.drawing import (
    CREAM,
    NAVY,
)

Rgb = tuple[int, int, int]


def tinted(hue: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@pytest.mark.parametrize(
    ("colours", "words"),
    [
        ([tinted(20, 0.9, 0.9), tinted(45, 0.9, 0.7)], {"warm", "vibrant", "soft"}),
        ([tinted(200, 0.9, 0.8), tinted(230, 0.8, 0.6)], {"cool", "vibrant"}),
        ([(20, 20, 20), (240, 240, 240)], {"monochrome", "high-contrast"}),
        ([(12, 12, 14), (30, 30, 30)], {"monochrome", "dark", "soft"}),
        ([(245, 245, 245), (225, 225, 225)], {"monochrome", "bright", "soft"}),
        ([tinted(340, 0.2, 1), tinted(200, 0.15, 1)], {"pastel", "bright", "soft"}),
        ([tinted(30, 0.25, 0.5), tinted(60, 0.2, 0.5)], {"muted", "warm", "soft"}),
        ([CREAM, NAVY], {"cool", "high-contrast"}),
    ],
)
def test_moods_are_those_of_the_colours(colours: list[Rgb], words: set[str]) -> None:
    found = analysed(stripes(*((colour, 200) for colour in colours))).mood_keywords
    assert set(found) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kodak-23.png", {"vibrant"}),
        ("kodak-20.png", {"bright", "high-contrast"}),
        ("photo-6mp.jpg", {"warm", "dark"}),
        ("low-contrast.jpg", {"muted", "soft"}),
    ],
)
def test_photographs_have_the_moods_of_their_colours(name: str, words: set[str]) -> None:
    assert words <= set(analysed(photograph(name)).mood_keywords)
