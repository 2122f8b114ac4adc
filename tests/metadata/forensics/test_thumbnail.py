"""The thumbnail and its distance from the image."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageDraw

from proxy.domain.perceptual_hash import MAX_DISTANCE
from proxy.metadata.container.walk import walk
from proxy.metadata.forensics.thumbnail import thumbnail_of
from tests.support.golden import golden


def scene(size: tuple[int, int] = (600, 400), *, seed: int = 1) -> Image.Image:
    image = Image.new("RGB", size, "skyblue")
    draw = ImageDraw.Draw(image)
    for index in range(12):
        left = (index * 97 * seed) % size[0]
        top = (index * 61 * seed * seed) % size[1]
        colour = ("navy", "orange", "darkgreen", "white", "crimson")[(index * seed) % 5]
        draw.rectangle((left, top, left + size[0] // 6, top + size[1] // 5), fill=colour)
    return image


def with_thumbnail(image: Image.Image, thumbnail: bytes, kind: str = "JPEG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, exif=_block(thumbnail))
    return buffer.getvalue()


def _block(thumbnail: bytes) -> bytes:
    """EXIF with an empty first directory, and a second one for the thumbnail."""
    head = b"II*\0" + (8).to_bytes(4, "little")
    first = b"\0\0" + (14).to_bytes(4, "little")
    entries = [(0x0201, 14 + 2 + 24 + 4), (0x0202, len(thumbnail))]
    second = len(entries).to_bytes(2, "little")
    for tag, value in entries:
        second += tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
    return b"Exif\0\0" + head + first + second + b"\0\0\0\0" + thumbnail


def jpeg_of(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def found_in(content: bytes, groups: Any = None) -> tuple[dict[str, Any], str]:
    file = BytesIO(content)
    return thumbnail_of(file, walk(file), groups or {})


def barred(image: Image.Image) -> Image.Image:
    """A thumbnail of 4:3 with bars, as cameras make it for 3:2."""
    thumbnail = Image.new("RGB", (160, 120), "black")
    thumbnail.paste(image.resize((160, 107)), (0, 6))
    return thumbnail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "made",
    [
        lambda image: image.resize((160, 107)),
        barred,
        lambda image: image.resize((160, 107)).transpose(Image.Transpose.ROTATE_90),
    ],
)
def test_the_thumbnail_of_the_image_is_near(kind: str, made: Any) -> None:
    image = scene()
    found, reason = found_in(with_thumbnail(image, jpeg_of(made(image)), kind))
    assert found["present"] is True
    assert found["distance"] <= MAX_DISTANCE / 2
    assert reason == ""


def test_the_thumbnail_of_another_image_is_far() -> None:
    other = jpeg_of(scene(seed=7).resize((160, 107)))
    found, _ = found_in(with_thumbnail(scene(), other))
    assert found["distance"] > MAX_DISTANCE


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Canon IXUS v3.jpg", True),
        ("FujiFilm FinePixS2Pro.jpg", True),
        ("HP PhotoSmart 735.jpg", True),
        ("Kodak DC240.jpg", True),
        ("Samsung GT-I9000 (Galaxy S).jpg", True),
        ("Sanyo SR6.jpg", True),
        ("Sony DigitalMavica.jpg", True),
        # The image is cropped; the thumbnail shows all.
        ("Sony Cybershot (3).jpg", False),
        ("Nikon E5000.jpg", False),
    ],
)
def test_real_cameras(name: str, near: bool) -> None:  # noqa: FBT001
    found, _ = found_in(golden(f"metadata-extractor/{name}").read_bytes())
    assert (found["distance"] <= MAX_DISTANCE) is near


def test_a_file_without_a_thumbnail_has_none() -> None:
    assert found_in(jpeg_of(scene())) == (
        {"present": False, "distance": None},
        "the file has no thumbnail",
    )


def test_a_thumbnail_that_only_exiftool_finds_is_present() -> None:
    groups = {"Photoshop": {"PhotoshopThumbnail": "(Binary data 900 bytes)"}}
    found, reason = found_in(jpeg_of(scene()), groups)
    assert found == {"present": True, "distance": None}
    assert "EXIF" in reason


@pytest.mark.parametrize("thumbnail", [b"\xff\xd8\xff", b"\xff\xd8" + b"x" * 500])
def test_a_damaged_thumbnail_has_no_distance(thumbnail: bytes) -> None:
    found, reason = found_in(with_thumbnail(scene(), thumbnail))
    assert found == {"present": True, "distance": None}
    assert "cannot be decoded" in reason


def test_a_plain_image_has_no_distance() -> None:
    plain = Image.new("RGB", (300, 200), "grey")
    found, reason = found_in(with_thumbnail(plain, jpeg_of(scene().resize((160, 107)))))
    assert found == {"present": True, "distance": None}
    assert "structure" in reason


def test_a_huge_image_is_not_decoded() -> None:
    file = BytesIO(with_thumbnail(scene(), jpeg_of(scene().resize((160, 107)))))
    walked = walk(file)
    walked = replace(walked, image=replace(walked.image, width=20_000, height=5_001))
    found, reason = thumbnail_of(file, walked, {})
    assert found == {"present": True, "distance": None}
    assert "too large" in reason
