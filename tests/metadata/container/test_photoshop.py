"""Image resource blocks in JPEG and PSD."""

from __future__ import annotations

import struct

from proxy.metadata.container.result import BlockKind
from tests.support.containers import PACKET, jpeg, segment, tiff, walked
from tests.support.golden import golden

IPTC = b"\x1c\x02\x78\x00\x07caption"


def resource(number: int, content: bytes, name: bytes = b"") -> bytes:
    pascal = bytes([len(name)]) + name
    pascal += bytes(len(pascal) % 2)
    padding = bytes(len(content) % 2)
    return (
        b"8BIM"
        + struct.pack(">H", number)
        + pascal
        + struct.pack(">I", len(content))
        + content
        + padding
    )


def test_iptc_in_a_jpeg_is_read_also_behind_named_resources() -> None:
    irb = resource(0x03ED, b"odd", b"name") + resource(0x0404, IPTC)
    walk = walked(jpeg(segment(0xED, b"Photoshop 3.0\0" + irb)))
    assert [(e.keyword, e.text) for e in walk.iptc] == [("Caption-Abstract", "caption")]


def test_a_resource_of_a_wrong_length_is_damage() -> None:
    irb = resource(0x0404, IPTC)[:-4]
    walk = walked(jpeg(segment(0xED, b"Photoshop 3.0\0" + irb)))
    assert walk.damaged
    assert [e.text for e in walk.iptc] == ["cap"]


def test_a_psd_has_a_size_and_blocks() -> None:
    resources = (
        resource(0x0422, tiff({0x0131: "Adobe Photoshop"}))
        + resource(0x0424, PACKET.format("").encode())
        + resource(0x040F, b"profile")
    )
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30, 40, 8, 3)
    walk = walked(head + struct.pack(">I", 0) + struct.pack(">I", len(resources)) + resources)
    assert (walk.image.width, walk.image.height, walk.image.channels) == (40, 30, 3)
    kinds = [BlockKind.PHOTOSHOP, BlockKind.EXIF, BlockKind.XMP, BlockKind.ICC]
    assert [block.kind for block in walk.blocks] == kinds
    assert [e.text for e in walk.exif] == ["Adobe Photoshop"]
    assert walk.metadata_bytes == len(resources)


def test_every_truncation_of_a_golden_psd_gives_what_was_read() -> None:
    content = golden("exiftool/images/Photoshop.psd").read_bytes()
    assert not walked(content).damaged
    for length in range(40, 15_000, 371):
        assert walked(content[:length]).damaged, length
