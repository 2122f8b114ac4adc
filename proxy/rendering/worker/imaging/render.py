"""Renders the outputs of a `RenditionSet` from one decode of the source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from proxy.domain.formats import TRAITS, Format
from proxy.domain.worker_protocol import (
    FRAME_LENGTH,
    JobFailure,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.worker.imaging import encode, load, quality_search
from proxy.rendering.worker.imaging.background_removal import cut_out
from proxy.rendering.worker.imaging.decode_cache import DecodeCache, crop
from proxy.rendering.worker.imaging.error_translation import answered, encoding

_MAX_GIF_PIXELS = 12_000_000
"""Limit for all frames of a GIF together. Its palettes take 0.3 s per megapixel, five times as much
as a whole WebP, and a render has a deadline."""
_WHITE = 255

_Rendition = tuple[RenderResult, bytes]


def render_set(
    job: RenditionSet, source_fd: int, target_fd: int
) -> RenditionSetResult | JobFailure:
    """Render all outputs of a set and write them to the target, usually a pipe.

    After a `JobFailure` the bytes of the target must be discarded. On return libvips holds no
    duplicate of either descriptor, so the reader of the pipe sees its end when the caller closes
    the target.
    """
    return answered(partial(_render_set, job, source_fd, target_fd), target_fd=target_fd)


def _render_set(
    job: RenditionSet, source_fd: int, target_fd: int
) -> RenditionSetResult | JobFailure:
    renderer = _SetRenderer(job, source_fd)
    if not job.framed:
        (output,) = job.outputs
        return RenditionSetResult((renderer.write(output, target_fd),))
    results: list[RenderResult | JobFailure] = []
    for output in job.outputs:
        made = answered(partial(renderer.render, output))
        # Without other outputs the failure is that of the job, so that it is remembered.
        if isinstance(made, JobFailure) and len(job.outputs) == 1:
            return made
        result, encoded = (made, b"") if isinstance(made, JobFailure) else made
        encoding(partial(encode.write_bytes, target_fd, FRAME_LENGTH.pack(len(encoded)) + encoded))
        results.append(result)
    return RenditionSetResult(tuple(results))


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

    def write(self, output: RenderOutput, target_fd: int) -> RenderResult:
        """Render the only output into the target, streaming if the encoder can."""
        if not output.streams:
            result, encoded = self.render(output)
            encoding(partial(encode.write_bytes, target_fd, encoded))
            return result
        pixels = self._pixels(output)
        with pixels.clock.stage("encode"):
            # The encoder pulls the pixels through the decoder, so an error here is not necessarily
            # an encoder error: it is translated by `answered`, not by `encoding`.
            encode.write(
                pixels.image,
                output.profile,
                target_fd=target_fd,
                copyright_notice=self._job.copyright,
            )
        return _result(output, pixels, None)

    def render(self, output: RenderOutput) -> _Rendition:
        """Encode an output into memory; if it has a alternative, return the smaller of the two."""
        plain = replace(output, alternative=None)
        made = self._render_once(plain)
        if output.alternative is None:
            return made
        alternative = replace(
            plain, profile=output.alternative.profile, search=output.alternative.search
        )
        other = self._render_once(alternative)
        cpu_s = made[0].cpu_s + other[0].cpu_s
        result, encoded = other if len(other[1]) < len(made[1]) else made
        return replace(result, cpu_s=cpu_s), encoded

    def _render_once(self, output: RenderOutput) -> _Rendition:
        if output not in self._renditions:
            pixels = self._pixels(output)
            with pixels.clock.stage("encode"):
                encoded, trial = encoding(partial(self._encode, output, pixels))
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
            if output.remove_background or not output.streams:
                pages = [page.copy_memory() for page in pages]
        with clock.stage("transform"):
            if output.remove_background:
                # The matte is computed from the whole image's border, so cropping comes after it.
                pages = [crop(page, geometry=output.geometry) for page in cut_out(pages)]
            if not TRAITS[output.profile.format].alpha:
                pages = [_flatten(page) for page in pages]
            # libvips saves an animation as one column with a page height.
            if len(pages) > 1:
                image = encode.assemble(pages, delays=frames.delays, loop=frames.loop)
            else:
                image = pages[0].copy_memory() if output.remove_background else pages[0]
        return _Pixels(image, len(pages), clock)

    def _frames(self, output: RenderOutput, clock: _Clock) -> load.LoadedFrames:
        """Return the scaled pages: all of an animation, otherwise the first."""
        geometry, header = output.geometry, self._opened.header
        if output.animated and header.pages > 1 and TRAITS[output.profile.format].animation:
            size = {"width": geometry.scaled_width, "height": geometry.scaled_height}
            return load.frames(self._opened, **size, most=self._max_frames(output))
        page, shared_cpu_s = self._cache.page(geometry, base=output.base)
        # An output's cost includes the decode that an earlier output of the set already paid for:
        # the cost model predicts what the output costs on its own.
        clock.shared_cpu_s = shared_cpu_s
        return load.LoadedFrames([page])

    def _max_frames(self, output: RenderOutput) -> int:
        if output.profile.format is not Format.GIF:
            return self._job.limits.max_pages
        return max(2, _MAX_GIF_PIXELS // (output.geometry.width * output.geometry.height))

    def _encode(
        self, output: RenderOutput, pixels: _Pixels
    ) -> tuple[bytes, quality_search.QualityTrial | None]:
        image, profile, notice = pixels.image, output.profile, self._job.copyright
        animated = pixels.pages > 1
        if output.search is None or not quality_search.applies(profile, animated=animated):
            return encode.to_bytes(image, profile, copyright_notice=notice), None
        trial = quality_search.find(image, profile, output.search, copyright_notice=notice)
        return trial.encoded, trial


def _flatten(page: Any) -> Any:
    return page.flatten(background=_WHITE) if page.hasalpha() else page


def _result(
    output: RenderOutput, pixels: _Pixels, trial: quality_search.QualityTrial | None
) -> RenderResult:
    size = output.geometry.width, output.geometry.height
    clock = pixels.clock
    result = RenderResult(*size, pixels.pages, clock.seconds, cpu_s=clock.cpu_s)
    if trial is None:
        return result
    return replace(
        result,
        quality=trial.quality,
        score=round(trial.fidelity.score, 2),
        target_missed=not trial.passes,
    )


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
