"""GIF comments and application extensions."""

from __future__ import annotations

from proxy.metadata.container.result import BlockKind
from tests.support.containers import PACKET, gif, sub_blocks, walked

TRAILER = b"\x01" + bytes(range(255, -1, -1))


def test_size_and_comments_are_read() -> None:
    walk = walked(
        gif(b"\x21\xfe" + sub_blocks(b"x" * 300), b"\x21\xfe" + sub_blocks("né".encode()))
    )
    assert [(t.keyword, t.text) for t in walk.texts] == [("Comment", "x" * 300), ("Comment", "né")]
    assert (walk.image.width, walk.image.height, walk.image.pages) == (1, 1, 1)
    assert walk.warnings == ()


def test_xmp_is_read_without_its_trailer() -> None:
    packet = PACKET.format('<rdf:Description xmlns:q="urn:q" q:a="1"/>').encode()
    walk = walked(gif(b"\x21\xff\x0bXMP DataXMP" + packet + TRAILER + b"\0"))
    assert walk.blocks[0].content == packet
    assert walk.xmp[0].keyword == "q:a"


def test_a_profile_and_a_manifest_are_blocks() -> None:
    icc = b"\x21\xff\x0bICCRGBG1012" + sub_blocks(b"profile")
    c2pa = b"\x21\xff\x0bC2PA_GIF\x01\0\0" + sub_blocks(b"manifest")
    walk = walked(gif(icc, c2pa))
    assert [(b.kind, b.content) for b in walk.blocks] == [
        (BlockKind.ICC, b"profile"),
        (BlockKind.C2PA, b"manifest"),
    ]


def test_a_transparent_frame_is_alpha() -> None:
    assert walked(gif(b"\x21\xf9\x04\x01\0\0\0\0")).image.has_alpha is True
    assert walked(gif()).image.has_alpha is False


def test_every_truncation_gives_what_was_read() -> None:
    content = gif(b"\x21\xfe" + sub_blocks(b"comment"))
    for length in range(6, len(content) - 1):
        assert walked(content[:length]).damaged, length
    assert [t.text for t in walked(content[:-3]).texts] == ["comment"]
