"""The orders of a worker: learn the facts of a source, make one rendition of it, or several.

All take descriptors that stay the caller's, and all give a failure as a value.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from proxy.domain.formats import TRAITS, Format
from proxy.domain.worker_protocol import (
    FRAME_LENGTH,
    JobFailure,
    ProbeJob,
    ProbeResult,
    RenderJob,
    RenderOutput,
    RenderResult,
    RenderSetJob,
    RenderSetResult,
)
from proxy.rendering.worker.imaging import encode, load, pipeline, quality_search
from proxy.rendering.worker.imaging.background_removal import cut_out
from proxy.rendering.worker.imaging.decode_cache import DecodeCache
from proxy.rendering.worker.imaging.error_translation import answered, encoding
from proxy.rendering.worker.imaging.loader_allowlist import configure, hello, lock_loaders
from proxy.rendering.worker.imaging.probe import facts

_MOST_GIF_PIXELS = 12_000_000
"""In all frames of a GIF that goes out: its palettes take 0.3 s a megapixel, five times what a WebP
takes in all, and a render has a deadline."""

__all__ = ["configure", "hello", "lock_loaders", "probe", "render", "render_set"]


def probe(job: ProbeJob, source_fd: int) -> ProbeResult | JobFailure:
    """Learn the facts of the seekable file behind a descriptor."""
    return answered(lambda: facts(job, source_fd))


def render(job: RenderJob, source_fd: int, target_fd: int) -> RenderResult | JobFailure:
    """Render a source into a target, usually a pipe, as the encoder's bytes come out.

    After a failure some bytes may have been written; they are not to be used. On return libvips
    holds no duplicate of either descriptor: whoever reads the pipe sees its end with the close of
    the caller's own.
    """
    return answered(lambda: _render(job, source_fd, target_fd), target_fd=target_fd)


def render_set(job: RenderSetJob, source_fd: int, target_fd: int) -> RenderSetResult | JobFailure:
    """Render a source into several renditions, decoded once, as frames in the order of outputs.

    An output that fails is an empty frame and a failure among the results; a failure in place of
    the results means that the source or the target is broken, and the frames are not to be used.
    """
    return answered(lambda: _render_set(job, source_fd, target_fd), target_fd=target_fd)


def _render(job: RenderJob, source_fd: int, target_fd: int) -> RenderResult:
    clock = _Clock()
    with clock.stage("decode"):
        opened = load.open_source(source_fd, job.limits)
        frames = _decoded(opened, job, animated=_animated(job, opened))
    with clock.stage("transform"):
        image = _transformed(frames, job)
    with clock.stage("encode"):
        found = _encode(image, job, target_fd=target_fd, animated=len(frames.pages) > 1)
    return _result(job, len(frames.pages), clock, found)


def _render_set(job: RenderSetJob, source_fd: int, target_fd: int) -> RenderSetResult:
    opened = load.open_source(source_fd, job.limits)
    easel = _RenditionSet(opened, job)
    results = []
    for output in job.outputs:
        made = answered(partial(easel.smaller, output))
        result, encoded = (made, b"") if isinstance(made, JobFailure) else made
        encoding(partial(_write_frame, target_fd, encoded))
        results.append(result)
    return RenderSetResult(tuple(results))


Made = tuple[RenderResult, bytes]


class _RenditionSet:
    """The outputs of a set in memory; what two of them have in common is made once."""

    def __init__(self, opened: load.OpenedSource, job: RenderSetJob) -> None:
        self._opened = opened
        self._job = job
        self._shared = DecodeCache(opened)
        self._made: dict[RenderOutput, Made] = {}

    def smaller(self, output: RenderOutput) -> Made:
        """An output as its encoding says, or as its rival's where that is smaller."""
        plain = replace(output, rival=None)
        made = self._once(plain)
        if output.rival is None:
            return made
        stage = output.rival
        other = self._once(replace(plain, profile=stage.profile, search=stage.search))
        cpu_s = made[0].cpu_s + other[0].cpu_s
        result, encoded = other if len(other[1]) < len(made[1]) else made
        return replace(result, cpu_s=cpu_s), encoded

    def _once(self, output: RenderOutput) -> Made:
        if output not in self._made:
            self._made[output] = self._rendered(_job_of(self._job, output), output.base)
        return self._made[output]

    def _rendered(self, job: RenderJob, base: tuple[int, int] | None) -> Made:
        clock = _Clock()
        # What was decoded for another is a part of what this one costs when it is made alone.
        shared_s = self._shared.decode_s(job.geometry, base=base) or 0.0
        with clock.stage("decode"):
            if _animated(job, self._opened):
                frames = _decoded(self._opened, job, animated=True)
            else:
                whole = job.remove_background
                frames = load.LoadedFrames(
                    [self._shared.page(job.geometry, base=base, whole=whole)]
                )
        with clock.stage("transform"):
            image = _transformed(frames, job)
        moves = len(frames.pages) > 1
        with clock.stage("encode"):
            encoded, found = encoding(partial(_to_bytes, image, job, animated=moves))
        result = _result(job, len(frames.pages), clock, found)
        return replace(result, cpu_s=result.cpu_s + shared_s), encoded


def _job_of(job: RenderSetJob, output: RenderOutput) -> RenderJob:
    return RenderJob(
        job.limits,
        output.geometry,
        output.profile,
        output.remove_background,
        output.animated,
        job.copyright,
        output.search,
    )


def _write_frame(target_fd: int, encoded: bytes) -> None:
    encode.write_bytes(target_fd, FRAME_LENGTH.pack(len(encoded)))
    encode.write_bytes(target_fd, encoded)


def _animated(job: RenderJob, opened: load.OpenedSource) -> bool:
    return job.animated and opened.header.pages > 1 and TRAITS[job.profile.format].animation


def _result(
    job: RenderJob, pages: int, clock: _Clock, found: quality_search.QualityTrial | None
) -> RenderResult:
    size = job.geometry.width, job.geometry.height
    result = RenderResult(*size, pages, clock.seconds, cpu_s=clock.cpu_s)
    if found is None:
        return result
    return replace(
        result,
        quality=found.quality,
        score=round(found.fidelity.score, 2),
        target_missed=not found.passes,
    )


def _decoded(opened: load.OpenedSource, job: RenderJob, *, animated: bool) -> load.LoadedFrames:
    """The scaled pages: cropped already where no matte needs the whole picture's border.

    In memory, but for what streams: there the encoder pulls the pixels through.
    """
    geometry = job.geometry
    size = {"width": geometry.scaled_width, "height": geometry.scaled_height}
    if animated:
        frames = load.frames(opened, **size, most=_most_frames(job))
    else:
        frames = load.LoadedFrames([load.shrunk(opened, **size)])
    pages = frames.pages
    if not job.remove_background:
        pages = [pipeline.crop(page, geometry=geometry) for page in pages]
        if _streams(job):
            return replace(frames, pages=pages)
    return replace(frames, pages=[page.copy_memory() for page in pages])


def _most_frames(job: RenderJob) -> int:
    if job.profile.format is not Format.GIF:
        return job.limits.max_pages
    return max(2, _MOST_GIF_PIXELS // (job.geometry.width * job.geometry.height))


def _streams(job: RenderJob) -> bool:
    """Whether pixels are asked for only once and bytes may leave before all of them are there."""
    return job.profile.streams and job.search is None


def _transformed(frames: load.LoadedFrames, job: RenderJob) -> Any:
    pages = cut_out(frames.pages) if job.remove_background else frames.pages
    for step in pipeline.plan(job):
        pages = [step(page) for page in pages]
    if len(pages) > 1:
        return encode.assemble(pages, delays=frames.delays, loop=frames.loop)
    return pages[0].copy_memory() if job.remove_background else pages[0]


def _encode(
    image: Any, job: RenderJob, *, target_fd: int, animated: bool
) -> quality_search.QualityTrial | None:
    """Write the rendition; what a search found, where one is made."""

    def work() -> quality_search.QualityTrial | None:
        if not _searches(job, animated=animated):
            encode.write(image, job.profile, target_fd=target_fd, copyright_notice=job.copyright)
            return None
        encoded, found = _to_bytes(image, job, animated=animated)
        encode.write_bytes(target_fd, encoded)
        return found

    return work() if _streams(job) else encoding(work)


def _searches(job: RenderJob, *, animated: bool) -> bool:
    return job.search is not None and quality_search.applies(job.profile, animated=animated)


def _to_bytes(
    image: Any, job: RenderJob, *, animated: bool
) -> tuple[bytes, quality_search.QualityTrial | None]:
    if job.search is None or not quality_search.applies(job.profile, animated=animated):
        return encode.to_bytes(image, job.profile, copyright_notice=job.copyright), None
    found = quality_search.find(image, job.profile, job.search, copyright_notice=job.copyright)
    return found.encoded, found


class _Clock:
    """Seconds that each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.process_time()

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time since it was made."""
        return time.process_time() - self._began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside; a stage that fails is not counted."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
