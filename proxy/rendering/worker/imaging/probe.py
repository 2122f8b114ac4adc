"""Reads the facts of a source."""

from __future__ import annotations

import os
from functools import partial
from hashlib import sha256
from typing import Any

import pyvips

from proxy.domain.media import Focus, ProbeResult
from proxy.domain.worker_protocol import ProbeJob
from proxy.rendering.worker.imaging import background_removal, load, truncation

_CHUNK_BYTES = 1024 * 1024
# Longer side of the preview from which focus and background are determined.
_PREVIEW_SIDE = 512
_ATTENTION_GRID = 32
_OPAQUE = 255


def probe(job: ProbeJob, source_fd: int) -> ProbeResult:
    """Read the facts of the seekable file behind a descriptor; if strict, decode every pixel.

    Raises:
        SourceRefused, OSError, pyvips.Error: as `load.open_source`, or the pixels are damaged.
    """
    try:
        return _facts(job, source_fd)
    except pyvips.Error:
        # Decoders of some types only say that they cannot parse the file.
        if missing := truncation.missing_bytes(source_fd):
            raise truncation.refused_for_missing(missing) from None
        raise


def _facts(job: ProbeJob, source_fd: int) -> ProbeResult:
    opened = load.open_source(source_fd, job.limits)
    small = None
    if job.strict:
        small = truncation.check_pixels(opened, source_fd, partial(_preview_of, opened.header))
    small = preview(opened) if small is None else small
    width, height = opened.header.upright
    has_alpha = _transparent(opened, small)
    content_hash, byte_size = _fingerprint(source_fd)
    return ProbeResult(
        content_hash,
        byte_size,
        source_type=opened.header.source_type,
        width=width,
        height=height,
        has_alpha=has_alpha,
        pages=opened.header.pages,
        flat_background=background_removal.is_cut_out(small)
        or background_removal.is_flat(load.flatten(small)),
        focus=focus(load.flatten(small)),
    )


def _fingerprint(descriptor: int) -> tuple[str, int]:
    """Return SHA-256 and length of a file; the offset of the descriptor is not used."""
    digest, size = sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, size):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def preview(opened: load.OpenedSource) -> Any:
    """Return the first page in small: 8-bit sRGB, with or without alpha, in memory."""
    return load.to_srgb(load.shrunk(opened, _preview_size(opened.header))).copy_memory()


def _preview_of(header: load.Header, page: Any) -> Any:
    """Return the preview of a page that is being decoded; None if it needs more than 8 bits."""
    if header.colour.space or header.colour.narrow:
        return None
    return load.to_srgb(load.scaled(page, header, _preview_size(header)))


def _preview_size(header: load.Header) -> load.Size:
    width, height = header.upright
    scale = min(1.0, _PREVIEW_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _transparent(opened: load.OpenedSource, small: Any) -> bool:
    """Return whether the fallback needs an alpha."""
    # An animation falls back to a GIF, which has one in any case: any pixel of any frame counts.
    if opened.header.pages > 1 and small.hasalpha():
        alpha = load.to_srgb(load.whole(opened, fail_on="none"))[-1]
        return bool(alpha.min() < _OPAQUE)
    return load.is_transparent(small)


def focus(page: Any) -> Focus:
    """Return the focus of libvips' attention strategy, as fractions of width and height.

    ``vips_smartcrop`` returns the maximum of skin, saturation and edges after a blur.
    """
    _, found = page.smartcrop(
        max(1, page.width // 2),
        max(1, page.height // 2),
        interesting="attention",
        attention_x=True,
        attention_y=True,
    )
    # It names a grid cell by its corner; the middle of the cell is meant.
    middle = 0.5 / _ATTENTION_GRID
    x, y = found["attention_x"] / page.width, found["attention_y"] / page.height
    return Focus(min(1.0, x + middle), min(1.0, y + middle))
