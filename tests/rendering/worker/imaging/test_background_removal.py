"""Background removal, measured on logos whose alpha is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Geometry
from proxy.domain.worker_protocol import RenderResult
from tests.rendering.worker.imaging import studio
from tests.support.drawing import Logo, draw_badge, draw_logo, logos
from tests.support.photos import photo

LOGOS = pytest.mark.parametrize("logo", logos(), ids=lambda logo: logo.name)
QUALITIES = pytest.mark.parametrize("quality", [None, 90])
GROUND = np.array((255, 0, 160))
LOSSLESS_WEBP = EncoderProfile(Format.WEBP, (("lossless", True),))


def cut(source: Image.Image, quality: int | None = None, **options: Any) -> studio.Pixels:
    """A picture without its background, as ``(height, width, 4)``."""
    encoded = (
        studio.saved(source) if quality is None else studio.saved(source, "JPEG", quality=quality)
    )
    return studio.pixels(studio.rendered(encoded, remove_background=True, **options), "RGBA")


def laid_on(
    ground: np.ndarray[tuple[int], np.dtype[np.int_]], picture: studio.Pixels
) -> studio.Pixels:
    """A picture with alpha on another ground."""
    alpha = picture[..., 3:] / 255
    return (picture[..., :3] * alpha + ground * (1 - alpha)).round().astype(np.uint8)


@LOGOS
@QUALITIES
def test_the_matte_is_the_known_alpha(logo: Logo, quality: int | None) -> None:
    found = cut(logo.picture, quality)[..., 3] / 255
    known = np.asarray(logo.alpha) / 255
    overlap = np.minimum(found, known).sum() / np.maximum(found, known).sum()
    assert overlap >= 0.98
    assert np.abs(found - known).mean() <= 0.02


@LOGOS
@QUALITIES
def test_no_halo_is_left_on_another_ground(logo: Logo, quality: int | None) -> None:
    """Along the edge: the same shape drawn on that ground to begin with, JPEG with 4:2:0."""
    alpha = np.asarray(logo.alpha)[..., None] / 255
    own = np.asarray(logo.picture)[0, 0].astype(float)
    shape = np.asarray(logo.picture) - own * (1 - alpha)
    wanted = shape + GROUND * (1 - alpha)
    off = np.abs(laid_on(GROUND, cut(logo.picture, quality)) - wanted).mean(axis=2)
    edge = (alpha[..., 0] > 0) & (alpha[..., 0] < 1)
    assert off[edge].mean() < (6 if quality is None else 18)


def test_the_matte_of_a_shrunk_logo_has_the_shrunk_alpha() -> None:
    logo = logos(1200)[0]
    found = cut(logo.picture, box=studio.contain(300, 300))[..., 3]
    known = np.asarray(logo.alpha.resize((300, 300), Image.Resampling.LANCZOS))
    assert studio.difference(found, known) < 0.02 * 255


def test_what_the_shape_encloses_stays() -> None:
    ring = next(logo for logo in logos() if logo.name == "ring on white")
    assert cut(ring.picture)[200, 200].tolist() == [255, 255, 255, 255]


def test_an_alpha_of_the_sources_own_is_kept_as_it_is() -> None:
    badge = draw_badge()
    assert np.array_equal(cut(badge)[..., 3], np.asarray(badge)[..., 3])


def test_an_opaque_alpha_does_not_prevent_it() -> None:
    logo = logos()[0]
    assert np.array_equal(cut(logo.picture.convert("RGBA")), cut(logo.picture))


def test_an_image_without_a_flat_background_is_unchanged() -> None:
    source = photo("kodak-23.png")
    ours = studio.pixels(studio.rendered(source, remove_background=True))
    assert np.array_equal(ours, studio.pixels(Image.open(source)))


def _levelled(gain: float, level: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.point(lambda one: round(one * gain + level * (1 - gain)))


def _with_clear_pixel(picture: Image.Image) -> Image.Image:
    clear = picture.convert("RGBA")
    clear.putpixel((5, 5), (0, 0, 0, 0))
    return clear


PALE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "contrast x 0.15": _levelled(0.15, 128),
    "contrast x 0.1": _levelled(0.1, 128),
    "brightness x 0.25": _levelled(0.25, 0),
    "brightness x 0.12": _levelled(0.12, 0),
    "brightness x 0.06": _levelled(0.06, 0),
    "fog": _levelled(0.15, 230),
    "blurred fog": lambda one: _levelled(0.2, 200)(one).filter(ImageFilter.GaussianBlur(8)),
    "one transparent pixel": _with_clear_pixel,
}


@pytest.mark.parametrize("how", PALE)
@pytest.mark.parametrize("name", ["kodak-03.png", "kodak-15.png", "kodak-23.png", "photo-6mp.jpg"])
def test_a_photograph_is_never_announced_or_cut_as_one_with_a_background(
    name: str, how: str
) -> None:
    picture = Image.open(photo(name)).convert("RGB")
    picture.thumbnail((768, 768))
    source = studio.saved(PALE[how](picture), compress_level=1)
    assert not studio.looked_at(source).flat_background


def _faint(ink: str, paper: str) -> Image.Image:
    picture = Image.new("RGB", (400, 300), paper)
    ImageDraw.Draw(picture).ellipse((120, 70, 280, 230), fill=ink)
    return picture


CUT: dict[str, Image.Image] = {
    **{one.name: one.picture.convert("RGB") for one in logos()},
    "light grey on white": _faint("#DCDCDC", "#FFFFFF"),
    "dark grey on black": _faint("#303030", "#000000"),
    "a dark logo": _levelled(0.3, 0)(draw_logo()),
}


@pytest.mark.parametrize("quality", [None, 60])
@pytest.mark.parametrize("name", CUT)
def test_an_announced_cut_is_made(name: str, quality: int | None) -> None:
    encoded: dict[str, Any] = {} if quality is None else {"fmt": "JPEG", "quality": quality}
    source = studio.saved(CUT[name], **encoded)
    assert studio.looked_at(source).flat_background
    shown = studio.pixels(studio.rendered(source, remove_background=True), "RGBA")[..., 3]
    assert 0.2 <= (shown < 128).mean() <= 0.99
    assert shown.max() == 255


def test_a_shape_that_cannot_be_told_from_its_paper_is_not_announced() -> None:
    source = studio.saved(_faint("#F2F2F2", "#FFFFFF"))
    assert not studio.looked_at(source).flat_background


def test_one_transparent_pixel_does_not_prevent_a_cut() -> None:
    source = studio.saved(_with_clear_pixel(logos()[0].picture.convert("RGB")))
    assert studio.looked_at(source).flat_background
    assert (
        studio.pixels(studio.rendered(source, remove_background=True), "RGBA")[..., 3] < 9
    ).any()


def test_a_grey_logo_is_cut_out_too() -> None:
    found = cut(logos()[0].picture.convert("L"))
    assert found[5, 5, 3] == 0
    assert found[152, 144, 3] == 255


def test_a_shape_may_touch_the_border() -> None:
    picture = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(picture).rectangle((100, 200, 180, 299), fill="navy")
    alpha = cut(picture)[..., 3]
    assert alpha[299, 140] == 255
    assert alpha[299, 50] == alpha[299, 250] == 0


def test_the_crop_comes_after_the_cut() -> None:
    """A crop all inside a shape has no ground at its own border, and stays opaque."""
    picture = Image.new("RGB", (400, 100), "white")
    ImageDraw.Draw(picture).rectangle((100, 10, 299, 89), fill="maroon")
    found = cut(picture, plan=Geometry(100, 100, 400, 100, left=150))
    assert (found[20:80, 5:95, 3] == 255).all()
    assert (found[:5, :, 3] == 0).all()


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.AVIF])
def test_the_matte_survives_a_lossy_format(fmt: Format) -> None:
    logo = logos()[1]
    encoded = studio.rendered(studio.saved(logo.picture), fmt, remove_background=True)
    found = studio.pixels(encoded, "RGBA")
    assert studio.difference(found[..., 3], np.asarray(logo.alpha)) < 0.02 * 255
    edge = (found[..., 3] > 60) & (found[..., 3] < 250)
    teal = laid_on(GROUND, found)[edge].astype(float)
    assert (np.abs(teal - np.asarray(logo.picture)[0, 0]).mean(axis=1) > 20).mean() > 0.95


def moving(*pictures: Image.Image) -> bytes:
    """A lossless animation."""
    first, *rest = (picture.convert("RGB") for picture in pictures)
    return studio.saved(first, "WEBP", save_all=True, append_images=rest, lossless=True)


def test_each_frame_of_an_animation_is_cut_out_as_if_it_stood_alone() -> None:
    """Frames are cut several at once; turned over, what is at the top of one meets another's."""
    picture = logos()[0].picture.convert("RGB")
    turned = [
        picture,
        picture.rotate(90),
        picture.rotate(180),
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    ]
    alone = [cut(frame) for frame in turned]
    encoded = studio.rendered(moving(*turned), LOSSLESS_WEBP, remove_background=True, animated=True)
    for shown, known in zip(studio.frames(encoded), alone, strict=True):
        assert studio.difference(shown[..., 3], known[..., 3]) < 0.1
        solid = known[..., 3] == 255
        assert np.abs(shown[solid].astype(int) - known[solid]).max() <= 2


def test_the_ground_of_an_animation_is_that_of_its_first_frame() -> None:
    """What comes on another one later stays, where a ground of each frame's own would flicker."""
    logo = logos()[0].picture.convert("RGB")
    other = Image.new("RGB", logo.size, "orange")
    shown = studio.frames(
        studio.rendered(moving(logo, other), LOSSLESS_WEBP, remove_background=True, animated=True)
    )
    assert shown[0][3, 3, 3] == 0
    assert shown[1][..., 3].min() == 255
    scene = Image.open(photo("kodak-23.png")).resize(logo.size)
    kept = studio.rendered(
        moving(scene, logo), LOSSLESS_WEBP, remove_background=True, animated=True
    )
    assert all(frame[..., 3].min() == 255 for frame in studio.frames(kept))


def test_the_removal_from_1200_pixels_takes_little_processor_time() -> None:
    source = studio.saved(draw_logo().resize((1200, 1200)))
    result, _ = studio.attempt(source, Format.PNG, remove_background=True)
    assert isinstance(result, RenderResult)
    assert result.cpu_s < 2
