"""The result of a walk: byte counts, and finding texts by keyword."""

from __future__ import annotations

from proxy.metadata.container.result import BlockKind
from tests.support.containers import chunk, png, walked


def test_metadata_is_counted_in_bytes_and_found_by_kind() -> None:
    walk = walked(png(chunk(b"tEXt", b"a\0b"), chunk(b"caBX", b"manifest")))
    assert walk.metadata_bytes == 3 + 8
    block = walk.block(BlockKind.C2PA)
    assert block is not None
    assert block.content == b"manifest"
    assert walk.block(BlockKind.XMP) is None
