"""Where the pixels go: orientation, scaling, cropping."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageOps

from proxy.domain.formats import Format
from proxy.domain.worker_protocol import RenderResult
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo


def upright(name: str) -> Image.Image:
    """A photograph as Pillow has it: turned as EXIF says, and in sRGB."""
    picture = Image.open(photo(name))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    turned = ImageOps.exif_transpose(picture)
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(turned, profile, srgb, ImageCms.Intent(1))
    assert converted is not None
    return converted


def quadrants(width: int, height: int) -> Image.Image:
    """Red, green, blue and white quarters."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill=(255, 0, 0))
    draw.rectangle((width // 2, 0, width - 1, height // 2 - 1), fill=(0, 255, 0))
    draw.rectangle((0, height // 2, width // 2 - 1, height - 1), fill=(0, 0, 255))
    return picture


@pytest.mark.parametrize("name", ["exif-orientation-5.jpg", "exif-orientation-6.jpg"])
def test_exif_orientation_is_applied(name: str) -> None:
    ours = studio.pixels(studio.rendered(photo(name)))
    assert studio.difference(ours, studio.pixels(upright(name))) < 2


@pytest.mark.parametrize("name", ["exif-orientation-5.jpg", "exif-orientation-6.jpg"])
def test_a_turned_source_keeps_its_shape_when_it_shrinks(name: str) -> None:
    box = studio.contain(200, 200)
    ours = studio.pixels(studio.rendered(photo(name), box=box))
    whole = upright(name)
    plan = studio.geometry(photo(name), box)
    theirs = whole.resize((plan.width, plan.height), Image.Resampling.LANCZOS)
    assert studio.difference(ours, studio.pixels(theirs)) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = studio.saved(quadrants(64, 40), exif=exif)
    theirs = ImageOps.exif_transpose(studio.opened(source))
    assert np.array_equal(studio.pixels(studio.rendered(source)), studio.pixels(theirs))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_cover_crop_cuts_the_planned_box_out_of_the_scaled_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = studio.saved(Image.open(photo("kodak-23.png")), exif=exif)
    plan = studio.geometry(source, studio.cover(150, 90))
    ours = studio.pixels(studio.rendered(source, plan=plan))
    turned = ImageOps.exif_transpose(studio.opened(source))
    scaled = turned.resize((plan.scaled_width, plan.scaled_height), Image.Resampling.LANCZOS)
    box = (plan.left, plan.top, plan.left + plan.width, plan.top + plan.height)
    assert ours.shape == (90, 150, 3)
    assert studio.difference(ours, studio.pixels(scaled.crop(box))) < 2


def test_shrinking_while_a_jpeg_loads_looks_like_lanczos() -> None:
    box = studio.contain(300, 300)
    source = photo("photo-6mp.jpg")
    plan = studio.geometry(source, box)
    ours = studio.pixels(studio.rendered(source, box=box))
    theirs = Image.open(source).resize((plan.width, plan.height), Image.Resampling.LANCZOS)
    assert studio.difference(ours, studio.pixels(theirs)) < 2


@pytest.mark.parametrize("fmt", list(Format))
@pytest.mark.parametrize("name", ["photo-6mp.jpg", "photo.webp", "photo.avif", "scan.tiff"])
def test_the_size_is_the_planned_one_to_the_pixel(name: str, fmt: Format) -> None:
    plan = studio.geometry(photo(name), studio.cover(123, 45))
    result, encoded = studio.attempt(photo(name), fmt, plan=plan)
    assert isinstance(result, RenderResult)
    assert (result.width, result.height) == studio.opened(encoded).size == (123, 45)


def test_the_offset_of_the_source_descriptor_does_not_matter() -> None:
    source = studio.saved(quadrants(20, 20))
    job = studio.job_of(studio.geometry(source), studio.PROFILES[Format.PNG])
    with studio.descriptor(source) as descriptor:
        for _ in range(2):
            with studio.descriptor(b"") as target:
                assert isinstance(studio.render(job, descriptor, target), RenderResult)
