"""Kinds of images and moods are recognised by statistics."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

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


@pytest.mark.slow
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


LINE = "The quick brown fox jumps over the lazy dog"


def written(
    *lines: str,
    size: int = 24,
    ink: str = "black",
    paper: str = "white",
    shape: tuple[int, int] = (800, 600),
) -> Image.Image:
    """Lines of text on a sheet."""
    picture = Image.new("RGB", shape, paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for at, line in enumerate(lines):
        draw.text((30, 30 + at * size * 1.5), line, fill=ink, font=font)
    return picture


DOCUMENTS = {
    "ten lines": written(*[LINE] * 10),
    "three lines": written(*[LINE] * 3),
    "one line": written(LINE),
    "one line on a strip": written(LINE, shape=(620, 100)),
    "two words": written("Hello world"),
    "two large words": written("Hello world", size=60, shape=(420, 140)),
    "tiny text": written(*[LINE] * 20, size=10),
    "huge text": written("Sale now", "on here!", size=250, shape=(1600, 1000)),
    "white on black": written(*[LINE] * 8, ink="white", paper="black"),
    "dark grey on cream": written(*[LINE] * 8, ink="#3C3C3C", paper="#FAF5E6"),
    "blue on white": written(*[LINE] * 4, ink="#0000C8"),
    "white on blue": written(*[LINE] * 8, ink="white", paper="#003CA0"),
}


@pytest.mark.parametrize("quality", [None, 80])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_of_text_are_a_document(name: str, quality: int | None) -> None:
    saved: dict[str, Any] = {} if quality is None else {"fmt": "JPEG", "quality": quality}
    kind = analysed(studio.saved(DOCUMENTS[name], **saved)).kind
    assert kind.name == "document", kind.reason


def _emblem(caption: str) -> Image.Image:
    picture = written(shape=(600, 600))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((150, 50, 450, 350), fill="black")
    draw.ellipse((220, 120, 380, 280), fill="white")
    draw.text((110, 420), caption, fill="black", font=ImageFont.load_default(50))
    return picture


@pytest.mark.parametrize(
    "picture",
    [_emblem(""), _emblem("ACME WIDGETS"), written("Acme", size=200), written("Sale!", ink="red")],
)
def test_a_shape_with_or_without_its_name_is_a_logo(picture: Image.Image) -> None:
    kind = analysed(picture).kind
    assert kind.name == "logo", kind.reason
