"""Colour: everything comes out as sRGB of 8 bits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from proxy.domain.formats import Format
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo


def as_srgb(path: Path) -> Image.Image:
    """The colours of a picture as LittleCMS converts them, relative colorimetric."""
    picture = Image.open(path)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    opaque = picture if picture.mode == "CMYK" else picture.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(
        opaque, profile, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
    )
    assert converted is not None
    return converted


@pytest.mark.parametrize("name", ["display-p3.png", "prophoto.png"])
def test_a_wide_gamut_is_converted_to_srgb(name: str) -> None:
    ours = studio.pixels(studio.rendered(photo(name)))
    theirs = studio.pixels(as_srgb(photo(name)))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


def test_cmyk_is_converted_by_its_own_profile() -> None:
    ours = studio.pixels(studio.rendered(photo("cmyk.jpg")))
    assert studio.difference(ours, studio.pixels(as_srgb(photo("cmyk.jpg")))) < 2


def test_cmyk_without_a_profile_still_comes_out_as_rgb() -> None:
    source = studio.saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG")
    red, green, blue = studio.pixels(studio.rendered(source))[10, 10]
    assert red > 180
    assert max(green, blue) < 90


@pytest.mark.parametrize("fmt", list(Format))
def test_no_profile_is_left_in_the_output(fmt: Format) -> None:
    assert "icc_profile" not in studio.opened(studio.rendered(photo("display-p3.png"), fmt)).info


def test_a_profile_that_is_garbage_is_passed_over() -> None:
    source = studio.saved(Image.new("RGB", (8, 8), (10, 200, 30)), icc_profile=b"x" * 300)
    assert studio.pixels(studio.rendered(source))[4, 4].tolist() == [10, 200, 30]


def test_a_profile_of_another_kind_of_picture_is_passed_over() -> None:
    with Image.open(photo("prophoto.png")) as picture:
        profile = picture.info["icc_profile"]
    source = studio.saved(Image.new("L", (8, 8), 77), icc_profile=profile)
    assert studio.pixels(studio.rendered(source))[4, 4].tolist() == [77, 77, 77]


def test_sixteen_bits_become_eight() -> None:
    ramp = np.linspace(0, 65535, 256 * 4, dtype=np.uint16).reshape(4, 256)
    source = studio.saved(Image.fromarray(ramp))
    ours = studio.pixels(studio.rendered(source), "L")
    assert np.abs(ours.astype(int) - (ramp >> 8).astype(int)).max() <= 1


def test_sixteen_bit_grey_with_alpha_keeps_its_alpha() -> None:
    ours = studio.pixels(studio.rendered(photo("grey16-alpha.png")), "RGBA")
    theirs = studio.pixels(Image.open(photo("grey16-alpha.png")), "RGBA")
    assert studio.difference(ours[..., 3], theirs[..., 3]) < 1


def test_grey_stays_grey_in_a_jpeg() -> None:
    source = studio.saved(Image.new("L", (64, 64), 90))
    assert studio.opened(studio.rendered(source, Format.JPEG)).mode == "L"


def test_a_gain_map_is_left_out_and_its_base_picture_rendered() -> None:
    encoded = studio.rendered(photo("gain-map.jpg"), Format.JPEG, box=studio.contain(400, 400))
    assert b"hdrgm" not in encoded
    assert studio.opened(encoded).size == (400, 225)


def test_transparency_is_laid_on_white_in_a_jpeg() -> None:
    source = studio.saved(Image.new("RGBA", (32, 32), (255, 0, 0, 128)))
    colour = studio.pixels(studio.rendered(source, Format.JPEG))[16, 16].astype(int)
    assert np.abs(colour - [255, 127, 127]).max() <= 3


@pytest.mark.parametrize("fmt", [Format.PNG, Format.WEBP, Format.AVIF])
def test_transparency_is_kept_where_the_format_has_it(fmt: Format) -> None:
    ours = studio.pixels(studio.rendered(photo("alpha-2048.png"), fmt), "RGBA")
    theirs = studio.pixels(Image.open(photo("alpha-2048.png")), "RGBA")
    assert studio.difference(ours[..., 3], theirs[..., 3]) < 1


def test_colours_do_not_bleed_out_of_transparent_pixels_when_shrunk() -> None:
    picture = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 30, 64))
    ours = studio.pixels(
        studio.rendered(studio.saved(picture), box=studio.contain(8, 8)), "RGBA"
    ).astype(int)
    visible = ours[ours[..., 3] > 8]
    assert (visible[:, 1] <= 2).all()
