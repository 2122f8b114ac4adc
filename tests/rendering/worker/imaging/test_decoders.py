"""BMP, ICO, JPEG 2000, JPEG XL and animated AVIF: pixels, colours, limits, damage."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from proxy.domain.formats import Format
from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import decoders, load
from tests.rendering.worker.imaging import crafted, heif_bombs, studio
from tests.support.photos import case, photo

PALETTE = bytes((0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0))
RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(photo("kodak-23.png")).convert("RGB").resize((96, 64))


def bmp(
    size: tuple[int, int],
    pixels: bytes,
    *,
    bits: int = 24,
    compression: int = 0,
    extra: bytes = b"",
    header: int = 40,
) -> bytes:
    """A BMP with a header of Windows; ``extra`` follows the first 40 bytes of the header."""
    colours = len(PALETTE) // 4 if bits <= 8 else 0
    start = 14 + 40 + len(extra)
    fields = (header, *size, 1, bits, compression, len(pixels), 0, 0, colours, 0)
    head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", *fields) + extra + pixels


def ico(*images: bytes, sides: tuple[int, ...], bits: int = 32) -> bytes:
    """An icon file of these PNG files or bitmaps, and what its directory claims about them."""
    at = 6 + 16 * len(images)
    head = struct.pack("<HHH", 0, 1, len(images))
    for image, side in zip(images, sides, strict=True):
        head += struct.pack("<BBBBHHII", side & 255, side & 255, 0, 0, 1, bits, len(image), at)
        at += len(image)
    return head + b"".join(images)


def jxl(pixels: studio.Pixels | np.ndarray, **options: object) -> bytes:
    encoder = pytest.importorskip("pyjpegxl")
    return bytes(encoder.encode_from_numpy(np.ascontiguousarray(pixels), **options))


def shown(source: bytes, mode: str = "RGB") -> list[list[list[int]]]:
    listed: list[list[list[int]]] = studio.pixels(studio.rendered(source), mode).tolist()
    return listed


SAVED: dict[str, Callable[[Image.Image], bytes]] = {
    "bmp": lambda one: studio.saved(one, "BMP"),
    "bmp with a palette": lambda one: studio.saved(one.quantize(64), "BMP"),
    "bmp in grey": lambda one: studio.saved(one.convert("L"), "BMP"),
    "bmp of one bit": lambda one: studio.saved(one.convert("1"), "BMP"),
    "ico": lambda one: studio.saved(one.convert("RGBA"), "ICO", sizes=[(96, 64)]),
    "ico of bitmaps": lambda one: studio.saved(
        one.convert("RGBA"), "ICO", sizes=[(96, 64)], bitmap_format="bmp"
    ),
    "jp2": lambda one: studio.saved(one, "JPEG2000"),
    "jp2 in grey": lambda one: studio.saved(one.convert("L"), "JPEG2000"),
    "jp2 with alpha": lambda one: studio.saved(one.convert("RGBA"), "JPEG2000"),
    "jp2 in tiles": lambda one: studio.saved(one, "JPEG2000", tile_size=(32, 32)),
    "jp2 codestream": lambda one: studio.saved(one, "JPEG2000", no_jp2=True),
    "jxl": lambda one: jxl(np.asarray(one), lossless=True),
    "jxl in grey": lambda one: jxl(np.asarray(one.convert("L"))[..., None], lossless=True),
    "jxl with alpha": lambda one: jxl(np.asarray(one.convert("RGBA")), lossless=True),
    "jxl of 16 bits": lambda one: jxl(np.asarray(one).astype(np.uint16) * 257, lossless=True),
    "jxl with metadata": lambda one: jxl(
        np.asarray(one), lossless=True, exif=b"\0\0\0\0II*\0" + bytes(8)
    ),
}


def expected(name: str, picture: Image.Image) -> Image.Image:
    if "palette" in name:
        return picture.quantize(64).convert("RGB")
    if "grey" in name:
        return picture.convert("L").convert("RGB")
    return (picture.convert("1") if "one bit" in name else picture).convert("RGB")


@pytest.mark.parametrize("name", SAVED)
def test_the_pixels_are_those_of_the_file(name: str, picture: Image.Image) -> None:
    source = SAVED[name](picture)
    known = studio.looked_at(source, strict=True)
    assert known.source_type == name.split(maxsplit=1)[0]
    assert (known.width, known.height, known.pages) == (96, 64, 1)
    found = studio.pixels(studio.rendered(source))
    # 16 bits are rounded by libvips.
    assert studio.difference(found, studio.pixels(expected(name, picture))) < 0.6


def test_a_bmp_may_start_with_its_upper_row() -> None:
    rows = bytes((0, 0, 255, 0)), bytes((255, 0, 0, 0))
    assert shown(bmp((1, 2), b"".join(rows))) == [[BLUE], [RED]]
    assert shown(bmp((1, -2), b"".join(rows))) == [[RED], [BLUE]]


@pytest.mark.parametrize(
    ("bits", "masks", "pixel"),
    [
        (16, (0xF800, 0x07E0, 0x001F), struct.pack("<HH", 0xF800, 0)),
        (16, (0x7C00, 0x03E0, 0x001F), struct.pack("<HH", 0x7C00, 0)),
        (32, (0xFF0000, 0xFF00, 0xFF), bytes((0, 0, 255, 0))),
    ],
)
def test_a_bmp_may_name_the_bits_of_its_colours(
    bits: int, masks: tuple[int, int, int], pixel: bytes
) -> None:
    extra = struct.pack("<III", *masks)
    assert shown(bmp((1, 1), pixel, bits=bits, compression=3, extra=extra)) == [[RED]]


def test_the_alpha_of_a_bmp_is_kept() -> None:
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    source = bmp(
        (2, 1),
        bytes((0, 0, 255, 128, 255, 0, 0, 255)),
        bits=32,
        compression=3,
        extra=masks + bytes(52),
        header=108,
    )
    assert studio.looked_at(source).has_alpha
    assert shown(source, "RGBA") == [[[*RED, 128], [*BLUE, 255]]]


# Each row from below: runs, literals, a jump, and the end of the bitmap.
RUNS = {
    8: b"\x02\1\x03\2\0\0" + b"\0\x03\1\2\3\0\x02\0\0\0" + b"\0\x02\x03\0\x02\2\0\1",
    4: b"\x05\x12\0\0" + b"\0\x05\x12\x30\x01\0\0\0" + b"\0\x02\x03\0\x02\x22\0\1",
}
ROWS = {
    8: [[RED, RED, RED, BLUE, BLUE], [GREEN, BLUE, WHITE, RED, RED], [GREEN] * 2 + [BLUE] * 3],
    4: [
        [RED, RED, RED, BLUE, BLUE],
        [GREEN, BLUE, WHITE, RED, RED],
        [GREEN, BLUE, GREEN, BLUE, GREEN],
    ],
}


@pytest.mark.parametrize("named", [False, True])
def test_a_bmp_whose_alpha_is_zero_everywhere_is_opaque(*, named: bool) -> None:
    pixels = bytes((0, 0, 255, 0, 255, 0, 0, 0))
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    plain: dict[str, Any] = {"compression": 3, "extra": masks, "header": 108} if named else {}
    source = bmp((2, 1), pixels, bits=32, **plain)
    assert not studio.looked_at(source, strict=True).has_alpha
    assert shown(source, "RGBA") == [[[*RED, 255], [*BLUE, 255]]]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_bmp_may_be_compressed_as_runs(bits: int) -> None:
    source = bmp((5, 3), RUNS[bits], bits=bits, compression=3 - bits // 4, extra=PALETTE)
    assert shown(source) == ROWS[bits]


@pytest.mark.parametrize("length", [2, 6, 9, 15])
def test_runs_that_end_early_are_refused_and_shown(length: int) -> None:
    source = bmp((5, 3), RUNS[8][:length], bits=8, compression=1, extra=PALETTE)
    assert isinstance(studio.refused_or_known(source, strict=True), JobFailure)
    assert studio.looked_at(source).width == 5


def p3() -> bytes:
    """The profile of a telephone's photographs."""
    pi_heif = pytest.importorskip("pi_heif")
    profile: bytes = pi_heif.open_heif(case("IMG_0001.HEIC").read_bytes()).info["icc_profile"]
    return profile


def in_srgb(level: tuple[int, int, int], profile: bytes) -> list[int]:
    """The level as littlecms converts it."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    patch = Image.new("RGB", (1, 1), level)
    converted = ImageCms.profileToProfile(
        patch, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    assert converted is not None
    return list(converted.tobytes())


def profiled_bmp(profile: bytes) -> bytes:
    own = 124
    extra = bytearray(own - 40)
    extra[16:20] = b"DEBM"
    struct.pack_into("<II", extra, 72, own + 4, len(profile))
    plain = bmp((1, 1), bytes((40, 80, 200, 0)), extra=bytes(extra), header=own)
    return plain + profile


def profiled_jp2(profile: bytes) -> bytes:
    plain = studio.saved(Image.new("RGB", (16, 16), (200, 80, 40)), "JPEG2000")
    at = plain.index(b"colr") - 4
    length = int.from_bytes(plain[at : at + 4], "big")
    colour = struct.pack(">I4sBBB", 11 + len(profile), b"colr", 2, 0, 0) + profile
    parent = plain.index(b"jp2h") - 4
    grown = int.from_bytes(plain[parent : parent + 4], "big") + len(colour) - length
    head = plain[:parent] + struct.pack(">I", grown) + plain[parent + 4 : at]
    return head + colour + plain[at + length :]


# 16 x 16 pixels of (200, 80, 40), made by cjxl: in Display P3 by an enumerated colour space, by an
# ICC profile, and by that profile with loss.
P3_JXL = {
    "enumerated": "/wpDQEAmNwIIAgEAaABLGIsVANQXY4wX490FIgAQJAwAICCEfEMBCw==",
    "profile": (
        "/wpDQAi3DCZQMBdsKMDBAeKxkTiq2wB9GtJj1yzQ8OvKEENuO64Iovcsg+0L8liWZrB9wTHBdj/qwC/1eTQajT7V"
        "x2+1BC48+OBjAQDe+RoZmxrYDBcALjjooGMAAAUAkHK7cTDOeoyalnwIbr2/V4cZAAAAMENIzWCsUH4AdBMAAAAA"
        "AAAAAACAG7xgOVnqhKIPCMBgrPKAhGs8t+zAyYMXrw6Zi9SobzHJoC/b++Xfv387Tuk3id2dUblZdHh+vBFkOX00"
        "JnMiD8YUNH+yMYm/eiTMK2///s3P8G4y6QfJv3/7RPn3r9+IHncC5AIIAgEAaABLGIsVANQXY4wX490FIgAQJAwA"
        "ICCEfEMBCw=="
    ),
    "lossy": (
        "/wpDQAq3DCZQMBdsKMDBAeKxkTiq2wB9GtJj1yzQ8OvKEENuO64Iovcsg+0L8liWZrB9wTHBdj/qwC/1eTQajT7V"
        "x2+1BC48+OBjAQDe+RoZmxrYDBcALjjooGMAAAUAkHK7cTDOeoyalnwIbr2/V4cZAAAAMENIzWCsUH4AdBMAAAAA"
        "AAAAAACAG7xgOVnqhKIPCMBgrPKAhGs8t+zAyYMXrw6Zi9SobzHJoC/b++Xfv387Tuk3id2dUblZdHh+vBFkOX00"
        "JnMiD8YUNH+yMYm/eiTMK2///s3P8G4y6QfJv3/7RPn3r9+IHncC5AIAEogCAOAAXeUSAAAVKqOMG7yc6/nyQ4fF"
        "tI3rDG21bWFJosg4NkkncEgSiyDuhssBAUBAzBtwFnsGQ1NUkgA="
    ),
}


@pytest.mark.parametrize("source", [profiled_bmp, profiled_jp2])
def test_an_embedded_profile_is_converted(source: Callable[[bytes], bytes]) -> None:
    profile = p3()
    found = shown(source(profile))[0][0]
    wanted = in_srgb((200, 80, 40), profile)
    assert wanted[0] > 210
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= 3


@pytest.mark.parametrize("name", P3_JXL)
def test_a_jxl_in_display_p3_is_converted(name: str) -> None:
    pytest.importorskip("pyjpegxl")
    found = shown(base64.b64decode(P3_JXL[name]))[8][8]
    wanted = in_srgb((200, 80, 40), p3())
    assert max(abs(one - other) for one, other in zip(found, wanted, strict=True)) <= 6


@pytest.mark.parametrize("bits", [8, 16])
def test_a_jxl_whose_colours_are_multiplied_by_its_alpha_is_shown_as_meant(bits: int) -> None:
    unit = 1 if bits == 8 else 257
    pixel = np.array([100, 15, 15, 128]) * unit
    stored = np.full((16, 16, 4), pixel, np.uint8 if bits == 8 else np.uint16)
    plain = jxl(stored, lossless=True)
    assert shown(plain, "RGBA")[8][8] == [100, 15, 15, 128]
    multiplied = crafted.premultiplied_jxl(decoders._codestream(plain))
    red, green, blue, alpha = shown(multiplied, "RGBA")[8][8]
    assert abs(red - 199) <= 2
    assert max(abs(green - 30), abs(blue - 30)) <= 2
    assert alpha == 128


def test_a_jpeg_2000_in_cmyk_is_converted() -> None:
    patch = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = shown(studio.saved(patch, "JPEG2000"))[0][0]
    assert red > 200
    assert max(green, blue) < 80


def dib(alpha: tuple[int, ...], mask: bytes, *, fields: bool = False) -> bytes:
    """The bitmap of an icon of 16 x 16 red pixels; rows come from below, and begin with these."""
    side = 16
    head = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, 32, 3 * fields, 0, 0, 0, 0, 0)
    head += struct.pack("<III", 0xFF0000, 0xFF00, 0xFF) if fields else b""
    first = b"".join(bytes((0, 0, 255, at)) for at in alpha)
    return head + first + b"\0\0\xff\0" * (side * side - len(alpha)) + mask


UPPER_HALF = bytes(4) * 8 + b"\xff\xff\0\0" * 8


@pytest.mark.parametrize("fields", [False, True])
@pytest.mark.parametrize(
    ("alpha", "mask", "upper", "lower"),
    [
        ((), bytes(64), 255, 255),
        ((), b"", 255, 255),
        ((), UPPER_HALF, 0, 255),
        ((), b"\xff" * 64, 0, 0),
        # With any alpha the mask is ignored.
        ((128,), UPPER_HALF, 0, 0),
    ],
)
def test_the_mask_of_an_icon_applies_if_its_alpha_is_zero_everywhere(
    alpha: tuple[int, ...], mask: bytes, upper: int, lower: int, *, fields: bool
) -> None:
    source = ico(dib(alpha, mask, fields=fields), sides=(16,))
    found = studio.pixels(studio.rendered(source), "RGBA")
    assert found[0, 8, 3] == upper
    assert found[15, 8, 3] == lower
    assert found[15, 0, 3] == (alpha[0] if alpha else lower)
    assert not upper or found[0, 8, :3].tolist() == RED


BITS = (0, 1, 4, 8, 16, 24, 32, 256)


@pytest.mark.parametrize("claimed", BITS)
def test_the_alpha_of_an_icon_applies_whatever_its_directory_claims(claimed: int) -> None:
    source = ico(dib((0, 128, 255), bytes(64)), sides=(16,), bits=claimed)
    assert studio.looked_at(source, strict=True).has_alpha
    alpha = studio.pixels(studio.rendered(source), "RGBA")[..., 3]
    assert alpha[15, :3].tolist() == [0, 128, 255]
    assert alpha[0].max() == 0


@pytest.mark.parametrize("claimed", BITS)
@pytest.mark.parametrize("bits", [1, 4, 8, 24])
def test_an_icon_without_an_alpha_is_shown_whatever_its_directory_claims(
    bits: int, claimed: int
) -> None:
    side, palette = 16, bytes((0, 0, 255, 0)) * (1 << bits if bits <= 8 else 0)
    head = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, bits, 0, 0, 0, 0, 0, 0)
    pixel = bytes((0, 0, 255)) if bits == 24 else bytes(1)
    row = (pixel * side)[: side * bits // 8]
    row += bytes(-len(row) % 4)
    source = ico(head + palette + row * side + UPPER_HALF, sides=(side,), bits=claimed)
    assert studio.looked_at(source, strict=True).has_alpha
    found = studio.pixels(studio.rendered(source), "RGBA")
    assert (found[:8, :, 3].max(), found[8:, :, 3].min()) == (0, 255)
    assert (found[8:, :, :3] == RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_of_an_icon_is_ignored(orientation: int) -> None:
    """As in browsers, which read the pixels of the PNG only."""
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.new("RGB", (32, 16), "red")
    image.paste("blue", (0, 0, 16, 8))
    source = ico(studio.saved(image, exif=exif), sides=(32,))
    known = studio.looked_at(source, strict=True)
    assert (known.width, known.height) == (32, 16)
    found = studio.pixels(studio.rendered(source))
    assert studio.difference(found, studio.pixels(image)) == 0


def test_the_largest_image_of_an_icon_is_shown() -> None:
    images = [
        studio.saved(Image.new("RGBA", (side, side), colour))
        for side, colour in ((16, "red"), (48, "blue"), (32, "lime"))
    ]
    source = ico(*images, sides=(16, 48, 32))
    known = studio.looked_at(source, strict=True)
    assert (known.width, known.height) == (48, 48)
    assert shown(source)[0][0] == BLUE


def test_an_icon_has_the_size_of_its_image_not_of_its_directory() -> None:
    source = ico(studio.saved(Image.new("RGB", (300, 200), "red")), sides=(256,))
    known = studio.looked_at(source, strict=True)
    assert (known.width, known.height) == (300, 200)


def test_the_mask_of_an_icon_is_its_alpha() -> None:
    image = Image.new("RGBA", (32, 32), "red")
    image.paste((0, 0, 0, 0), (0, 0, 32, 8))
    source = studio.saved(image, "ICO", sizes=[(32, 32)], bitmap_format="bmp")
    alpha = studio.pixels(studio.rendered(source), "RGBA")[..., 3]
    assert alpha[0].max() == 0
    assert alpha[31].min() == 255


def test_an_animated_avif_moves() -> None:
    source = case("N08-anim.avif")
    known = studio.looked_at(source, strict=True)
    assert (known.source_type, known.pages) == ("avif", 5)
    found = studio.frames(studio.rendered(source, Format.WEBP, animated=True))
    wanted = studio.frames(source.read_bytes())
    assert len(found) == len(wanted) == 5
    for one, other in zip(found, wanted, strict=True):
        assert studio.difference(one[..., :3], other[..., :3]) < 3


def test_the_delays_of_an_animated_avif_are_kept() -> None:
    pages = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    source = studio.saved(
        pages[0], "AVIF", save_all=True, append_images=pages[1:], duration=[200, 400, 700]
    )
    moving = studio.opened(studio.rendered(source, Format.WEBP, animated=True))
    delays = []
    for index in range(3):
        moving.seek(index)
        moving.load()
        delays.append(moving.info["duration"])
    assert delays == [200, 400, 700]


def test_an_animated_avif_is_its_first_frame_in_formats_that_do_not_move() -> None:
    source = case("N08-anim.avif")
    first = studio.frames(source.read_bytes())[0]
    assert studio.difference(studio.pixels(studio.rendered(source)), first[..., :3]) < 3


def test_a_damaged_avif_animation_ends_with_its_last_complete_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = studio.opened(studio.saved(Image.new("RGB", (4, 4)), "PNG"))

    def seek(index: int) -> None:
        if index == 2:
            raise EOFError("no more frames")

    def pages(fail_on: str) -> int:
        image = SimpleNamespace(n_frames=4, seek=seek, load=lambda: None, info={}, page=page)
        return len(decoders._avif_frames(image, 4, fail_on).pages)

    monkeypatch.setattr(decoders, "exif_transpose", lambda image: image.page)
    assert pages("none") == 2
    with pytest.raises(EOFError):
        pages("error")


DIB = struct.pack("<IiiHHIIiiII", 40, 30_000, 60_000, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(64)
BOMBS: dict[str, Callable[[], bytes]] = {
    "a BMP": lambda: bmp((30_000, 30_000), b""),
    "a BMP from above": lambda: bmp((30_000, -30_000), b""),
    "an icon with a PNG": lambda: ico(crafted.png(30_000, 30_000), sides=(16,)),
    "an icon with a bitmap": lambda: ico(DIB, sides=(16,)),
    "a JPEG 2000": lambda: claimed_jp2(60_000, boxes=True),
    "a JPEG 2000 codestream": lambda: claimed_jp2(60_000, boxes=False),
    "a JPEG XL": lambda: jxl(np.zeros((16, 17_000, 1), np.uint8), lossless=True),
    "an animated AVIF with many frames": lambda: heif_bombs.sequence(501),
    "an animated AVIF with large frames": lambda: heif_bombs.sequence(3, 9_000),
    "an animated AVIF with one large size": lambda: heif_bombs.sequence(2, 16_000),
}


def claimed_jp2(side: int, *, boxes: bool) -> bytes:
    """A JPEG 2000 whose headers claim a size."""
    made = bytearray(studio.saved(Image.new("L", (64, 64)), "JPEG2000", no_jp2=not boxes))
    struct.pack_into(">II", made, made.index(b"\xff\x51") + 6, side, side)
    if boxes:
        struct.pack_into(">II", made, made.index(b"ihdr") + 4, side, side)
    return bytes(made)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_headers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        pytest.fail("pixels were decoded")

    monkeypatch.setattr(decoders, "_decoded", decoded)
    answer = studio.refused_or_known(BOMBS[name]())
    assert isinstance(answer, JobFailure)
    assert answer.kind == "too_large"
    assert "are allowed" in answer.detail


def test_a_jpeg_2000_whose_codestream_is_larger_than_its_header_is_refused() -> None:
    made = bytearray(claimed_jp2(64, boxes=True))
    struct.pack_into(">II", made, made.index(b"\xff\x51") + 6, 60_000, 60_000)
    answer = studio.refused_or_known(bytes(made))
    assert isinstance(answer, JobFailure)
    assert answer.kind == "undecodable"


def test_a_jxl_box_that_claims_gigabytes_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder would allocate them, and abort a process with less memory."""
    encoder = pytest.importorskip("pyjpegxl")
    seen: list[bytes] = []

    def probe(content: bytes) -> object:
        seen.append(content)
        return encoder.probe(content)

    spied = SimpleNamespace(probe=probe, decode=encoder.decode)
    monkeypatch.setattr(decoders, "pyjpegxl", spied)
    plain = jxl(np.zeros((16, 16, 3), np.uint8), lossless=True)
    signature = b"\0\0\0\x0cJXL \r\n\x87\n"
    kind = struct.pack(">I4s4sI4s", 20, b"ftyp", b"jxl ", 0, b"jxl ")
    coded = struct.pack(">I4s", 8 + len(plain), b"jxlc") + plain
    exif = struct.pack(">I4s", 0xFFFF_FF00, b"Exif") + bytes(16)
    assert studio.looked_at(signature + kind + coded + exif).width == 16
    assert isinstance(studio.refused_or_known(signature + kind + exif + coded), JobFailure)
    # The decoder sees the coded image alone.
    assert seen == [plain, b""]


@pytest.mark.parametrize("name", SAVED)
def test_a_file_that_ends_early_is_refused(name: str, picture: Image.Image) -> None:
    source = SAVED[name](picture)
    for share in (0.4, 0.8):
        answer = studio.refused_or_known(source[: int(len(source) * share)], strict=True)
        assert isinstance(answer, JobFailure), share
        assert answer.kind == "undecodable"
        assert not answer.traceback


def test_of_a_bmp_that_ends_early_what_is_there_is_shown(picture: Image.Image) -> None:
    source = studio.saved(picture, "BMP")
    found = studio.pixels(studio.rendered(source[: len(source) * 6 // 10]))
    # A BMP begins with its lowest row.
    wanted = studio.pixels(picture)
    assert studio.difference(found[-32:], wanted[-32:]) == 0
    assert studio.difference(found[:8], wanted[:8]) > 10


def test_a_worker_without_the_decoders_passes_the_job_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_decoders", [])
    answer = studio.refused_or_known(bmp((1, 1), bytes(4)))
    assert answer == JobFailure("other_decoder", "bmp is not accepted")
    answer = studio.refused_or_known(case("N08-anim.avif"))
    assert isinstance(answer, JobFailure)
    assert answer.kind == "other_decoder"


def test_an_avif_sequence_that_the_decoder_refuses_is_its_still_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: bytes) -> None:
        raise ValueError("no such track")

    monkeypatch.setattr(decoders, "_READERS", {"avif": refused})
    assert studio.looked_at(case("N08-anim.avif")).pages == 1
