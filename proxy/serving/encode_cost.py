"""Costs: what renditions took to make, learned while the server runs."""

from __future__ import annotations

from cachetools import LRUCache

from proxy.domain.variant import Variant

_MAX_KINDS = 1000
_WEIGHT = 0.3
"""Of the latest figure: after six of them what was before counts for a tenth."""

_Kind = tuple[str, str, int]


class EncodeCostModel:
    """Seconds of processor time for a pixel, by encoding and by octave of the picture's size.

    A small picture has its own figure: what it costs to open and shrink its source is no matter of
    its own pixels.
    """

    def __init__(self) -> None:
        self._per_pixel: LRUCache[_Kind, float] = LRUCache(_MAX_KINDS)

    def learn(self, variant: Variant, cpu_s: float) -> None:
        """Take note of what a rendition took."""
        kind, latest = _kind(variant), cpu_s / variant.pixels
        before = self._per_pixel.get(kind, latest)
        self._per_pixel[kind] = before + _WEIGHT * (latest - before)

    def estimate_s(self, variant: Variant) -> float | None:
        """What a rendition will probably take; None where nothing like it was made yet."""
        per_pixel = self._per_pixel.get(_kind(variant))
        return None if per_pixel is None else per_pixel * variant.pixels


def _kind(variant: Variant) -> _Kind:
    alternative = "" if variant.alternative is None else variant.alternative.text
    return variant.stage.text, alternative, variant.pixels.bit_length()
