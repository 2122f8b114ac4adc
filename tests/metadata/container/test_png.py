"""PNG chunks before and after the pixels, exactly as written."""

from __future__ import annotations

import zlib

import pytest

from proxy.domain.errors import MetadataTooLarge
from proxy.metadata.container.result import BlockKind, TextEntry
from tests.support.containers import PACKET, chunk, png, text_chunk, tiff, walked
from tests.support.golden import golden


def texts(content: bytes) -> list[tuple[str, str]]:
    return [(entry.keyword, entry.text) for entry in walked(content).texts]


def test_size_and_depth_are_read() -> None:
    image = walked(png(width=640, height=480)).image
    assert (image.width, image.height, image.bit_depth, image.channels) == (640, 480, 8, 3)
    assert image.has_alpha is False
    assert image.pages == 1


def test_a_transparent_colour_is_alpha_and_frames_are_pages() -> None:
    image = walked(
        png(chunk(b"acTL", bytes([0, 0, 0, 7, 0, 0, 0, 0])), chunk(b"tRNS", bytes(6)))
    ).image
    assert image.has_alpha is True
    assert image.pages == 7


def test_text_in_latin_1_and_in_utf_8_is_decoded() -> None:
    latin = chunk(b"tEXt", "Author\0Jürgen".encode("latin-1"))
    utf8 = chunk(b"tEXt", "Author\0Jürgen 猫".encode())
    assert texts(png(latin, utf8)) == [("Author", "Jürgen"), ("Author", "Jürgen 猫")]


def test_equal_keywords_are_both_kept() -> None:
    assert texts(png(text_chunk("a", "1"), text_chunk("a", "2"))) == [("a", "1"), ("a", "2")]


@pytest.mark.parametrize("value", ["True", "007", "7.50", "1e400", "18446744073709551615"])
def test_a_text_is_returned_as_written(value: str) -> None:
    assert texts(png(text_chunk("seed", value))) == [("seed", value)]


def test_compressed_and_international_texts_are_read() -> None:
    ztxt = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"deflated"))
    itxt = chunk(b"iTXt", "k\0\0\0de-DE\0Schlüssel\0plain".encode())
    both = chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress("猫".encode()))
    assert walked(png(ztxt, itxt, both)).texts == (
        TextEntry("k", "PNG zTXt", "deflated"),
        TextEntry("k", "PNG iTXt", "plain", "de-DE"),
        TextEntry("k", "PNG iTXt", "猫"),
    )


def test_text_after_the_pixels_is_read() -> None:
    assert texts(png(after=[text_chunk("parameters", "late")])) == [("parameters", "late")]


def test_a_bomb_is_refused() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(32 << 20), 9))
    with pytest.raises(MetadataTooLarge, match="inflates to more than 1 MiB"):
        walked(png(bomb))


def test_ten_thousand_chunks_are_refused_but_many_chunks_of_pixels_are_not() -> None:
    with pytest.raises(MetadataTooLarge):
        walked(png(*[text_chunk("a", "b")] * 10_000))
    assert walked(png(*[chunk(b"IDAT", bytes(8192))] * 10_500)).warnings == ()


def test_exif_xmp_icc_and_manifests_are_blocks() -> None:
    packet = PACKET.format("").encode()
    walk = walked(
        png(
            chunk(b"eXIf", tiff({0x0131: "Tool 1.0"})),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
            chunk(b"iCCP", b"name\0\0" + zlib.compress(b"profile")),
            chunk(b"caBX", b"jumbf"),
        )
    )
    kinds = [BlockKind.EXIF, BlockKind.XMP, BlockKind.ICC, BlockKind.C2PA]
    assert [block.kind for block in walk.blocks] == kinds
    assert walk.blocks[2].content == b"profile"
    assert [(entry.keyword, entry.text) for entry in walk.exif] == [("Software", "Tool 1.0")]
    assert walk.texts == ()


def test_raw_profiles_of_imagemagick_are_blocks() -> None:
    content = b"Exif\0\0" + tiff({0x0131: "Tool 2.0"})
    profile = f"\nexif\n    {len(content)}\n{content.hex()}\n".encode()
    walk = walked(png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))))
    assert [entry.text for entry in walk.exif] == ["Tool 2.0"]


def test_a_raw_profile_that_is_not_hexadecimal_is_a_warning() -> None:
    walk = walked(png(text_chunk("Raw profile type xmp", "\nxmp\n 3\nxyz\n")))
    assert walk.blocks == ()
    assert walk.warnings == ("PNG tEXt: a raw profile is not hexadecimal",)


def test_a_truncated_file_gives_what_was_read() -> None:
    content = png(text_chunk("a", "1"), text_chunk("prompt", "a long text"))
    walk = walked(content[: content.index(b"long")])
    assert [entry.text for entry in walk.texts] == ["1", "a "]
    assert walk.damaged
    assert "PNG tEXt is truncated" in walk.warnings


def test_a_wrong_checksum_is_damage() -> None:
    content = bytearray(png(text_chunk("a", "value")))
    content[content.index(b"value")] ^= 1
    walk = walked(bytes(content))
    assert walk.warnings == ("PNG tEXt has a wrong checksum",)
    assert walk.damaged


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 30, b"\xff" * 30, b"tEXt" * 9])
def test_rubbish_after_the_signature_is_damage(rubbish: bytes) -> None:
    assert walked(b"\x89PNG\r\n\x1a\n" + rubbish).damaged


def test_text_behind_the_pixels_of_a_golden_file_is_found() -> None:
    content = golden("sd-parsers/tests__resources__bad_images__text_after_idat.png").read_bytes()
    found = dict(texts(content))
    assert found["parameters"].startswith("photo of a duck\n")
