"""Renditions of every format: pixels, metadata, and the options of the profiles."""

from __future__ import annotations

import io
import struct
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import pyvips
from PIL import Image

from proxy.domain.formats import SNIFF_BYTES, Format, sniff
from proxy.domain.variant import EncoderProfile, Geometry, QualitySearch
from proxy.domain.worker_protocol import JobFailure, RenderResult
from proxy.rendering.worker.imaging.ssimulacra2 import Reference
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
def test_every_image_is_rendered_to_every_format_or_refused_with_a_reason(name: str) -> None:
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


def test_an_image_that_the_encoder_cannot_hold_is_a_fault_of_the_server() -> None:
    """libwebp holds 16,383 pixels a side; `plan_geometry` never asks for more."""
    source = studio.saved(Image.new("RGB", (16384, 2)))
    plan = Geometry(16384, 2, 16384, 2)
    result, _ = studio.attempt(source, Format.WEBP, plan=plan)
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"


@pytest.mark.parametrize("fmt", list(Format))
def test_the_time_of_each_stage_is_reported(fmt: Format) -> None:
    result, _ = studio.attempt(photo("kodak-23.png"), fmt)
    assert isinstance(result, RenderResult)
    assert list(result.stages) == ["decode", "transform", "encode"]
    assert all(seconds >= 0 for seconds in result.stages.values())


def test_a_jpeg_holds_no_thumbnail_of_the_source() -> None:
    encoded = studio.rendered(tagged(), Format.JPEG)
    assert encoded.count(b"\xff\xd8\xff") == 1
    assert struct.unpack(">H", encoded[:2]) == (0xFFD8,)
    assert not Image.open(io.BytesIO(encoded)).getexif()


FINAL = {
    "AVIF effort 3": EncoderProfile(
        Format.AVIF, (("Q", 60), ("bitdepth", 10), ("effort", 3), ("tune", "iq"))
    ),
    "AVIF effort 4": EncoderProfile(
        Format.AVIF, (("Q", 60), ("bitdepth", 10), ("effort", 4), ("tune", "iq"))
    ),
    "WebP": EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 6), ("smart_subsample", True))),
    "JPEG": EncoderProfile(
        Format.JPEG,
        (
            ("Q", 80),
            ("interlace", True),
            ("optimize_coding", True),
            ("quant_table", 3),
            ("trellis_quant", True),
        ),
    ),
}


DRAFT = {
    Format.AVIF: EncoderProfile(Format.AVIF, (("Q", 63), ("bitdepth", 8), ("effort", 0))),
    Format.WEBP: EncoderProfile(Format.WEBP, (("Q", 79), ("effort", 2))),
    Format.JPEG: EncoderProfile(Format.JPEG, (("Q", 80),)),
}


BOX = studio.contain(256, 256)


def score(name: str, encoded: bytes) -> float:
    """The estimate of SSIMULACRA2 of a rendition in `BOX`."""
    exact = pyvips.Image.new_from_buffer(studio.rendered(photo(name), Format.PNG, box=BOX), "")
    return Reference(exact).compare(pyvips.Image.new_from_buffer(encoded, "")).score


@pytest.mark.slow
@pytest.mark.parametrize("profile", FINAL.values(), ids=FINAL)
@pytest.mark.parametrize("name", ["kodak-05.png", "kodak-23.png"])
def test_a_final_is_smaller_than_a_draft_at_no_lower_score(
    name: str, profile: EncoderProfile
) -> None:
    draft = studio.rendered(photo(name), DRAFT[profile.format], box=BOX)
    target = score(name, draft)
    search = QualitySearch(target, 40, 95, max_encodes=4)
    result, final = studio.attempt(photo(name), profile, box=BOX, search=search)
    assert isinstance(result, RenderResult)
    assert studio.difference(studio.pixels(final), studio.pixels(draft)) < 8
    assert score(name, final) >= target
    assert len(final) < len(draft)


@pytest.mark.parametrize(
    ("fmt", "option", "value"),
    [
        (Format.AVIF, "tune", "ssim"),
        (Format.AVIF, "bitdepth", 10),
        (Format.AVIF, "effort", 2),
        (Format.WEBP, "smart_subsample", True),
        (Format.WEBP, "effort", 6),
        (Format.JPEG, "interlace", True),
        (Format.JPEG, "optimize_coding", True),
        (Format.JPEG, "quant_table", 3),
        (Format.JPEG, "trellis_quant", True),
    ],
)
def test_each_option_reaches_the_encoder(fmt: Format, option: str, value: int | str) -> None:
    plain = DRAFT[fmt]
    options = dict(plain.options) | {option: value}
    changed = EncoderProfile(fmt, tuple(sorted(options.items())))
    box = studio.contain(200, 200)
    assert studio.rendered(photo("kodak-23.png"), changed, box=box) != studio.rendered(
        photo("kodak-23.png"), plain, box=box
    )


@pytest.mark.parametrize(
    "options", [(("Q", 60), ("tune", "ssimulacra2")), (("Q", 60), ("no_such_option", 1))]
)
def test_an_option_that_the_encoder_does_not_take_is_a_fault_of_the_server(
    options: tuple[tuple[str, int | str], ...],
) -> None:
    profile = EncoderProfile(Format.AVIF, options)
    result, _ = studio.attempt(photo("kodak-23.png"), profile, box=studio.contain(64, 64))
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"


def test_tune_iq_is_what_the_encoder_does_anyway() -> None:
    """It stands in the profile so that another libheif does not change the recipe unseen."""
    tuned = FINAL["AVIF effort 3"]
    options = tuple(pair for pair in tuned.options if pair[0] != "tune")
    box = studio.contain(200, 200)
    plain = studio.rendered(photo("kodak-23.png"), EncoderProfile(Format.AVIF, options), box=box)
    assert plain == studio.rendered(photo("kodak-23.png"), tuned, box=box)


def test_webp_with_transparency_is_encoded_without_the_slowest_effort() -> None:
    """It takes twenty times as long there, for one percent."""
    slowest = FINAL["WebP"]
    options = dict(slowest.options) | {"effort": 5}
    next_to_it = EncoderProfile(Format.WEBP, tuple(options.items()))
    box = studio.contain(200, 200)
    source = photo("drawing-alpha.png")
    assert studio.rendered(source, slowest, box=box) == studio.rendered(source, next_to_it, box=box)
