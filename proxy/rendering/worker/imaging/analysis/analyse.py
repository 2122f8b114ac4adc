"""Analyses an image from two views of it: a small version, and its middle at full size."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyvips

from proxy.domain.analysis import AnalysisResult, ContentClass, Kind, Quality, SourceGamut
from proxy.domain.perceptual_hash import PerceptualHash
from proxy.domain.variant import Gamut
from proxy.domain.worker_protocol import AnalyseJob
from proxy.rendering.worker.imaging import background_removal, colour, load, probe
from proxy.rendering.worker.imaging.analysis import (
    classification,
    colours,
    content_class,
    hashes,
    quality,
)
from proxy.rendering.worker.imaging.gain_map import find

_T = TypeVar("_T")
_FULL = 255
# Longer side in pixels of the input of a ThumbHash; the format allows 100.
_THUMBHASH_SIDE = 64
# Longer side in pixels of the input of a BlurHash: more than its terms can resolve.
_BLURHASH_SIDE = 32
# Longer side in pixels of the image whose colours are compared with a gamut.
_GAMUT_SIDE = 512
_DRAWING_SIDE = 1200


def analyse(job: AnalyseJob, source_fd: int) -> AnalysisResult:
    """Analyse the first page of the seekable file behind a descriptor.

    Raises:
        SourceRefused, OSError, pyvips.Error: as `load.open_source`.
    """
    return _Analyser(job, source_fd).result()


class _Analyser:
    """The views of one image, and the processor time of each measure."""

    def __init__(self, job: AnalyseJob, source_fd: int) -> None:
        self._stages: dict[str, float] = {}
        self._opened = load.open_source(source_fd, job.limits)
        self._preview = self._timed("look", lambda: probe.preview(self._opened))
        # At the size of a photograph, not at the largest one that a drawing can have.
        moderate = load.limited(self._opened, _DRAWING_SIDE)
        self._detail = self._timed("detail", lambda: quality.detail(moderate))
        if not self._measured():
            # A drawing may have nothing in its middle, and a photograph only sky.
            self._detail = self._timed("detail", lambda: quality.richest(moderate))
            self._measured()
        self._opaque = load.flatten(self._preview).copy_memory()
        self._has_alpha = background_removal.is_cut_out(self._preview)

    def result(self) -> AnalysisResult:
        """Compute all measures."""
        bins = self._timed("colours", lambda: colours.count(self._preview))
        clusters = self._timed("colours", lambda: colours.clusters(bins))
        kind = self._timed("kind", lambda: self._kind(bins))
        phash, phash_mask = self._timed("phash", self._phash).texts()
        return AnalysisResult(
            *self._opened.header.upright,
            dominant_colours=colours.dominant(clusters),
            brand_colours=colours.brand(clusters, self._background()),
            quality=self._quality(kind),
            mood_keywords=classification.keywords(bins),
            kind=kind,
            content_class=self._timed("content_class", lambda: self._content_class(kind)),
            thumbhash=self._timed("placeholders", self._thumbhash),
            blurhash=self._timed("placeholders", self._blurhash),
            phash=phash,
            phash_mask=phash_mask,
            focus=self._timed("focus", lambda: probe.focus(self._opaque)),
            gamut=self._timed("gamut", self._gamut),
            stages=self._stages,
        )

    def _timed(self, name: str, work: Callable[[], _T]) -> _T:
        # Processor time: a busy machine does not make a measure more expensive.
        started = time.process_time()
        result = work()
        self._stages[name] = self._stages.get(name, 0.0) + time.process_time() - started
        return result

    def _measured(self) -> bool:
        """Measure noise and sharpness of the part; return whether it has any detail."""
        # Noise comes first: sharpness and exposure subtract its share.
        self._sigma = self._timed("noise", lambda: quality.noise_sigma(self._detail))
        self._frequency = self._timed(
            "sharpness", lambda: quality.mean_frequency(self._detail, self._sigma)
        )
        return self._frequency > 0

    def _gamut(self) -> SourceGamut:
        source = self._opened.header.colour
        gain_map = find(self._opened) is not None
        if not source.wide:
            return SourceGamut(gain_map=gain_map)
        # Of a profile that libvips cannot apply, nothing is converted.
        try:
            page = load.unconverted(self._opened, _GAMUT_SIDE)
            srgb, p3 = (
                round(colour.outside(page, source, one), 4) for one in (Gamut.SRGB, Gamut.P3)
            )
        except pyvips.Error:
            return SourceGamut(gain_map=gain_map)
        return SourceGamut(srgb, p3, gain_map)

    def _kind(self, bins: list[colours.ColourBin]) -> Kind:
        isolated = self._has_alpha or background_removal.is_flat(self._opaque)
        traits = classification.traits(
            self._detail,
            bins,
            preview=quality.to_luma(self._opaque),
            isolated=isolated,
            has_alpha=self._has_alpha,
        )
        return classification.decide(traits)

    def _content_class(self, kind: Kind) -> ContentClass:
        size = self._opened.header.upright
        return content_class.classify(*size, self._opaque, kind=kind, transparent=self._has_alpha)

    def _background(self) -> colours.Rgb | None:
        """Return the colour of a flat background, or None; a transparent image has none."""
        colour = None if self._has_alpha else background_removal.background_colour(self._opaque)
        if colour is None:
            return None
        red, green, blue = (round(level) for level in colour.rgb)
        return red, green, blue

    def _quality(self, kind: Kind) -> Quality:
        photo, sigma = kind.name == "photo", self._sigma
        if not photo:
            sigma = self._timed("noise", lambda: quality.noise_sigma(self._detail, flat=True))
        # A photograph without detail is not sharp; a drawing may have no edge to measure.
        sharp = photo or self._frequency > 0
        excess = self._timed("blockiness", lambda: quality.block_excess(self._detail))
        luma = quality.to_luma(self._preview)
        shares = self._timed("tone", lambda: quality.histogram(luma))
        parts = {
            "sharpness": quality.sharpness_score(self._frequency) if sharp else None,
            "noise": quality.noise_score(sigma),
            "blockiness": quality.blockiness_score(excess),
            "exposure": quality.exposure(shares, sigma),
            "contrast": quality.contrast(shares),
            "resolution": quality.resolution(*self._opened.header.upright),
        }
        return quality.to_quality(parts, kind.name)

    def _thumbhash(self) -> str:
        small = _within(self._preview, _THUMBHASH_SIDE)
        rgba = small if small.hasalpha() else small.bandjoin(_FULL)
        encoded = hashes.thumbhash(small.width, small.height, bytes(rgba.write_to_memory()))
        return base64.b64encode(encoded).decode("ascii")

    def _blurhash(self) -> str:
        small = _within(self._opaque, _BLURHASH_SIDE)
        return hashes.blurhash(small.width, small.height, bytes(small.write_to_memory()))

    def _phash(self) -> PerceptualHash:
        side = hashes.PHASH_SIDE
        grey = quality.to_luma(self._opaque).thumbnail_image(side, height=side, size="force")
        return hashes.phash(grey.write_to_memory())


def _within(page: Any, side: int) -> Any:
    return page.thumbnail_image(side, height=side, size="down").copy_memory()
