"""Pixels that the measures read: luma, the middle of an image at full size, and raw values."""

from __future__ import annotations

from typing import Any

from proxy.rendering.worker.imaging import load

DETAIL_SIDE = 512
"""Side of the middle in pixels, a multiple of `GRID`."""
GRID = 8
"""Side of a JPEG block; the middle is aligned to the blocks."""
_LUMA = [[0.299, 0.587, 0.114]]
"""Rec. ITU-R BT.601, as in JPEG."""
_WHITE = 255


def luma(page: Any) -> Any:
    """Return one 8-bit band from sRGB, with transparency on white."""
    opaque = page.flatten(background=_WHITE) if page.hasalpha() else page
    return opaque.recomb(_LUMA).rint().cast("uchar")


def detail(opened: load.OpenedSource) -> Any:
    """Return luma of the middle of the first page at full size, as stored, in memory.

    Its corner lies on the grid of `GRID`, so block borders keep their positions. The ICC profile is
    ignored: it hardly affects sharpness and noise.
    """
    left, width = _middle(opened.header.width)
    top, height = _middle(opened.header.height)
    page = load.whole(opened, fail_on="none").crop(left, top, width, height)
    return luma(page.colourspace("srgb")).copy_memory()


def _middle(length: int) -> tuple[int, int]:
    """Return start and length of a centred part of a side, in pixels."""
    part = min(length, DETAIL_SIDE)
    return (length - part) // 2 // GRID * GRID, part


def levels(row: Any, kind: str) -> memoryview:
    """Return the values of a one-band image; ``kind`` is its format for `memoryview.cast`."""
    return memoryview(row.write_to_memory()).cast(kind)  # type: ignore[call-overload,no-any-return]
