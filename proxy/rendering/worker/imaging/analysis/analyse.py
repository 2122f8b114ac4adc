"""Analyses an image from two views of it: a small version, and its middle at full size."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any, TypeVar

from proxy.domain.analysis import AnalysisResult, Kind, Quality
from proxy.domain.worker_protocol import AnalyseJob, JobFailure
from proxy.rendering.worker.imaging import background_removal, load, probe
from proxy.rendering.worker.imaging.analysis import (
    blockiness,
    blurhash,
    classification,
    colour_histogram,
    exposure,
    mood,
    noise,
    palette,
    phash,
    quality_score,
    sampling,
    sharpness,
    thumbhash,
)
from proxy.rendering.worker.imaging.error_translation import answered

_T = TypeVar("_T")
_FULL = 255
_THUMBHASH_SIDE = 64
"""Longer side in pixels of the input of a ThumbHash; the format allows `thumbhash.MAX_SIDE`."""
_BLURHASH_SIDE = 32
"""Longer side in pixels of the input of a BlurHash: more than its terms can resolve."""


def analyse(job: AnalyseJob, source_fd: int) -> AnalysisResult | JobFailure:
    """Analyse the first page of the seekable file behind a descriptor."""
    return answered(lambda: _Analyser(job, source_fd).result())


class _Analyser:
    """The views of one image, and the processor time of each measure."""

    def __init__(self, job: AnalyseJob, source_fd: int) -> None:
        self._stages: dict[str, float] = {}
        self._opened = load.open_source(source_fd, job.limits)
        self._preview = self._timed("look", lambda: probe.preview(self._opened))
        self._detail = self._timed("detail", lambda: sampling.detail(self._opened))
        self._opaque = probe.opaque(self._preview).copy_memory()
        self._has_alpha = bool(self._preview.hasalpha() and self._preview[-1].min() < _FULL)

    def result(self) -> AnalysisResult:
        """Compute all measures."""
        bins = self._timed("colours", lambda: colour_histogram.count(self._preview))
        clusters = self._timed("colours", lambda: palette.clusters(bins))
        kind = self._timed("kind", lambda: self._kind(bins))
        return AnalysisResult(
            *self._opened.header.upright,
            dominant_colours=palette.dominant(clusters),
            brand_colours=palette.brand(clusters, self._background()),
            quality=self._quality(kind),
            mood_keywords=mood.keywords(bins),
            kind=kind,
            thumbhash=self._timed("placeholders", self._thumbhash),
            blurhash=self._timed("placeholders", self._blurhash),
            phash=self._timed("phash", self._phash),
            focus=self._timed("focus", lambda: probe.focus(self._opaque)),
            stages=self._stages,
        )

    def _timed(self, name: str, work: Callable[[], _T]) -> _T:
        started = time.process_time()
        result = work()
        self._stages[name] = self._stages.get(name, 0.0) + time.process_time() - started
        return result

    def _kind(self, bins: list[colour_histogram.ColourBin]) -> Kind:
        isolated = self._has_alpha or background_removal.is_flat(self._opaque)
        traits = classification.traits(
            self._detail, bins, isolated=isolated, has_alpha=self._has_alpha
        )
        return classification.decide(traits)

    def _background(self) -> colour_histogram.Rgb | None:
        """Return the colour of a flat background, or None; a transparent image has none."""
        colour = None if self._has_alpha else background_removal.background_colour(self._opaque)
        if colour is None:
            return None
        red, green, blue = (round(level) for level in colour.rgb)
        return red, green, blue

    def _quality(self, kind: Kind) -> Quality:
        # Noise comes first: sharpness and exposure subtract its share.
        sigma = self._timed("noise", lambda: noise.sigma(self._detail))
        frequency = self._timed("sharpness", lambda: sharpness.frequency(self._detail, sigma))
        excess = self._timed("blockiness", lambda: blockiness.excess(self._detail))
        luma = sampling.luma(self._preview)
        shares = self._timed("tone", lambda: exposure.histogram(luma))
        parts = {
            "sharpness": sharpness.score(frequency),
            "noise": noise.score(sigma),
            "blockiness": blockiness.score(excess),
            "exposure": exposure.exposure(shares, sigma),
            "contrast": exposure.contrast(shares),
            "resolution": quality_score.resolution(*self._opened.header.upright),
        }
        return quality_score.quality(parts, kind.name)

    def _thumbhash(self) -> str:
        small = _within(self._preview, _THUMBHASH_SIDE)
        rgba = small if small.hasalpha() else small.bandjoin(_FULL)
        encoded = thumbhash.encode(small.width, small.height, bytes(rgba.write_to_memory()))
        return base64.b64encode(encoded).decode("ascii")

    def _blurhash(self) -> str:
        small = _within(self._opaque, _BLURHASH_SIDE)
        return blurhash.encode(small.width, small.height, bytes(small.write_to_memory()))

    def _phash(self) -> str:
        side = phash.SIDE
        grey = sampling.luma(self._opaque).thumbnail_image(side, height=side, size="force")
        return phash.encode(grey.write_to_memory())


def _within(page: Any, side: int) -> Any:
    return page.thumbnail_image(side, height=side, size="down").copy_memory()
