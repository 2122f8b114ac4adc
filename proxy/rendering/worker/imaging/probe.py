"""Probe: the facts of a source."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

from proxy.domain.media import Focus
from proxy.domain.worker_protocol import JobFailure, ProbeJob, ProbeResult
from proxy.rendering.worker.imaging import background_removal, load
from proxy.rendering.worker.imaging.error_translation import answered

_CHUNK = 1024 * 1024
_LOOK_SIDE = 512
"""Longer side of the small version on which focus and background are judged."""
_GRID = 32
_OPAQUE = 255
_STRICT = "error"
"""Damage that a decoder mends with a warning is common in good photographs and harmless."""


def probe(job: ProbeJob, source_fd: int) -> ProbeResult | JobFailure:
    """Read the facts of the seekable file behind a descriptor."""
    return answered(lambda: _probe(job, source_fd))


def _probe(job: ProbeJob, source_fd: int) -> ProbeResult:
    opened = load.open_source(source_fd, job.limits)
    width, height = opened.header.upright
    if job.strict:
        load.whole(opened, fail_on=_STRICT).avg()
    small = look(opened)
    has_alpha = opened.header.alpha and _transparent(opened, small)
    return ProbeResult(
        *_fingerprint(source_fd),
        source_type=opened.header.source_type,
        width=width,
        height=height,
        has_alpha=has_alpha,
        pages=opened.header.pages,
        flat_background=has_alpha or background_removal.is_flat(opaque(small)),
        focus=focus(opaque(small)),
    )


def _fingerprint(descriptor: int) -> tuple[str, int]:
    """SHA-256 and length of a file, read by position so that the offset does not matter."""
    digest, size = sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK, size):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def look(opened: load.OpenedSource) -> Any:
    """The whole picture in small, 8-bit sRGB with or without alpha, in memory."""
    width, height = opened.header.upright
    scale = min(1.0, _LOOK_SIDE / max(width, height))
    small = load.shrunk(opened, max(1, round(width * scale)), height=max(1, round(height * scale)))
    return small.colourspace("srgb").copy_memory()


def _transparent(opened: load.OpenedSource, small: Any) -> bool:
    """Whether some pixel of some page is not opaque, to the eight bits that go out.

    Shrinking leaves a fully opaque picture fully opaque, so a small version that is not settles
    it; one that is may have lost a single pixel.
    """
    if small[-1].min() < _OPAQUE:
        return True
    alpha = load.whole(opened, fail_on="none").colourspace("srgb")[-1]
    return bool(alpha.min() < _OPAQUE)


def opaque(page: Any) -> Any:
    """A picture laid on white."""
    return page.flatten(background=_OPAQUE) if page.hasalpha() else page


def focus(page: Any) -> Focus:
    """Where libvips' attention strategy looks, as fractions of width and height.

    ``vips_smartcrop``: the maximum of skin, saturation and edges after a blur, on a grid of
    `_GRID` cells a side. It names a cell by its corner; meant is its middle.
    """
    _, found = page.smartcrop(
        max(1, page.width // 2),
        max(1, page.height // 2),
        interesting="attention",
        attention_x=True,
        attention_y=True,
    )
    x, y = found["attention_x"] / page.width, found["attention_y"] / page.height
    return Focus(min(1.0, x + 0.5 / _GRID), min(1.0, y + 0.5 / _GRID))
