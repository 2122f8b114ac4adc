"""Boxes: items of HEIC and AVIF, uuid boxes, JPEG XL, and lengths that are wrong."""

from __future__ import annotations

import struct

import brotli
import pytest

from proxy.domain.errors import MetadataTooLarge
from proxy.metadata.container import collector
from proxy.metadata.container.result import BlockKind
from tests.support.containers import PACKET, box, tiff, walked
from tests.support.golden import golden

FTYP = box(b"ftyp", b"avif", bytes(4), b"mif1avif")
XMP = PACKET.format('<rdf:Description xmlns:q="urn:q" q:a="1"/>').encode()
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl ", bytes(4), b"jxl ")
EXIF = bytes(4) + tiff({0x0131: "Tool"})


def full(kind: bytes, version: int, *contents: bytes) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *contents)


def image(*, method: int = 0) -> bytes:
    """Return an AVIF with an EXIF and an XMP item, in mdat or (method 1) in idat."""

    def infe(number: int, kind: bytes, rest: bytes = b"") -> bytes:
        return full(b"infe", 2, struct.pack(">HH", number, 0), kind, b"\0", rest)

    iinf = full(
        b"iinf",
        0,
        struct.pack(">H", 3),
        infe(1, b"av01"),
        infe(2, b"Exif"),
        infe(3, b"mime", b"application/rdf+xml\0"),
    )
    pitm = full(b"pitm", 0, struct.pack(">H", 1))
    ispe = full(b"ispe", 0, struct.pack(">II", 40, 30))
    thumbnail = full(b"ispe", 0, struct.pack(">II", 4, 3))
    ipma = full(b"ipma", 0, struct.pack(">IHBB", 1, 1, 1, 2))
    iprp = box(b"iprp", box(b"ipco", thumbnail, ispe), ipma)

    def meta(start: int) -> bytes:
        entries = b"".join(
            struct.pack(">HHHHII", number, method, 0, 1, at, length)
            for number, at, length in ((2, start, len(EXIF)), (3, start + len(EXIF), len(XMP)))
        )
        iloc = full(b"iloc", 1, struct.pack(">HH", 0x4400, 2), entries)
        idat = box(b"idat", EXIF, XMP) if method == 1 else b""
        return full(b"meta", 0, pitm, iinf, iprp, iloc, idat)

    if method == 1:
        return FTYP + meta(0)
    start = len(FTYP) + len(meta(0)) + 8
    return FTYP + meta(start) + box(b"mdat", EXIF, XMP)


@pytest.mark.parametrize("method", [0, 1])
def test_items_are_read_from_mdat_and_idat(method: int) -> None:
    walk = walked(image(method=method))
    assert walk.format == "avif"
    assert [(e.keyword, e.text) for e in walk.exif] == [("Software", "Tool")]
    assert [(e.keyword, e.text) for e in walk.xmp] == [("q:a", "1")]
    assert walk.metadata_bytes == len(EXIF) + len(XMP)
    assert walk.warnings == ()


def test_the_size_is_that_of_the_primary_item() -> None:
    assert (walked(image()).image.width, walked(image()).image.height) == (40, 30)


def test_uuid_boxes_hold_xmp_and_manifests() -> None:
    xmp = box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), XMP)
    c2pa = box(
        b"uuid",
        bytes.fromhex("d8fec3d61b0e483c92975828877ec481"),
        bytes(4),
        b"manifest\0",
        bytes(8),
        b"jumbf",
    )
    walk = walked(FTYP + xmp + c2pa)
    assert [(b.kind, b.content) for b in walk.blocks] == [
        (BlockKind.XMP, XMP),
        (BlockKind.C2PA, b"jumbf"),
    ]


def test_jpeg_xl_boxes_are_read() -> None:
    walk = walked(JXL + box(b"Exif", EXIF) + box(b"xml ", XMP) + box(b"jumb", b"...."))
    assert [b.kind for b in walk.blocks] == [BlockKind.EXIF, BlockKind.XMP, BlockKind.C2PA]


def packed(kind: bytes, content: bytes) -> bytes:
    return box(b"brob", kind, brotli.compress(content))


def test_compressed_boxes_of_jpeg_xl_are_read_as_plain_ones() -> None:
    boxes = ((b"Exif", EXIF), (b"xml ", XMP), (b"jumb", b"...."))
    plain, compressed = (
        walked(JXL + b"".join(form(kind, content) for kind, content in boxes))
        for form in (box, packed)
    )
    assert [(b.kind, b.where, b.content) for b in compressed.blocks] == [
        (b.kind, b.where, b.content) for b in plain.blocks
    ]
    assert [one.text for one in compressed.exif] == ["Tool"]
    assert not compressed.warnings


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1 << 20) + 1, 100 << 20])
def test_a_compressed_box_that_grows_too_large_is_refused(size: int) -> None:
    with pytest.raises(MetadataTooLarge, match="more than 1 MiB"):
        walked(JXL + packed(b"xml ", bytes(size)))


def test_many_compressed_boxes_may_not_grow_too_large_together() -> None:
    with pytest.raises(MetadataTooLarge, match="more than 8 MiB"):
        walked(JXL + 9 * packed(b"xml ", bytes(1 << 20)))


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"\xff\xff\xff\xff", "cannot be decompressed"),
        (brotli.compress(XMP)[:-3], "is truncated"),
        (b"", "is truncated"),
    ],
)
def test_a_damaged_compressed_box_is_a_warning(content: bytes, warning: str) -> None:
    walk = walked(JXL + box(b"brob", b"xml ", content) + box(b"Exif", EXIF))
    assert walk.damaged
    assert walk.warnings[0] == f"The compressed box xml  at byte {len(JXL)} {warning}"
    assert walk.blocks[-1].kind is BlockKind.EXIF


def test_compressed_boxes_of_other_kinds_are_named_only() -> None:
    walk = walked(JXL + packed(b"acme", b"content"))
    assert [one.where for one in walk.other] == [f"The compressed box acme at byte {len(JXL)}"]
    assert not walk.blocks


def test_without_the_library_a_compressed_box_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "brotli", None)
    walk = walked(JXL + packed(b"Exif", EXIF))
    assert not walk.blocks
    assert "is compressed with Brotli; the extra jxl that reads it is missing" in walk.warnings[0]


def test_compressed_boxes_of_a_golden_jpeg_xl_are_read() -> None:
    walk = walked((golden("exiftool/images") / "JXL2.jxl").read_bytes())
    assert [(one.keyword, one.text) for one in walk.exif] == [("Artist", "me")]
    assert ("dc:subject", "ExifTool test") in [(one.keyword, one.text) for one in walk.xmp]


def test_the_size_of_a_golden_jpeg_xl_is_read() -> None:
    folder = golden("exiftool/images")
    for name in ("JXL.jxl", "JXL2.jxl"):
        facts = walked((folder / name).read_bytes()).image
        assert (facts.width, facts.height) == (200, 130)


def test_a_canon_raw_file_has_the_exif_of_its_boxes() -> None:
    canon = box(
        b"uuid",
        bytes.fromhex("85c0b687820f11e08111f4ce462b6a48"),
        box(b"CMT1", tiff({0x010F: "Canon"})),
    )
    walk = walked(box(b"ftyp", b"crx ", bytes(4), b"crx ") + box(b"moov", canon))
    assert walk.format == "cr3"
    assert [e.text for e in walk.exif] == ["Canon"]


def test_a_box_of_an_impossible_length_ends_the_walk() -> None:
    walk = walked(FTYP + struct.pack(">I4s", 3, b"meta"))
    assert walk.damaged


def test_every_truncation_gives_what_was_read() -> None:
    content = image()
    for length in range(len(FTYP) + 8, len(content) - 1):
        assert walked(content[:length]).damaged, length


def test_ten_thousand_boxes_are_refused() -> None:
    with pytest.raises(MetadataTooLarge):
        walked(FTYP + box(b"free") * 10_001)


def test_extents_of_no_length_are_refused() -> None:
    entries = struct.pack(">HHH", 1, 0, 0xFFFF) * 0xFFFF
    iloc = full(b"iloc", 0, struct.pack(">HH", 0, 0xFFFF), entries)
    with pytest.raises(MetadataTooLarge):
        walked(FTYP + full(b"meta", 0, iloc))


def test_deeply_nested_boxes_end() -> None:
    content = b""
    for _ in range(20):
        content = box(b"trak", content)
    assert walked(FTYP + box(b"moov", content)).warnings == ("Boxes are nested too deeply",)
