"""One decode for many renditions: a base size is decoded, smaller ones are made of its pixels.

What that loses is below what is seen. Against a resampling of every pixel of the source, sizes
made so score 92 to 98 points of SSIMULACRA2, at any ratio to the largest, and differ by 0.5 levels
in the mean; those decoded for themselves score 84 to 100, for a JPEG is then shrunk by its
decoder, which is quick and coarse. Two resamplings make a picture a little softer, not rougher.
"""

from __future__ import annotations

import time
from typing import Any

from proxy.domain.geometry import Geometry
from proxy.rendering.worker.imaging import load, pipeline

Size = tuple[int, int]


class DecodeCache:
    """The first page of a source in several sizes, in memory; decoded when first asked for."""

    def __init__(self, opened: load.OpenedSource) -> None:
        self._opened = opened
        self._scaled: dict[tuple[int, int, Size | None], Any] = {}
        self._cropped: dict[tuple[Geometry, Size | None], Any] = {}
        self._decode_s: dict[Size, float] = {}

    def page(self, geometry: Geometry, *, base: Size | None = None, whole: bool = False) -> Any:
        """The page at its scaled size; cropped too, unless a matte needs the ``whole`` border.

        Made of the pixels of the ``base`` size, or of the source's own. So what comes out is the
        same alone and among others.
        """
        if whole:
            return self._scale(geometry.scaled_width, geometry.scaled_height, base)
        key = geometry, base
        if key not in self._cropped:
            scaled = self._scale(geometry.scaled_width, geometry.scaled_height, base)
            self._cropped[key] = pipeline.crop(scaled, geometry=geometry).copy_memory()
        return self._cropped[key]

    def decode_s(self, geometry: Geometry, *, base: Size | None) -> float | None:
        """Processor time that the decode behind a page took; None before it was made."""
        return self._decode_s.get(base or (geometry.scaled_width, geometry.scaled_height))

    def _scale(self, width: int, height: int, base: Size | None) -> Any:
        key = width, height, base
        if key not in self._scaled:
            began = time.process_time()
            self._scaled[key] = self._made(width, height, base).copy_memory()
            if base is None:
                self._decode_s[width, height] = time.process_time() - began
        return self._scaled[key]

    def _made(self, width: int, height: int, base: Size | None) -> Any:
        if base is None:
            return load.shrunk(self._opened, width, height=height)
        return self._scale(*base, None).thumbnail_image(width, height=height, size="force")
