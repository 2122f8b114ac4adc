"""The facts of a source."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from proxy.domain import negotiation
from proxy.domain.formats import Format
from proxy.domain.media import ProbeResult
from tests.rendering.worker.imaging import studio
from tests.support.drawing import Logo, draw_badge, draw_logo, logos
from tests.support.photos import case, photo

KODAK = ["kodak-03.png", "kodak-05.png", "kodak-13.png", "kodak-15.png", "kodak-20.png"]


def spotted(width: int, height: int, *, x: float, y: float) -> bytes:
    """A dull ground with one salient spot, its place given in fractions."""
    picture = Image.new("RGB", (width, height), (120, 125, 130))
    radius = min(width, height) * 0.05
    middle = (x * width, y * height)
    box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
    ImageDraw.Draw(picture).ellipse(box, fill=(230, 120, 60))
    return studio.saved(picture)


def test_hash_and_size_are_those_of_the_whole_file() -> None:
    content = photo("photo-6mp.jpg").read_bytes()
    known = studio.looked_at(content)
    assert known.content_hash == hashlib.sha256(content).hexdigest()
    assert known.byte_size == len(content)


@pytest.mark.parametrize(
    ("name", "source_type", "width", "height", "pages"),
    [
        ("photo-6mp.jpg", "jpeg", 2725, 2225, 1),
        ("exif-orientation-5.jpg", "jpeg", 450, 600, 1),
        ("exif-orientation-6.jpg", "jpeg", 600, 450, 1),
        ("gain-map.jpg", "jpeg", 3840, 2160, 1),
        ("kodak-23.png", "png", 768, 512, 1),
        ("photo.webp", "webp", 1024, 772, 1),
        ("animated.webp", "webp", 80, 80, 9),
        ("animated.gif", "gif", 80, 80, 30),
        ("photo.avif", "avif", 2048, 858, 1),
        ("scan.tiff", "tiff", 246, 345, 1),
    ],
)
def test_type_upright_size_and_pages_are_known(
    name: str, source_type: str, width: int, height: int, pages: int
) -> None:
    known = studio.looked_at(photo(name), strict=True)
    assert (known.source_type, known.width, known.height) == (source_type, width, height)
    assert known.pages == pages


@pytest.mark.parametrize("name", ["alpha-2048.png", "drawing-alpha.png", "animated.gif"])
def test_transparent_images_have_alpha_and_need_no_matte(name: str) -> None:
    known = studio.looked_at(photo(name))
    assert known.has_alpha
    assert known.flat_background


def test_an_alpha_that_is_opaque_throughout_is_none() -> None:
    assert not studio.looked_at(studio.saved(Image.new("RGBA", (900, 900), "teal"))).has_alpha
    assert not studio.looked_at(photo("display-p3.png")).has_alpha


ALPHAS = {
    # Width and height of a transparent box in 800 x 500 pixels, and the alpha of the rest.
    "one pixel": ((1, 1), 255, False),
    "a hundred pixels": ((10, 10), 255, False),
    "two in a thousand": ((40, 20), 255, True),
    "a tenth": ((200, 200), 255, True),
    "everything slightly": ((0, 0), 250, True),
}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("name", ALPHAS)
def test_transparency_counts_from_half_a_thousandth_of_the_area(name: str, mode: str) -> None:
    (width, height), alpha, expected = ALPHAS[name]
    picture = Image.new("RGBA", (800, 500), (10, 20, 30, alpha))
    picture.paste((0, 0, 0, 0), (300, 200, 300 + width, 200 + height))
    assert studio.looked_at(studio.saved(picture.convert(mode))).has_alpha is expected


def test_one_transparent_pixel_makes_no_photograph_a_png() -> None:
    """Formats with alpha keep it; the fallback is a JPEG, and lies on white."""
    source = case("A10-photo-one-transparent-pixel.png")
    known = studio.looked_at(source)
    transparent = negotiation.fallback(transparent=known.has_alpha, animated=False)
    assert transparent is Format.JPEG
    assert len(studio.rendered(source, transparent)) < 150_000
    for fmt in (Format.PNG, Format.WEBP, Format.AVIF):
        assert studio.pixels(studio.rendered(source, fmt), "RGBA")[..., 3].min() < 128


def test_a_background_is_removed_in_spite_of_one_transparent_pixel() -> None:
    picture = draw_logo().convert("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    known = studio.looked_at(studio.saved(picture))
    assert (known.has_alpha, known.flat_background) == (False, True)
    ours = studio.rendered(studio.saved(picture), remove_background=True)
    assert studio.looked_at(ours).has_alpha


def test_alpha_in_a_later_frame_is_found() -> None:
    still, hole = Image.new("RGBA", (60, 60), "red"), Image.new("RGBA", (60, 60), "red")
    hole.putpixel((30, 30), (0, 0, 0, 0))
    source = studio.saved(still, "WEBP", save_all=True, append_images=[hole], lossless=True)
    assert studio.looked_at(source).has_alpha


@pytest.mark.parametrize("name", [*KODAK, "photo-6mp.jpg", "flowers.jpg", "flag.png", "scan.tiff"])
def test_a_photograph_has_no_flat_background(name: str) -> None:
    assert not studio.looked_at(photo(name)).flat_background


@pytest.mark.parametrize("logo", logos(), ids=lambda logo: logo.name)
@pytest.mark.parametrize("quality", [None, 90, 60])
def test_a_logo_has_a_flat_background(logo: Logo, quality: int | None) -> None:
    picture = logo.picture
    source = (
        studio.saved(picture) if quality is None else studio.saved(picture, "JPEG", quality=quality)
    )
    assert studio.looked_at(source).flat_background


def test_an_image_of_one_colour_has_nothing_to_cut_out() -> None:
    assert not studio.looked_at(studio.saved(Image.new("RGB", (90, 90), "teal"))).flat_background


def test_the_bundled_drawings_are_what_they_are_for() -> None:
    logo, badge = (studio.looked_at(studio.saved(draw())) for draw in (draw_logo, draw_badge))
    assert (logo.has_alpha, logo.flat_background) == (False, True)
    assert (badge.has_alpha, badge.flat_background) == (True, True)


@pytest.mark.parametrize(("width", "height"), [(800, 600), (400, 1000), (2000, 700)])
@pytest.mark.parametrize(("x", "y"), [(0.15, 0.2), (0.5, 0.5), (0.8, 0.3), (0.35, 0.8)])
def test_the_focus_is_on_the_one_salient_spot(width: int, height: int, x: float, y: float) -> None:
    focus = studio.looked_at(spotted(width, height, x=x, y=y)).focus
    assert focus is not None
    assert (focus.x, focus.y) == pytest.approx((x, y), abs=0.04)


def test_the_focus_of_a_rotated_image_is_that_of_the_upright_one() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = studio.opened(spotted(800, 600, x=0.2, y=0.3))
    focus = studio.looked_at(studio.saved(picture, exif=exif)).focus
    assert focus is not None
    assert (focus.x, focus.y) == pytest.approx((0.7, 0.2), abs=0.04)


@pytest.mark.parametrize("width", [1, 2, 3, 5000])
def test_an_image_of_few_pixels_has_facts(width: int) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1, width, 3), np.uint8)
    known = studio.refused_or_known(studio.saved(Image.fromarray(noise)))
    assert isinstance(known, ProbeResult)
    assert (known.width, known.height) == (width, 1)
    assert known.focus is not None
    assert 0 <= known.focus.x <= 1
