"""Helpers of the imaging tests: run a job on a file or on bytes, and decode with Pillow."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from proxy.domain.formats import Format
from proxy.domain.media import MediaFacts, ProbeResult
from proxy.domain.variant import EncoderProfile, Fit, Geometry, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import (
    FRAME_HEADER,
    JobFailure,
    Limits,
    ProbeJob,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.worker.imaging.libvips import answered
from proxy.rendering.worker.imaging.probe import probe
from proxy.rendering.worker.imaging.render import render_set
from proxy.settings import EncoderSettings, LimitSettings
from tests.support.memory_files import memory_file

Source = bytes | Path
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

LIMITS: Limits = LimitSettings().to_limits()
PROFILES = EncoderSettings().profiles()
STREAMED_JPEG = EncoderProfile(Format.JPEG, (("Q", 80),))
LOSSLESS = EncoderProfile(Format.PNG, (("compression", 1),))
WHOLE = SizeSpec("whole", 16383, 16383)
"""The picture at its own size."""


def looked_at(source: Source, *, limits: Limits = LIMITS, strict: bool = False) -> ProbeResult:
    """The facts of a source that has some."""
    result = refused_or_known(source, limits=limits, strict=strict)
    assert isinstance(result, ProbeResult), result
    return result


def refused_or_known(
    source: Source, *, limits: Limits = LIMITS, strict: bool = False
) -> ProbeResult | JobFailure:
    """What a probe says."""
    with memory_file(source) as opened:
        return probed(opened, limits=limits, strict=strict)


def probed(
    opened: int, *, limits: Limits = LIMITS, strict: bool = False
) -> ProbeResult | JobFailure:
    """What a probe of a descriptor says."""
    return answered(partial(probe, ProbeJob(limits, strict=strict), opened))


def geometry(source: Source, box: SizeSpec = WHOLE) -> Geometry:
    """The geometry that the server would plan."""
    known = looked_at(source)
    facts = MediaFacts(
        known.content_hash,
        known.byte_size,
        known.source_type,
        known.width,
        known.height,
        known.has_alpha,
        known.pages,
        known.flat_background,
        known.focus,
        "path",
    )
    return plan_geometry(box, facts)


def attempt(
    source: Source,
    fmt: Format | EncoderProfile = Format.PNG,
    *,
    box: SizeSpec = WHOLE,
    plan: Geometry | None = None,
    **options: Any,
) -> tuple[RenderResult | JobFailure, bytes]:
    """What a render says, and the bytes that it wrote."""
    profile = fmt if isinstance(fmt, EncoderProfile) else PROFILES[fmt]
    job = job_of(plan or geometry(source, box), profile, **options)
    with memory_file(source) as opened, memory_file(b"") as target:
        result = render(job, opened, target)
        return result, os.pread(target, os.fstat(target).st_size, 0)


def job_of(
    plan: Geometry, profile: EncoderProfile, *, notice: str | None = None, **options: Any
) -> RenditionSet:
    """A job with one output that is not framed."""
    return RenditionSet(LIMITS, (RenderOutput(plan, profile, **options),), notice)


def answer(job: RenditionSet, source: int, target: int) -> RenditionSetResult | JobFailure:
    """What a set says."""
    return answered(partial(render_set, job, source, target), target_fd=target)


def render(job: RenditionSet, source: int, target: int) -> RenderResult | JobFailure:
    """The result of the only output of a set."""
    result = answer(job, source, target)
    return result.results[0] if isinstance(result, RenditionSetResult) else result


def rendered(source: Source, fmt: Format | EncoderProfile = Format.PNG, **options: Any) -> bytes:
    """The bytes of a rendition that is made without a failure."""
    result, encoded = attempt(source, fmt, **options)
    assert isinstance(result, RenderResult), result
    return encoded


def opened(encoded: bytes) -> Image.Image:
    """A picture as Pillow reads it."""
    return Image.open(io.BytesIO(encoded))


def pixels(encoded: bytes | Image.Image, mode: str = "RGB") -> Pixels:
    """``(height, width, bands)`` as Pillow decodes it."""
    picture = opened(encoded) if isinstance(encoded, bytes) else encoded
    return np.asarray(picture.convert(mode))


def on_white(pixels: Pixels) -> Pixels:
    """RGBA laid on white."""
    colours, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    return (colours * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def frames(encoded: bytes, mode: str = "RGBA") -> list[Pixels]:
    """Each frame of an animation, as it is shown."""
    return [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(opened(encoded))]


def saved(picture: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    """A picture as bytes of a source."""
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


def cover(width: int, height: int) -> SizeSpec:
    """A box that is filled."""
    return SizeSpec("cover", width, height, Fit.COVER)


def contain(width: int, height: int) -> SizeSpec:
    """A box that the whole picture fits in."""
    return SizeSpec("contain", width, height)


def difference(left: Pixels, right: Pixels) -> float:
    """Mean absolute difference in levels of 255."""
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


def output(
    source: Source, box: SizeSpec, fmt: Format | EncoderProfile = LOSSLESS, **options: object
) -> RenderOutput:
    """One output as the server would order it."""
    profile = fmt if isinstance(fmt, EncoderProfile) else PROFILES[fmt]
    return replace(RenderOutput(geometry(source, box), profile), **options)  # type: ignore[arg-type]


def framed(*outputs: RenderOutput) -> RenditionSet:
    """A set whose outputs come as frames."""
    return RenditionSet(LIMITS, outputs, framed=True)


def attempted(
    source: Source, *outputs: RenderOutput, notice: str | None = None
) -> tuple[RenditionSetResult | JobFailure, list[bytes]]:
    """What a set says, and its frames."""
    job = RenditionSet(LIMITS, outputs, notice, framed=True)
    with memory_file(source) as opened, memory_file(b"") as target:
        result = answer(job, opened, target)
        return result, split(os.pread(target, os.fstat(target).st_size, 0))


def split(stream: bytes) -> list[bytes]:
    """The frames of a stream that holds nothing else."""
    at = 0
    frames: list[bytes] = []
    while at < len(stream):
        index, length = FRAME_HEADER.unpack_from(stream, at)
        assert index == len(frames)
        at += FRAME_HEADER.size
        frames.append(stream[at : at + length])
        assert len(frames[-1]) == length
        at += length
    return frames


def made(source: Source, *outputs: RenderOutput) -> list[bytes]:
    """The frames of a set of which nothing fails."""
    result, frames = attempted(source, *outputs)
    assert isinstance(result, RenditionSetResult), result
    assert all(isinstance(one, RenderResult) for one in result.results), result
    return frames
