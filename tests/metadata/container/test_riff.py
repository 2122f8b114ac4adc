"""WebP chunks."""

from __future__ import annotations

from proxy.metadata.container.result import BlockKind
from tests.support.containers import PACKET, tiff, walked, webp


def test_size_and_blocks_are_read() -> None:
    walk = walked(
        webp(
            (b"ICCP", b"profile"),
            (b"EXIF", b"Exif\0\0" + tiff({0x010F: "workflow:{}"})),
            (b"XMP ", PACKET.format("").encode()),
            (b"C2PA", b"manifest!"),
        )
    )
    assert (walk.image.width, walk.image.height, walk.image.pages) == (7, 6, 1)
    kinds = [BlockKind.ICC, BlockKind.EXIF, BlockKind.XMP, BlockKind.C2PA]
    assert [block.kind for block in walk.blocks] == kinds
    assert walk.exif[0].text == "workflow:{}"
    assert walk.warnings == ()


def test_frames_are_counted() -> None:
    assert walked(webp((b"ANMF", bytes(20)), (b"ANMF", bytes(21)))).image.pages == 2


def test_lossy_and_lossless_headers_are_read() -> None:
    lossy = b"VP8 \x0a\0\0\0" + b"\x10\0\0\x9d\x01\x2a\x40\x01\xf0\x00"
    lossless = b"VP8L\x0a\0\0\0" + b"\x2f\x3f\xc1\x3b\x10" + bytes(5)
    for content, size in ((lossy, (320, 240)), (lossless, (320, 240))):
        walk = walked(b"RIFF\x16\0\0\0WEBP" + content)
        assert (walk.image.width, walk.image.height) == size
    assert walked(b"RIFF\x16\0\0\0WEBP" + lossless).image.has_alpha is True


def test_what_follows_the_declared_end_is_not_read() -> None:
    content = webp((b"EXIF", tiff({0x0131: "Tool"})))
    plain = walked(content)
    for trailer in (bytes(80_000), b"XMP \x05\0\0\0<x/>\0\0", content[12:]):
        walk = walked(content + trailer)
        assert (walk.metadata_bytes, walk.warnings) == (plain.metadata_bytes, ())
        assert (walk.blocks, walk.end) == (plain.blocks, len(content))


def test_a_truncated_file_gives_what_was_read() -> None:
    content = webp((b"EXIF", tiff({0x0131: "Tool"})), (b"XMP ", b"<x/>" * 50))
    walk = walked(content[:-20])
    assert [entry.text for entry in walk.exif] == ["Tool"]
    assert walk.damaged
