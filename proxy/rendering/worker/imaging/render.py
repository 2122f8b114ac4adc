"""Renders the outputs of a `RenditionSet` from one decode of the source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from proxy.domain.formats import TRAITS, Format
from proxy.domain.variant import Gamut, Geometry
from proxy.domain.worker_protocol import (
    FRAME_HEADER,
    JobFailure,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.worker.imaging import encode, gain_map, graphics, load, quality_search
from proxy.rendering.worker.imaging.background_removal import cut_out
from proxy.rendering.worker.imaging.libvips import answered, encoding

# Limit for all frames of a GIF together. Its palettes take 0.3 s per megapixel, five times as much
# as a whole WebP, and a render has a deadline.
_MAX_GIF_PIXELS = 12_000_000

_Rendition = tuple[RenderResult, bytes]


def render_set(
    job: RenditionSet, source_fd: int, target_fd: int
) -> RenditionSetResult | JobFailure:
    """Render all outputs of a set and write them to the target, usually a pipe.

    After a `JobFailure` or an error the bytes of the target must be discarded.

    Raises:
        SourceRefused, OSError, pyvips.Error: as `load.open_source`, or the only output failed.
    """
    renderer = _SetRenderer(job, source_fd)
    if not job.framed:
        (output,) = job.outputs
        return RenditionSetResult((renderer.write(output, target_fd),))
    results: list[RenderResult | JobFailure] = []
    for index, output in enumerate(job.outputs):
        made = answered(partial(renderer.render, output))
        # Without other outputs the failure is that of the job, so that it is remembered.
        if isinstance(made, JobFailure) and len(job.outputs) == 1:
            return made
        result, encoded = (made, b"") if isinstance(made, JobFailure) else made
        with encoding():
            encode.write_bytes(target_fd, FRAME_HEADER.pack(index, len(encoded)) + encoded)
        results.append(result)
    return RenditionSetResult(tuple(results))


class _Clock:
    """Measures the stages of one output."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.shared_cpu_s = 0.0
        self._started = time.process_time()

    @property
    def cpu_s(self) -> float:
        """Processor seconds since creation, plus the shared decode."""
        return time.process_time() - self._started + self.shared_cpu_s

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a stage; a block that raises is not counted."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(slots=True)
class _Pixels:
    """An image that is ready to be encoded."""

    image: Any
    pages: int
    clock: _Clock


class _SetRenderer:
    """Renders outputs of one source; pixels and encodings that outputs share are made once."""

    def __init__(self, job: RenditionSet, source_fd: int) -> None:
        self._job = job
        # The times of the first output include opening the source.
        self._clock = _Clock()
        with self._clock.stage("decode"):
            self._opened = load.open_source(source_fd, job.limits)
        shared = job.framed or job.outputs[0].alternative is not None
        self._cache = DecodeCache(self._opened, shared=shared)
        self._renditions: dict[RenderOutput, _Rendition] = {}

    def _coloured(self, output: RenderOutput) -> RenderOutput:
        """Return an output whose gamut is the one that its pixels have."""
        profile = output.profile
        if profile.gamut is Gamut.SRGB:
            return output
        # Only a wider gamut needs a profile, and a GIF cannot have one.
        if self._opened.header.colour.wide and profile.format is not Format.GIF:
            return output
        return replace(output, profile=replace(profile, gamut=Gamut.SRGB))

    def write(self, output: RenderOutput, target_fd: int) -> RenderResult:
        """Render the only output into the target, streaming if the encoder can."""
        output = self._coloured(output)
        if not self._streams(output):
            result, encoded = self.render(output)
            with encoding():
                encode.write_bytes(target_fd, encoded)
            return result
        pixels, notice = self._pixels(output), self._job.copyright
        # The encoder pulls the pixels through the decoder, so an error here is not necessarily one
        # of the encoder: it is translated by `answered`, not by `encoding`.
        with pixels.clock.stage("encode"):
            if self._has_gain_map(output):
                # The header of such a JPEG has the lengths of both images, so it cannot stream.
                base = encode.to_bytes(pixels.image, output.profile, copyright_notice=notice)
                with encoding():
                    encode.write_bytes(target_fd, self._with_gain_map(base, output))
            else:
                encode.write(
                    pixels.image, output.profile, target_fd=target_fd, copyright_notice=notice
                )
        return _result(output, pixels, None)

    def render(self, output: RenderOutput) -> _Rendition:
        """Encode an output into memory; if it has an alternative, return the smaller of the two."""
        stage = output.alternative
        plain = replace(output, alternative=None)
        made = self._render_once(plain)
        if stage is None:
            return made
        other = self._render_once(replace(plain, profile=stage.profile, search=stage.search))
        result, encoded = other if len(other[1]) < len(made[1]) else made
        return replace(result, cpu_s=made[0].cpu_s + other[0].cpu_s), encoded

    def _render_once(self, output: RenderOutput) -> _Rendition:
        output = self._coloured(output)
        if output not in self._renditions:
            pixels = self._pixels(output)
            with pixels.clock.stage("encode"), encoding():
                encoded, trial = self._encode(output, pixels)
                encoded = self._with_gain_map(encoded, output)
            self._renditions[output] = _result(output, pixels, trial), encoded
        return self._renditions[output]

    def _pixels(self, output: RenderOutput) -> _Pixels:
        """Decode, scale, remove the background, crop and flatten; in memory unless it streams."""
        clock, self._clock = self._clock, _Clock()
        with clock.stage("decode"):
            frames = self._frames(output, clock)
            pages = frames.pages
            if not output.remove_background:
                pages = [crop(page, geometry=output.geometry) for page in pages]
            if output.remove_background or not self._streams(output):
                pages = [page.copy_memory() for page in pages]
        with clock.stage("transform"):
            if output.remove_background:
                # The matte is computed from the whole image's border, so cropping comes after it.
                pages = [crop(page, geometry=output.geometry) for page in cut_out(pages)]
            if not TRAITS[output.profile.format].alpha:
                pages = [load.flatten(page) for page in pages]
            # libvips saves an animation as one column with a page height.
            if len(pages) > 1:
                image = encode.assemble(pages, delays=frames.delays, loop=frames.loop)
            else:
                image = pages[0].copy_memory() if output.remove_background else pages[0]
        return _Pixels(image, len(pages), clock)

    def _streams(self, output: RenderOutput) -> bool:
        """Return whether pixels go from the decoder to the encoder in rows.

        Whether an image is a graphic is only known when all of them are decoded. JPEGs of graphics
        have usually lost their chroma already.
        """
        return output.streams and self._opened.header.source_type == "jpeg"

    def _has_gain_map(self, output: RenderOutput) -> bool:
        profile = output.profile
        # A background that was removed would shine with the light that it had.
        kept = profile.gain_map and profile.format is Format.JPEG and not output.remove_background
        return kept and self._gain_map is not None

    def _with_gain_map(self, encoded: bytes, output: RenderOutput) -> bytes:
        if self._gain_map is None or not self._has_gain_map(output):
            return encoded
        header = self._opened.header
        return gain_map.attached(encoded, self._gain_map, header, output.geometry)

    @cached_property
    def _gain_map(self) -> gain_map.GainMap | None:
        return gain_map.find(self._opened)

    def _frames(self, output: RenderOutput, clock: _Clock) -> load.LoadedFrames:
        """Return the scaled pages: all of an animation, otherwise the first."""
        geometry, fmt, most = output.geometry, output.profile.format, self._job.limits.max_pages
        gamut = output.profile.gamut
        if output.animated and self._opened.header.pages > 1 and TRAITS[fmt].animation:
            if fmt is Format.GIF:
                most = max(2, _MAX_GIF_PIXELS // (geometry.width * geometry.height))
            return load.frames(self._opened, _scaled_size(geometry), most=most, gamut=gamut)
        page, shared_cpu_s = self._cache.page(geometry, base=output.base, gamut=gamut)
        # An output's cost includes the decode that an earlier output of the set already paid for:
        # the cost model predicts what the output costs on its own.
        clock.shared_cpu_s = shared_cpu_s
        return load.LoadedFrames([page])

    def _encode(
        self, output: RenderOutput, pixels: _Pixels
    ) -> tuple[bytes, quality_search.QualityTrial | None]:
        image, profile, notice = pixels.image, output.profile, self._job.copyright
        animated = pixels.pages > 1
        graphic = not animated and graphics.applies(image, profile)
        if output.search is None or not quality_search.applies(profile, animated=animated):
            to_bytes = graphics.draft if graphic else encode.to_bytes
            return to_bytes(image, profile, copyright_notice=notice), None
        if graphic:
            return graphics.final(image, profile, output.search, copyright_notice=notice)
        trial = quality_search.find(image, profile, output.search, copyright_notice=notice)
        return trial.encoded, trial


def _result(
    output: RenderOutput, pixels: _Pixels, trial: quality_search.QualityTrial | None
) -> RenderResult:
    return RenderResult(
        output.geometry.width,
        output.geometry.height,
        pixels.pages,
        pixels.clock.seconds,
        quality=None if trial is None else trial.quality,
        score=None if trial is None else round(trial.fidelity.score, 2),
        cpu_s=pixels.clock.cpu_s,
        target_missed=trial is not None and not trial.passes,
    )


def _scaled_size(geometry: Geometry) -> load.Size:
    return geometry.scaled_width, geometry.scaled_height


def crop(page: Any, *, geometry: Geometry) -> Any:
    """Cut the box of the geometry out of a page at its scaled size; a cropped page is unchanged."""
    if (page.width, page.height) == (geometry.width, geometry.height):
        return page
    return page.crop(geometry.left, geometry.top, geometry.width, geometry.height)


class DecodeCache:
    """Decodes the first page of a source on demand and caches it in memory for each size.

    A base size is decoded once and smaller sizes are scaled from its pixels. The loss is not
    visible: compared with resampling every pixel of the source, sizes made from a base score 92 to
    98 points of SSIMULACRA2 at any ratio and differ by 0.5 levels on average. Sizes decoded on
    their own score 84 to 100, because the JPEG decoder shrinks quickly and coarsely. Two
    resamplings make an image slightly softer, not rougher.
    """

    def __init__(self, opened: load.OpenedSource, *, shared: bool) -> None:
        """If not ``shared``, pages are lazy: pixels are decoded when they are first read."""
        self._opened = opened
        self._shared = shared
        self._pages: dict[tuple[load.Size, load.Size | None, Gamut], Any] = {}
        self._cpu_s: dict[tuple[load.Size, Gamut], float] = {}

    def page(
        self, geometry: Geometry, *, base: load.Size | None, gamut: Gamut = Gamut.SRGB
    ) -> tuple[Any, float]:
        """Return the page at its scaled size, and the processor seconds spent on it earlier.

        It is scaled from the ``base`` size if given, otherwise from the source. The pixels are the
        same whether or not other outputs share the base, so keys do not depend on the set.
        """
        size = _scaled_size(geometry)
        if self._opened.drawing is not None:
            # Drawn again it is sharper than scaled, and as fast.
            base = None
        earlier_s = self._cpu_s.get((base or size, gamut), 0.0)
        # A single output streams: keeping its pages in memory would delay the first byte.
        if base is None and not self._shared:
            return load.shrunk(self._opened, size, gamut), earlier_s
        return self._cached(size, base, gamut), earlier_s

    def _cached(self, size: load.Size, base: load.Size | None, gamut: Gamut) -> Any:
        key = size, base, gamut
        if key in self._pages:
            return self._pages[key]
        # Only decodes are timed: scaling from a base is part of the output itself.
        if base is None:
            started = time.process_time()
            page = load.shrunk(self._opened, size, gamut).copy_memory()
            self._cpu_s[size, gamut] = time.process_time() - started
        else:
            width, height = size
            source = self._cached(base, None, gamut)
            page = source.thumbnail_image(width, height=height, size="force").copy_memory()
        self._pages[key] = page
        return page
