"""The two views that are measured: the whole picture in small, and its middle at full size."""

from __future__ import annotations

from typing import Any

from proxy.rendering.worker.imaging import load

DETAIL_SIDE = 512
"""Pixels on a side of the middle: a multiple of `GRID`."""
GRID = 8
"""The side of a JPEG's blocks, to which the middle is aligned."""
_LUMA = [[0.299, 0.587, 0.114]]
"""Rec. ITU-R BT.601, as in JPEG."""
_WHITE = 255


def luma(page: Any) -> Any:
    """One band of 8 bits from sRGB, alpha laid on white."""
    opaque = page.flatten(background=_WHITE) if page.hasalpha() else page
    return opaque.recomb(_LUMA).rint().cast("uchar")


def detail(opened: load.OpenedSource) -> Any:
    """Luma of the middle of the first page at full size, as stored, in memory.

    Its corner is on the grid of `GRID`, so that the blocks of a JPEG are where they were made. An
    ICC profile is left aside: it changes little of sharpness and noise.
    """
    left, width = _middle(opened.header.width)
    top, height = _middle(opened.header.height)
    page = load.whole(opened, fail_on="none").crop(left, top, width, height)
    return luma(page.colourspace("srgb")).copy_memory()


def _middle(length: int) -> tuple[int, int]:
    """Where the middle part begins, and how long it is."""
    part = min(length, DETAIL_SIDE)
    return (length - part) // 2 // GRID * GRID, part


def levels(row: Any, kind: str) -> memoryview:
    """The values of a one-band image; ``kind`` is its format as `memoryview.cast` names it."""
    return memoryview(row.write_to_memory()).cast(kind)  # type: ignore[call-overload,no-any-return]
