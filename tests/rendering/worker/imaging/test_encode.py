"""Encoders: the right format, no metadata but the copyright, palettes that lose nothing."""

from __future__ import annotations

import io
import struct
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from proxy.domain.formats import SNIFF_BYTES, EncoderProfile, Format, sniff
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import JobFailure, RenderResult
from tests.rendering.worker.imaging import crafted, studio
from tests.support.photos import NAMES, photo

COPYRIGHT = 0x8298
GPS = 0x8825
NOTICE = "(c) 2026 Example (Berlin)"


def tagged() -> bytes:
    """A JPEG with EXIF, GPS, XMP and a comment."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif[COPYRIGHT] = "somebody else"
    exif.get_ifd(GPS)[1] = "N"
    return studio.saved(
        Image.new("RGB", (40, 40), "teal"),
        "JPEG",
        exif=exif,
        xmp=b"<x:xmpmeta>SecretXmp</x:xmpmeta>",
        comment=b"SecretComment",
    )


def header_bytes(encoded: bytes) -> tuple[int, int]:
    """Colour type and interlacing of a PNG."""
    return encoded[25], encoded[28]


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_rendered_to_every_format_or_refused_with_a_reason(name: str) -> None:
    known = studio.refused_or_known(photo(name))
    if isinstance(known, JobFailure):
        assert known.kind in ("unsupported", "undecodable", "too_large")
        assert known.detail
        return
    for fmt in Format:
        result, encoded = studio.attempt(photo(name), fmt, box=studio.cover(96, 96), animated=True)
        assert isinstance(result, RenderResult), result
        assert sniff(encoded[:SNIFF_BYTES]) == fmt
        assert studio.opened(encoded).size == (result.width, result.height)


@pytest.mark.parametrize(
    ("fmt", "tolerance"), [(Format.JPEG, 4), (Format.WEBP, 5), (Format.AVIF, 5), (Format.PNG, 0)]
)
def test_the_decoded_rendition_looks_like_the_source(fmt: Format, tolerance: float) -> None:
    ours = studio.pixels(studio.rendered(photo("kodak-23.png"), fmt))
    theirs = studio.pixels(Image.open(photo("kodak-23.png")))
    assert studio.difference(ours, theirs) <= tolerance


@pytest.mark.parametrize("fmt", list(Format))
@pytest.mark.parametrize("notice", [None, NOTICE])
def test_metadata_of_the_source_is_stripped(fmt: Format, notice: str | None) -> None:
    encoded = studio.rendered(tagged(), fmt, notice=notice)
    assert b"Secret" not in encoded
    assert b"somebody" not in encoded
    exif = studio.opened(encoded).getexif()
    assert not exif.get_ifd(GPS)
    assert exif.get(0x010F) is None


@pytest.mark.parametrize("fmt", list(Format))
@pytest.mark.parametrize("notice", [None, NOTICE])
def test_a_keyword_past_ascii_does_no_harm_and_is_stripped(fmt: Format, notice: str | None) -> None:
    """Found by `tests.fuzz`: pyvips takes it for UTF-8, and the worker ended."""
    source = crafted.with_text(crafted.png(4, 4), b"Geb\xe4ude")
    encoded = studio.rendered(source, fmt, notice=notice)
    assert b"Geb" not in encoded
    assert studio.opened(encoded).size == (4, 4)


@pytest.mark.parametrize("fmt", [Format.JPEG, Format.PNG, Format.WEBP, Format.AVIF])
def test_the_copyright_is_in_the_exif_of_the_output(fmt: Format) -> None:
    encoded = studio.rendered(tagged(), fmt, notice=NOTICE)
    assert studio.opened(encoded).getexif()[COPYRIGHT] == NOTICE


@pytest.mark.parametrize("fmt", [Format.JPEG, Format.PNG, Format.WEBP, Format.AVIF])
def test_a_copyright_past_ascii_is_whole_in_the_xmp(fmt: Format) -> None:
    notice = "© 2026 Müller & Söhne <東京>"
    picture = studio.opened(studio.rendered(tagged(), fmt, notice=notice))
    xmp = picture.info["XML:com.adobe.xmp" if fmt is Format.PNG else "xmp"]
    rights = ET.fromstring(xmp).find(".//{*}li")
    assert rights is not None
    assert rights.text == notice
    assert "2026" in picture.getexif()[COPYRIGHT]


@pytest.mark.parametrize("name", ["animated.gif", "kodak-23.png"])
def test_the_copyright_is_a_comment_in_a_gif(name: str) -> None:
    notice = "© 2026 " + "long " * 80
    plain = studio.rendered(photo(name), Format.GIF, animated=True)
    marked = studio.rendered(photo(name), Format.GIF, animated=True, notice=notice)
    assert "© 2026 long long".encode() in marked
    shown = zip(studio.frames(marked), studio.frames(plain), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in shown)


def test_a_png_of_few_colours_has_a_palette_and_loses_nothing() -> None:
    levels = np.arange(256, dtype=np.uint8)
    exact = np.zeros((32, 256, 4), np.uint8)
    exact[..., 0], exact[..., 1], exact[..., 3] = levels, levels[::-1] // 2, 255 - levels // 3
    encoded = studio.rendered(studio.saved(Image.fromarray(exact)))
    assert header_bytes(encoded)[0] == 3
    assert np.array_equal(studio.pixels(encoded, "RGBA"), exact)


def test_a_png_of_one_colour_too_many_has_no_palette() -> None:
    exact = np.zeros((2, 257, 3), np.uint8)
    exact[0, :256, 0] = np.arange(256)
    exact[1] = (1, 2, 3)
    encoded = studio.rendered(studio.saved(Image.fromarray(exact)))
    assert header_bytes(encoded)[0] == 2
    assert np.array_equal(studio.pixels(encoded), exact)


@pytest.mark.parametrize("options", [(("compression", 6),), (("interlace", True),)])
@pytest.mark.parametrize("name", ["kodak-23.png", "flag.png"])
def test_a_png_is_never_interlaced(name: str, options: tuple[tuple[str, int], ...]) -> None:
    encoded = studio.rendered(photo(name), EncoderProfile(Format.PNG, options))
    assert header_bytes(encoded)[1] == 0


@pytest.mark.parametrize("progressive", [False, True])
def test_the_profile_decides_whether_a_jpeg_is_progressive(*, progressive: bool) -> None:
    profile = EncoderProfile(Format.JPEG, (("Q", 80), ("interlace", progressive)))
    encoded = studio.rendered(photo("kodak-23.png"), profile)
    assert studio.opened(encoded).info.get("progressive", 0) == progressive


@pytest.mark.parametrize("fmt", [Format.JPEG, Format.WEBP, Format.AVIF])
def test_a_higher_quality_makes_more_bytes(fmt: Format) -> None:
    options = dict(studio.PROFILES[fmt].options)
    low, high = (
        studio.rendered(
            photo("kodak-23.png"), EncoderProfile(fmt, tuple((options | {"Q": quality}).items()))
        )
        for quality in (30, 90)
    )
    assert len(high) > 2 * len(low)


def test_a_picture_that_the_encoder_cannot_hold_is_our_own_fault() -> None:
    """libwebp holds 16,383 pixels a side; `plan_geometry` never asks for more."""
    source = studio.saved(Image.new("RGB", (16384, 2)))
    plan = Geometry(16384, 2, 16384, 2)
    result, _ = studio.attempt(source, Format.WEBP, plan=plan)
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"


@pytest.mark.parametrize("fmt", list(Format))
def test_the_time_of_each_stage_is_told(fmt: Format) -> None:
    result, _ = studio.attempt(photo("kodak-23.png"), fmt)
    assert isinstance(result, RenderResult)
    assert list(result.stages) == ["decode", "transform", "encode"]
    assert all(0 <= seconds < 10 for seconds in result.stages.values())


def test_a_jpeg_holds_no_thumbnail_of_the_source() -> None:
    encoded = studio.rendered(tagged(), Format.JPEG)
    assert encoded.count(b"\xff\xd8\xff") == 1
    assert struct.unpack(">H", encoded[:2]) == (0xFFD8,)
    assert not Image.open(io.BytesIO(encoded)).getexif()
