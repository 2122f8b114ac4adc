"""What an image of a web site is for follows from its shape and from where its detail is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.rendering.worker.imaging.analysis.bench import analysed, page, photograph, screen
from tests.support.drawing import draw_badge, draw_logo
from tests.support.photos import photo

Picture = Image.Image


def gradient(width: int, height: int) -> Picture:
    x, y = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    levels = (x * [200, 40, 90] + (1 - x) * [20, 60, 200]) * (0.6 + 0.4 * y)
    return Image.fromarray(levels.astype(np.uint8))


def paper(width: int, height: int, *, blur: float = 0) -> Picture:
    """A grainy surface."""
    grain = np.random.default_rng(1).normal(128, 12 + 16 * blur, (height, width, 3))
    sheet = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    return sheet.filter(ImageFilter.GaussianBlur(blur)) if blur else sheet


def dots(width: int, height: int, step: int = 60) -> Picture:
    sheet = Image.new("RGB", (width, height), "#fafafa")
    draw = ImageDraw.Draw(sheet)
    for x in range(step // 2, width, step):
        for y in range(step // 2, height, step):
            draw.circle((x, y), step // 6, fill="#9999cc")
    return sheet


def titled(sheet: Picture) -> Picture:
    """With a title in the left half."""
    font = ImageFont.load_default(sheet.height // 5)
    place = sheet.width // 10, sheet.height * 2 // 5
    ImageDraw.Draw(sheet).text(place, "Summer Art Festival", fill="white", font=font)
    return sheet


def button(width: int, height: int) -> Picture:
    sheet = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), height // 4, fill="#0969da")
    draw.text(
        (width // 4, height // 4), "Buy", fill="white", font=ImageFont.load_default(height / 2)
    )
    return sheet


def crop(name: str, width: int, height: int) -> Picture:
    """The middle of a photograph, enlarged to this size."""
    whole = photograph(name)
    part = whole.width * height // width
    top = (whole.height - part) // 2
    return whole.crop((0, top, whole.width, top + part)).resize((width, height))


CASES: dict[str, tuple[str, Callable[[], Picture]]] = {
    "a gradient": ("background", lambda: gradient(1920, 1080)),
    "a wide gradient": ("background", lambda: gradient(1920, 400)),
    "one colour": ("background", lambda: Image.new("RGB", (1600, 900), "#123456")),
    "grain": ("background", lambda: paper(1600, 1000)),
    "clouds of grain": ("background", lambda: paper(1600, 1000, blur=3)),
    "a pattern of dots": ("background", lambda: dots(1600, 900)),
    "a tile of a pattern": ("background", lambda: dots(320, 320, 40)),
    "a blurred photograph": (
        "background",
        lambda: photograph("kodak-23.png").filter(ImageFilter.GaussianBlur(25)),
    ),
    "a title on a gradient": ("banner", lambda: titled(gradient(1500, 500))),
    "a title on one colour": ("banner", lambda: titled(Image.new("RGB", (1500, 500), "#123456"))),
    "a leaderboard": ("banner", lambda: titled(gradient(728, 90))),
    "a wide photograph": ("banner", lambda: crop("kodak-05.png", 1600, 500)),
    "a dark wide photograph": (
        "banner",
        lambda: crop("kodak-23.png", 1600, 500).point(lambda level: level // 6),
    ),
    "a photograph": ("content", lambda: photograph("kodak-03.png")),
    "an even photograph": ("content", lambda: photograph("kodak-05.png")),
    "a small photograph": ("content", lambda: photograph("kodak-20.png").resize((300, 200))),
    "a portrait": ("content", lambda: photograph("kodak-15.png").crop((200, 0, 540, 512))),
    "a tall screenshot": ("content", lambda: screen().crop((0, 0, 300, 800))),
    "a screenshot": ("content", screen),
    "a page of text": ("content", page),
    "a large logo": ("content", draw_logo),
    "a large transparent badge": ("content", draw_badge),
    "an icon": ("interface", lambda: draw_logo().resize((32, 25))),
    "an icon from a photograph": ("interface", lambda: photograph("kodak-03.png").resize((48, 32))),
    "a button": ("interface", lambda: button(240, 80)),
    "a wide button": ("interface", lambda: button(500, 60)),
    "a spacer": ("interface", lambda: Image.new("RGB", (200, 10), "white")),
    "a small logo": ("interface", lambda: draw_logo().resize((360, 280))),
    "one pixel": ("interface", lambda: Image.new("RGB", (1, 1))),
}


@pytest.mark.parametrize("name", CASES)
def test_an_image_of_a_site_has_a_class(name: str) -> None:
    expected, draw = CASES[name]
    found = analysed(draw())
    assert found.content_class.name == expected, (found.content_class, found.kind)
    assert found.content_class.reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flowers.jpg", "background"),
        ("photo-6mp.jpg", "content"),
        ("photo.avif", "banner"),
        ("scan.tiff", "content"),
        ("kodak-13.png", "content"),
        ("drawing-alpha.png", "content"),
    ],
)
def test_a_real_image_has_a_class(name: str, expected: str) -> None:
    found = analysed(photo(name))
    assert found.content_class.name == expected, (found.content_class, found.kind)


@pytest.mark.parametrize("size", [(2000, 3), (3, 2000), (1, 900), (65, 1)])
def test_a_strip_has_a_class(size: tuple[int, int]) -> None:
    assert analysed(paper(*size)).content_class.name in {"banner", "content", "interface"}
