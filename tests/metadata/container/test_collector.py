"""Limits of the walk, and the encodings of text."""

from __future__ import annotations

import zlib
from io import BytesIO

import pytest

from proxy.domain.errors import MetadataTooLarge
from proxy.metadata.container.collector import (
    MAX_CHUNKS,
    MAX_METADATA_BYTES,
    MAX_WARNINGS,
    Collector,
    decode_text,
)
from proxy.metadata.container.result import Extent


def collector(content: bytes = b"") -> Collector:
    return Collector(BytesIO(content))


def test_more_chunks_than_the_limit_are_too_many() -> None:
    one = collector()
    for _ in range(MAX_CHUNKS):
        one.count_chunk()
    with pytest.raises(MetadataTooLarge, match="10,000 chunks"):
        one.count_chunk()


def test_more_metadata_than_the_limit_is_too_much() -> None:
    one = collector(bytes(MAX_METADATA_BYTES + 1))
    one.claim(0, MAX_METADATA_BYTES)
    with pytest.raises(MetadataTooLarge, match="16 MiB"):
        one.claim(MAX_METADATA_BYTES, 1)


def test_inflating_stops_at_one_mebibyte() -> None:
    with pytest.raises(MetadataTooLarge, match="inflates to more than 1 MiB"):
        collector().inflate(zlib.compress(bytes(32 << 20)), "PNG zTXt")
    assert len(collector().inflate(zlib.compress(bytes(1 << 20)), "PNG zTXt")) == 1 << 20


def test_inflating_stops_at_eight_mebibytes_of_a_file() -> None:
    one = collector()
    deflated = zlib.compress(bytes(1 << 20))
    for _ in range(8):
        one.inflate(deflated, "PNG zTXt")
    with pytest.raises(MetadataTooLarge, match="8 MiB"):
        one.inflate(deflated, "PNG zTXt")


def test_a_damaged_stream_gives_what_could_be_inflated() -> None:
    one = collector()
    assert one.inflate(b"not deflated", "PNG zTXt") == b""
    text = bytes(range(256)) * 9
    assert text.startswith(one.inflate(zlib.compress(text)[:-40], "PNG zTXt"))
    assert one.damaged
    assert one.result("png").warnings == (
        "PNG zTXt cannot be inflated",
        "PNG zTXt is truncated",
    )


def test_metadata_behind_the_end_of_the_file_is_a_truncation() -> None:
    one = collector(b"0123456789")
    assert one.metadata(6, 10, "PNG tEXt") == b"6789"
    assert one.metadata(20, 10, "PNG tEXt") == b""
    walk = one.result("png")
    assert walk.damaged
    assert walk.metadata_bytes == 4


def test_ranges_that_overlap_or_touch_are_joined() -> None:
    one = collector(bytes(100))
    for offset, length in ((50, 10), (0, 10), (10, 5), (52, 3), (70, 0)):
        one.claim(offset, length)
    assert one.result("png").ranges == (Extent(0, 15), Extent(50, 10))


def test_short_and_long_reads_return_the_same_bytes() -> None:
    content = bytes(range(256)) * 1024
    one = collector(content)
    for offset, length in ((0, 8), (3, 8), (100_000, 5), (0, 200_000), (262_140, 99), (10**9, 1)):
        assert one.read(offset, length) == content[offset : offset + length]
    assert one.read(5, -1) == b""


def test_warnings_are_kept_once_and_up_to_a_limit() -> None:
    one = collector()
    for number in range(2 * MAX_WARNINGS):
        one.warn("the same")
        one.warn(f"warning {number}")
    assert len(one.result("png").warnings) == MAX_WARNINGS


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        ("Tür, 猫".encode(), "Tür, 猫"),
        ("Tür".encode("latin-1"), "Tür"),
        (b"\x93T\xfcr\x94", "“Tür”"),
        (b"\x81T\xfcr", "\x81Tür"),
        (b"", ""),
    ],
)
def test_text_is_utf_8_if_valid_otherwise_windows_1252(raw: bytes, text: str) -> None:
    assert decode_text(raw) == text


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_side_of_0_is_unknown_with_a_warning(side: str) -> None:
    one = collector()
    one.set_image(**{"width": 5, "height": 4, side: 0})
    assert getattr(one.image, side) is None
    assert one.result("png").warnings == (f"The header of the image gives 0 as its {side}",)
    one.set_image(**{side: 7})
    assert getattr(one.image, side) == 7
