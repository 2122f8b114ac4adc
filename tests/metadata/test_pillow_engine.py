"""The fallback engine."""

from __future__ import annotations

import warnings
from io import BytesIO

import pytest
from PIL import ExifTags, Image

from proxy.metadata import pillow_engine
from proxy.metadata.container.walk import walk
from proxy.metadata.pillow_engine import NoEngineCouldRead
from proxy.metadata.tags import Groups
from tests.metadata.files import MAKE, MODEL, gif, jpeg, png, text_chunk


def read(content: bytes) -> Groups:
    file = BytesIO(content)
    return pillow_engine.read(file, walk(file))


def test_exif_has_the_groups_and_names_of_exiftool() -> None:
    found = read(jpeg())
    assert (found["IFD0"]["Make"], found["IFD0"]["Model"]) == (MAKE, MODEL)
    assert found["ExifIFD"]["ISO"] == 400
    assert found["ExifIFD"]["FNumber"] == 2.8
    assert found["ExifIFD"]["DateTimeOriginal"] == "2024:05:01 10:11:12"
    assert found["Composite"]["GPSLatitude"] == pytest.approx(-33.8583333)
    assert found["Composite"]["GPSLongitude"] == pytest.approx(151.2)


def test_texts_of_the_walk_are_tags_and_equal_keys_are_both_kept() -> None:
    found = read(png(text_chunk("Comment", "one"), text_chunk("Comment", "two")))
    assert found["PNG"] == {"Comment": "one", "Copy1:Comment": "two"}


def test_the_size_is_that_of_the_image() -> None:
    assert read(gif())["File"] == {"ImageWidth": 3, "ImageHeight": 2}


@pytest.mark.parametrize("content", [b"GIF89a", jpeg()[:30], png()[:20]])
def test_a_file_that_pillow_cannot_open_is_refused(content: bytes) -> None:
    with pytest.raises(NoEngineCouldRead):
        read(content)


def test_the_sample_has_exif() -> None:
    pillow_engine.load_plugins()
    assert read(pillow_engine.sample())["IFD0"]["Make"] == "sample"


@pytest.mark.parametrize("box", [b"pitm", b"iloc", b"iinf", b"infe"])
def test_an_avif_that_its_decoder_refuses_cannot_be_read(box: bytes) -> None:
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "AVIF")
    with pytest.raises(NoEngineCouldRead):
        read(buffer.getvalue().replace(box, b"free"))


def test_a_damaged_file_prints_no_warning() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a name that needs an offset"
    # The EXIF data end within the name.
    damaged = BytesIO()
    Image.new("L", (1, 1)).save(damaged, "JPEG", exif=exif.tobytes()[:-20])
    with warnings.catch_warnings(record=True) as printed:
        # The filter of a process that pytest did not start.
        warnings.simplefilter("default")
        pillow_engine.load_plugins()
        read(damaged.getvalue())
    assert printed == []
