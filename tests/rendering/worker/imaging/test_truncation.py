"""A source without all its pixels is refused with the row; a missing end marker is not missed."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import probe, truncation
from tests.rendering.worker.imaging import studio
from tests.support.photos import PHOTOS

CASES = PHOTOS.parent / "cases"
SIDE = 160
EOI = b"\xff\xd9"


def busy(mode: str = "RGB") -> Image.Image:
    """Blocks and noise: every row costs about as many bytes as any other."""
    random = np.random.default_rng(1)
    blocks = np.kron(random.integers(0, 235, (20, 20, 3)), np.ones((8, 8, 1), int))
    noise = random.integers(0, 20, (SIDE, SIDE, 3))
    return Image.fromarray((blocks + noise).astype(np.uint8)).convert(mode)


JPEGS = {
    "baseline": studio.saved(busy(), "JPEG"),
    "progressive": studio.saved(busy(), "JPEG", progressive=True, quality=90),
    "with restarts": studio.saved(busy(), "JPEG", restart_marker_blocks=7),
    "with its own Huffman codes": studio.saved(busy(), "JPEG", optimize=True),
    "grey": studio.saved(busy("L"), "JPEG"),
    "CMYK": studio.saved(busy("CMYK"), "JPEG"),
}
jpegs = pytest.mark.parametrize("jpeg", JPEGS.values(), ids=JPEGS)


def refusal(content: bytes | Path) -> str | None:
    """Why a strict probe refuses a source; None if it does not."""
    reply = studio.refused_or_known(content, strict=True)
    if not isinstance(reply, JobFailure):
        return None
    assert (reply.kind, reply.traceback) == ("undecodable", "")
    return reply.detail


def row_of(content: bytes | Path) -> int:
    """The row that the refusal names."""
    found = re.search(r"at row ([0-9,]+) of", refusal(content) or "")
    assert found, refusal(content)
    return int(found[1].replace(",", ""))


@jpegs
@pytest.mark.parametrize(
    "ending",
    [EOI, b"", b"\xff", EOI + bytes(5000), bytes(5000), bytes(5000) + EOI, EOI + b"trailer", b"\0"],
)
def test_a_jpeg_with_all_pixels_needs_no_end_marker(jpeg: bytes, ending: bytes) -> None:
    assert refusal(jpeg.removesuffix(EOI) + ending) is None


@jpegs
@pytest.mark.parametrize("padding", [b"", bytes(100), bytes(40_000), b"\xff" * 99])
@pytest.mark.parametrize("ending", [b"", EOI])
def test_a_part_of_a_jpeg_is_refused_whatever_follows(
    jpeg: bytes, padding: bytes, ending: bytes
) -> None:
    assert 0 < row_of(jpeg[: len(jpeg) * 9 // 10] + padding + ending) < SIDE


@pytest.mark.parametrize("name", [name for name in JPEGS if name != "progressive"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_row_is_the_one_where_the_pixels_end(name: str, share: float) -> None:
    jpeg = JPEGS[name]
    start = jpeg.index(b"\xff\xda")
    cut = start + round((len(jpeg) - start) * share)
    assert row_of(jpeg[:cut] + EOI) == pytest.approx(SIDE * share, abs=24)


@jpegs
def test_the_last_byte_of_the_pixels_is_missed(jpeg: bytes) -> None:
    assert row_of(jpeg[:-3]) >= SIDE - 16
    assert row_of(jpeg[:-3] + EOI) >= SIDE - 16


SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
ENCODINGS: dict[str, dict[str, int]] = {
    "baseline": {},
    "progressive": {"progressive": 1},
    "restarts": {"restart_marker_blocks": 3},
    "rows of restarts": {"restart_marker_rows": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_one_decode_is_enough_and_misses_no_lost_byte(
    mode: str, encoding: dict[str, int], sampling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last row of blocks is complete, has one row of pixels, or is not a multiple of either.
    for height in (SIDE, 145, 129, 70):
        image = busy(mode).crop((0, 0, 97, height))
        jpeg = studio.saved(image, "JPEG", subsampling=sampling, **encoding)
        with monkeypatch.context() as patch:
            # The decodes that find the row, and the one for the preview.
            patch.delattr(truncation, "_row_checksums")
            patch.delattr(probe, "preview")
            assert refusal(jpeg) is None, height
        data = jpeg.removesuffix(EOI)
        for lost in range(1, 20):
            layout = truncation._jpeg_layout(data[:-lost] + EOI)  # type: ignore[arg-type]
            content = data[:-lost].rstrip(b"\xff")
            # Whether the preview reads all rows or none.
            for reduce in (lambda page: page.resize(0.5), lambda _: None):
                if layout.complete:
                    with pytest.raises(truncation._Uncertain):
                        truncation._reduced(content, layout, height, reduce)


def with_scan_header(jpeg: bytes, values: bytes) -> bytes:
    """Replace first and last coefficient and the bits of the first scan (T.81, B.2.3)."""
    at = jpeg.index(b"\xff\xda") + 4
    at += 1 + 2 * jpeg[at]
    return jpeg[:at] + values + jpeg[at + 3 :]


@pytest.mark.parametrize("name", [name for name in JPEGS if name != "progressive"])
@pytest.mark.parametrize("frame", [b"\xff\xc0", b"\xff\xc1"])
@pytest.mark.parametrize("values", [b"\0\0\0", b"\0\x3f\1", b"\1\x3f\0", b"\0\xff\x10"])
def test_the_scan_header_of_a_sequential_jpeg_is_ignored(
    name: str, frame: bytes, values: bytes
) -> None:
    """Some cameras write other values than the standard has."""
    odd = with_scan_header(JPEGS[name].replace(b"\xff\xc0", frame, 1), values)
    assert refusal(odd) is None
    assert refusal(odd.removesuffix(EOI)) is None
    for ending in (b"", EOI, b"trailer" * 9):
        assert 0 < row_of(odd[: len(odd) * 9 // 10] + ending) < SIDE


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


COMPONENTS = bytes((3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1))
TRAILERS = {
    "a frame": segment(0xC2, struct.pack(">BHH", 8, SIDE, SIDE) + COMPONENTS),
    "a frame without components": segment(0xC0, struct.pack(">BHHB", 8, SIDE, SIDE, 0)),
    "an arithmetic frame": segment(0xC9, struct.pack(">BHH", 8, SIDE, SIDE) + COMPONENTS),
    "a scan of other components": segment(0xDA, bytes((2, 77, 0, 78, 0, 0, 0, 0))),
    "a scan of its components": segment(0xDA, bytes((1, 1, 0, 5, 5, 0))) + bytes(99),
    "a scan without components": segment(0xDA, bytes((0, 0, 0, 0))),
    "the number of lines": segment(0xDC, struct.pack(">H", SIDE)),
    "a comment": segment(0xFE, b"SEFT" * 99),
    "a reserved marker": b"\xff\x4f" + bytes(range(200)),
    "another image": JPEGS["progressive"],
    "an image and its map": JPEGS["baseline"] + JPEGS["grey"],
}


@jpegs
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
@pytest.mark.parametrize("end", [EOI, b""], ids=["ended", "open"])
def test_bytes_after_the_last_scan_are_not_part_of_the_image(
    jpeg: bytes, trailer: bytes, end: bytes
) -> None:
    """Telephones append panoramas and their own data, and some write no end marker."""
    assert refusal(jpeg.removesuffix(EOI) + end + trailer) is None


@pytest.mark.parametrize("name", [name for name in JPEGS if name != "with restarts"])
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
def test_a_part_of_a_jpeg_is_refused_whatever_image_follows(name: str, trailer: bytes) -> None:
    jpeg = JPEGS[name]
    assert "truncated" in (refusal(jpeg[: len(jpeg) * 8 // 10] + trailer) or "")


def test_damage_between_two_restarts_is_no_truncation() -> None:
    jpeg = bytearray(JPEGS["with restarts"])
    at = jpeg.index(b"\xff\xd3", len(jpeg) // 2) + 8
    jpeg[at : at + 2] = b"\xff\x4f"
    assert refusal(bytes(jpeg)) is None


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA])
def test_frames_that_are_not_coded_by_huffman_are_left_to_the_decoder(marker: int) -> None:
    content = JPEGS["baseline"].replace(b"\xff\xc0", bytes((0xFF, marker)), 1)
    layout = truncation._jpeg_layout(content)  # type: ignore[arg-type]
    assert (layout.frame, layout.scans) == (0, 1)
    assert "truncated" not in (refusal(content) or "")


def test_a_frame_without_rows_or_components_is_refused_by_the_decoder() -> None:
    jpeg = JPEGS["baseline"]
    at = jpeg.index(b"\xff\xc0") + 4
    # The number of lines may follow the first scan (T.81, B.2.5), which no decoder supports.
    later = jpeg[: at + 1] + bytes(2) + jpeg[at + 3 :]
    without = jpeg[: at + 5] + bytes(1) + jpeg[at + 6 :]
    for content in (later, without):
        assert "truncated" not in (refusal(content) or "truncated")


def test_a_jpeg_that_ends_between_two_restarts_is_refused() -> None:
    jpeg = JPEGS["with restarts"]
    middle = jpeg.index(b"\xff\xd3", len(jpeg) // 2)
    assert SIDE / 3 < row_of(jpeg[:middle] + EOI) < SIDE


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    jpeg = JPEGS["progressive"]
    last = jpeg.rindex(b"\xff\xda")
    assert "later scans are missing" in (refusal(jpeg[:last] + EOI) or "")
    assert "in scan 1 at row" in (refusal(jpeg[: jpeg.index(b"\xff\xda") + 60] + EOI) or "")


def test_a_flat_end_in_codes_of_zero_bits_is_no_padding() -> None:
    picture = busy()
    picture.paste("white", (0, 8, SIDE, SIDE))
    picture = picture.resize((1600, 1600), Image.Resampling.NEAREST)
    jpeg = studio.saved(picture, "JPEG", optimize=True, quality=60)
    assert refusal(jpeg) is None
    assert refusal(jpeg[:-2]) is None
    zeros = studio.saved(Image.new("L", (4000, 4000), 128), "JPEG", optimize=True)
    assert bytes(truncation._HUFFMAN_ZERO_RUN) in zeros
    assert refusal(zeros) is None
    assert refusal(zeros[:-2]) is None


@pytest.mark.parametrize(
    ("name", "row"), [("J04-no-eoi.jpg", None), ("J41-half-plus-eoi.jpg", 128)]
)
def test_the_known_cases_are_judged_right(name: str, row: int | None) -> None:
    case = CASES / name
    if not case.exists():
        pytest.skip("the cases are not beside this checkout")
    assert (refusal(case) if row is None else row_of(case)) == row


def png(*bodies: tuple[bytes, bytes]) -> bytes:
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in bodies
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rebuilt_png(share: float) -> bytes:
    """A PNG with a part of its compressed pixels, and every chunk in order."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(busy()))
    pixels = zlib.compress(rows, 1)
    part = pixels[: round(len(pixels) * share)]
    return png((b"IHDR", header), (b"IDAT", part), (b"IEND", b""))


@pytest.mark.parametrize("missing", [0, 1, 12, 13, 16])
def test_a_png_needs_nothing_after_its_pixels(missing: int) -> None:
    content = studio.saved(busy())
    assert refusal(content[: len(content) - missing]) is None


@pytest.mark.parametrize("ending", [b"", bytes(30_000), b"\0\0\0\0IEND\xaeB`\x82"])
def test_a_part_of_a_png_is_refused(ending: bytes) -> None:
    content = studio.saved(busy())
    # Zeros may be decoded as pixels before they contradict the checksum.
    assert SIDE / 3 < row_of(content[: len(content) // 2] + ending) < SIDE
    assert row_of(rebuilt_png(0.5)) == pytest.approx(SIDE / 2, abs=32)
    assert refusal(rebuilt_png(1.0)) is None


GIF = studio.saved(busy().quantize(64), "GIF", interlace=0)
ANIMATION = studio.saved(
    busy().quantize(64),
    "GIF",
    save_all=True,
    append_images=[busy().rotate(90).quantize(64)],
    interlace=1,
)


@pytest.mark.parametrize("gif", [GIF, ANIMATION], ids=["still", "animated"])
@pytest.mark.parametrize("ending", [b"\0;", b"\0", b"", b";", b"\0" * 900])
def test_a_gif_needs_nothing_after_its_pixels(gif: bytes, ending: bytes) -> None:
    assert refusal(gif.removesuffix(b"\0;") + ending) is None


@pytest.mark.parametrize("share", [0.4, 0.7])
@pytest.mark.parametrize("ending", [b"", b"\0;", bytes(900), bytes(900) + b"\0;"])
def test_a_part_of_a_gif_is_refused_whatever_follows(share: float, ending: bytes) -> None:
    part = GIF[: round(len(GIF) * share)]
    # Zeros first complete the block that was cut, as pixels of colour 0.
    assert row_of(part + ending) == pytest.approx(SIDE * share, abs=20)


def test_a_part_of_the_last_frame_is_refused_with_its_number() -> None:
    assert "in frame 2" in (refusal(ANIMATION[: len(ANIMATION) * 3 // 4] + b"\0;") or "")
    assert row_of(ANIMATION[: len(ANIMATION) * 3 // 4] + b"\0;") < SIDE


@pytest.mark.parametrize("fmt", ["WEBP", "AVIF"])
@pytest.mark.parametrize("lost", [1, 64, 5000])
def test_a_file_that_is_shorter_than_it_declares_is_refused_with_the_bytes(
    fmt: str, lost: int
) -> None:
    content = studio.saved(busy(), fmt, quality=95)
    detail = refusal(content[: len(content) - lost])
    assert detail == f"the source is truncated: missing bytes at its end: {lost:,}"


@pytest.mark.parametrize(
    ("fmt", "options"), [("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {})]
)
def test_zeros_in_place_of_the_last_pixels_are_refused(fmt: str, options: dict[str, bool]) -> None:
    content = studio.saved(busy(), fmt, quality=95, **options)
    assert refusal(content[:-5000] + bytes(5000)) is not None
    # Padding behind the file is harmless.
    assert refusal(content + bytes(5000)) is None


@pytest.mark.parametrize("lost", [1, SIDE * SIDE])
def test_a_part_of_a_tiff_is_refused(lost: int) -> None:
    content = studio.saved(busy(), "TIFF")
    row = SIDE - lost / (3 * SIDE)
    assert row_of(content[: len(content) - lost]) == pytest.approx(row, abs=17)
