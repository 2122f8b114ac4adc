"""Kinds of images and moods are recognised by statistics."""

from __future__ import annotations

import colorsys

import pytest
from PIL import Image

from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import (
    analysed,
    on_white,
    page,
    photograph,
    screen,
    stripes,
)
from tests.support.drawing import (
    CREAM,
    NAVY,
    Logo,
    draw_badge,
    draw_logo,
    logos,
)
from tests.support.photos import photo

PHOTOGRAPHS = (
    *("cmyk.jpg", "exif-orientation-6.jpg", "kodak-03.png", "kodak-05.png", "kodak-13.png"),
    *("kodak-15.png", "kodak-20.png", "kodak-23.png", "low-contrast.jpg", "photo-6mp.jpg"),
    *("photo.webp", "flowers.jpg", "scan.tiff"),
)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_recognised(name: str) -> None:
    kind = analysed(photo(name)).kind
    assert kind.name == "photo", kind.reason


@pytest.mark.parametrize("quality", [10, 20, 50])
@pytest.mark.parametrize("name", ["kodak-03.png", "kodak-20.png", "kodak-23.png"])
def test_a_photograph_is_recognised_at_any_compression(name: str, quality: int) -> None:
    source = studio.saved(photograph(name), "JPEG", quality=quality)
    assert analysed(source).kind.name == "photo"


@pytest.mark.parametrize("name", ["kodak-03.png", "kodak-20.png", "kodak-23.png"])
def test_a_photograph_on_a_white_background_is_no_logo(name: str) -> None:
    kind = analysed(studio.saved(on_white(photograph(name)), "JPEG", quality=85)).kind
    assert kind.name == "photo", kind.reason


def test_a_grey_photograph_is_a_photograph() -> None:
    assert analysed(photograph("kodak-23.png").convert("L")).kind.name == "photo"


@pytest.mark.parametrize("logo", logos(), ids=lambda logo: logo.name)
@pytest.mark.parametrize("quality", [None, 90, 60])
def test_a_logo_is_recognised(logo: Logo, quality: int | None) -> None:
    source = (
        studio.saved(logo.picture)
        if quality is None
        else studio.saved(logo.picture, "JPEG", quality=quality)
    )
    kind = analysed(source).kind
    assert kind.name == "logo", kind.reason
    assert "flat background" in kind.reason


def test_the_bundled_drawings_are_logos() -> None:
    assert analysed(draw_logo()).kind.name == "logo"
    badge = analysed(draw_badge()).kind
    assert (badge.name, "transparent background" in badge.reason) == ("logo", True)


def test_a_flag_and_a_screen_are_graphics() -> None:
    assert analysed(photo("flag.png")).kind.name == "graphic"
    assert analysed(screen()).kind.name == "graphic"


@pytest.mark.parametrize("noise", [0, 3, 8])
def test_a_typed_page_is_a_document(noise: float) -> None:
    kind = analysed(studio.saved(page(noise=noise), "JPEG", quality=80)).kind
    assert kind.name == "document", kind.reason


def test_an_image_of_one_colour_is_plain() -> None:
    assert analysed(Image.new("RGB", (300, 200), "teal")).kind.name == "plain"
    assert analysed(photo("prophoto.png")).kind.name == "plain"


def test_transparency_alone_is_a_graphic() -> None:
    kind = analysed(Image.new("RGBA", (90, 90), (1, 2, 3, 40))).kind
    assert (kind.name, kind.reason) == ("graphic", "it has no opaque pixels")


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
