"""Small images of types whose pixels or frames other libraries than libvips decode."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from proxy.rendering.worker.imaging import libvips

SIZE = (96, 64)
_FRAMES = ("red", "lime", "blue")


def _saved(kind: str, pages: Sequence[Image.Image], **options: Any) -> bytes:
    buffer = io.BytesIO()
    if len(pages) > 1:
        options |= {"save_all": True, "append_images": pages[1:], "duration": 100}
    pages[0].save(buffer, kind, **options)
    return buffer.getvalue()


def _drawn() -> list[Image.Image]:
    return [Image.new("RGB", SIZE, colour) for colour in _FRAMES]


def _heic() -> bytes:
    pytest.importorskip("pi_heif")
    return libvips._HEIC_SAMPLE


def _jxl() -> bytes:
    encoder = pytest.importorskip("pyjpegxl")
    return bytes(encoder.encode_from_numpy(np.asarray(_drawn()[0])))


@dataclass(frozen=True, slots=True)
class SmallImage:
    """How an image is made, and what a server knows of it."""

    make: Callable[[], bytes]
    media_type: str
    size: tuple[int, int] = SIZE
    pages: int = 1


SMALL_IMAGES: Mapping[str, SmallImage] = {
    # The sample is a square of one grey.
    "heic": SmallImage(_heic, "image/heic", (16, 16)),
    "bmp": SmallImage(lambda: _saved("BMP", _drawn()[:1]), "image/bmp"),
    "ico": SmallImage(
        lambda: _saved("ICO", _drawn()[:1], sizes=[SIZE]), "image/vnd.microsoft.icon"
    ),
    "jp2": SmallImage(lambda: _saved("JPEG2000", _drawn()[:1]), "image/jp2"),
    "jxl": SmallImage(_jxl, "image/jxl"),
    "avif": SmallImage(lambda: _saved("AVIF", _drawn(), speed=10), "image/avif", pages=3),
    "apng": SmallImage(lambda: _saved("PNG", _drawn()), "image/png", pages=3),
}
"""By the suffix of their files; those with pages are animations."""


def frame_count(encoded: bytes) -> int:
    """Return the number of frames of a response."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        return int(getattr(image, "n_frames", 1))
