"""Examine: all that is found out about a picture without a model, from two views of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any, TypeVar

from proxy.domain.image_analysis import Kind, Quality
from proxy.domain.worker_protocol import AnalyseJob, AnalysisResult, JobFailure
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
from proxy.rendering.worker.imaging.analysis.colour_histogram import ColourBin
from proxy.rendering.worker.imaging.error_translation import answered

_T = TypeVar("_T")
_FULL = 255
_THUMB_SIDE = 64
"""Pixels on the longer side that a ThumbHash is made of; the format allows `thumbhash.MAX_SIDE`."""
_BLUR_SIDE = 32
"""Pixels on the longer side that a BlurHash is made of: more than its terms can tell apart."""


def analyse(job: AnalyseJob, source_fd: int) -> AnalysisResult | JobFailure:
    """Analyse the seekable file behind a descriptor; of an animation its first page."""
    return answered(lambda: _Examiner(job, source_fd).result())


class _Examiner:
    """One picture, its views, and the processor time that each measure took."""

    def __init__(self, job: AnalyseJob, source_fd: int) -> None:
        self._stages: dict[str, float] = {}
        self._opened = load.open_source(source_fd, job.limits)
        self._look = self._timed("look", lambda: probe.preview(self._opened))
        self._detail = self._timed("detail", lambda: sampling.detail(self._opened))
        self._opaque = probe.opaque(self._look).copy_memory()
        self._has_alpha = bool(self._look.hasalpha() and self._look[-1].min() < _FULL)

    def result(self) -> AnalysisResult:
        """All measures."""
        width, height = self._opened.header.upright
        found = self._timed("colours", lambda: colour_histogram.count(self._look))
        clusters = self._timed("colours", lambda: palette.clusters(found))
        kind = self._timed("kind", lambda: self._kind(found))
        return AnalysisResult(
            width,
            height,
            dominant_colours=palette.dominant(clusters),
            brand_colours=palette.brand(clusters, self._ground()),
            quality=self._quality(kind),
            mood_keywords=mood.keywords(found),
            kind=kind,
            thumbhash=self._timed("placeholders", self._thumbhash),
            blurhash=self._timed("placeholders", self._blurhash),
            phash=self._timed("phash", self._phash),
            focus=self._timed("focus", lambda: probe.focus(self._opaque)),
            stages=self._stages,
        )

    def _timed(self, name: str, work: Callable[[], _T]) -> _T:
        began = time.process_time()
        found = work()
        self._stages[name] = self._stages.get(name, 0.0) + time.process_time() - began
        return found

    def _kind(self, found: list[ColourBin]) -> Kind:
        grounded = self._has_alpha or background_removal.is_flat(self._opaque)
        measured = classification.traits(
            self._detail, found, grounded=grounded, has_alpha=self._has_alpha
        )
        return classification.decide(measured)

    def _ground(self) -> colour_histogram.Rgb | None:
        """The colour of a flat ground; what stands on nothing has none."""
        ground = None if self._has_alpha else background_removal.find_ground(self._opaque)
        if ground is None:
            return None
        red, green, blue = (round(level) for level in ground.rgb)
        return red, green, blue

    def _quality(self, kind: Kind) -> Quality:
        sigma = self._timed("noise", lambda: noise.sigma(self._detail))
        frequency = self._timed("sharpness", lambda: sharpness.frequency(self._detail, sigma))
        excess = self._timed("blockiness", lambda: blockiness.excess(self._detail))
        shares = self._timed("tone", lambda: exposure.histogram(sampling.luma(self._look)))
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
        small = _within(self._look, _THUMB_SIDE)
        rgba = small if small.hasalpha() else small.bandjoin(_FULL)
        encoded = thumbhash.encode(small.width, small.height, bytes(rgba.write_to_memory()))
        return base64.b64encode(encoded).decode("ascii")

    def _blurhash(self) -> str:
        small = _within(self._opaque, _BLUR_SIDE)
        return blurhash.encode(small.width, small.height, bytes(small.write_to_memory()))

    def _phash(self) -> str:
        side = phash.SIDE
        grey = sampling.luma(self._opaque).thumbnail_image(side, height=side, size="force")
        return phash.encode(grey.write_to_memory())


def _within(page: Any, side: int) -> Any:
    return page.thumbnail_image(side, height=side, size="down").copy_memory()
