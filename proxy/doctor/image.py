"""Checks of one image that is not displayed: its row, its file, and whether it can be decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor.check import CheckBlocked, Finding, fail, ok, skip, warn
from proxy.doctor.installation import Installation
from proxy.doctor.originals import find_setting
from proxy.domain.errors import (
    RenderTimeout,
    SmartserveError,
    SourceError,
    SourceQuarantined,
    SourceTooLarge,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.media import Media, ProbeResult
from proxy.domain.worker_protocol import ProbeJob

_DECODE_ADVICE: Mapping[type[SmartserveError], str] = {
    UnsupportedSource: "store it as one of limits.source_types; JPEG, PNG, WebP, AVIF, GIF and TIFF"
    " are, SVG is never served",
    UndecodableSource: "the file is damaged: replace it with an intact copy",
    SourceTooLarge: "make the original smaller, or raise the limit: [limits], and"
    " storage.max_original_bytes",
    SourceQuarantined: "it makes its decoder crash: keep the file, report it, and store another",
    RenderTimeout: "it takes longer than workers.deadline_s: make the original smaller",
}


@dataclass(frozen=True, slots=True)
class ImageSample:
    """A row, and the result of opening and decoding its file."""

    media: Media
    root: Path
    opened: str = ""
    """The first path of the row that could be opened; empty if none could."""
    open_error: SourceError | None = None
    """Why the row's first path could not be opened."""
    hint: str = ""
    """The setting that would make the file found."""
    decoded: ProbeResult | SmartserveError | None = None
    """The decoded image, or why it cannot be decoded; None if there is no file."""


async def inspect(installation: Installation) -> ImageSample:
    """Read a row, open its file and decode every pixel; sets ``installation.media``."""
    settings, media_id = installation.settings, installation.media_id or 0
    # Raises DatabaseUnavailable if there is no database, which blocks the area.
    async with installation.rows() as rows:
        media = installation.media = await rows.find(media_id)
    if media is None:
        advice = (
            "is the id correct, and does database.url name the right database? 'smartserve import'"
            " prints ids, and 'smartserve adopt' those of an existing library"
        )
        raise CheckBlocked(fail(f"media_files has no row with id {media_id}", advice))
    root, open_error = settings.storage_root, None
    # As the server does: the first path that can be opened is used.
    for path in media.source_paths:
        try:
            async with installation.sources.open(path) as source:
                decoded = await _decode(installation, source.descriptor)
                return ImageSample(media, root, path, open_error, decoded=decoded)
        except SourceTooLarge as error:
            # Refused before decoding, so the next path is not tried either.
            return ImageSample(media, root, path, open_error, decoded=error)
        except SourceError as error:
            open_error = open_error or error
    hint = await find_setting(root, media.source_path or "")
    return ImageSample(media, root, open_error=open_error, hint=hint)


async def _decode(installation: Installation, source: int) -> ProbeResult | SmartserveError:
    # strict: serving shows the intact part of a truncated file, here it is a fault.
    job = ProbeJob(installation.settings.limits.to_limits(), strict=True)
    try:
        async with installation.worker() as pool:
            return await pool.run(job, source)
    except SmartserveError as error:
        return error


def check_row(sample: ImageSample) -> Finding:
    """Report a row that is not served because of its status or its paths."""
    media = sample.media
    text = f"{media.id} of user {media.user_id}, {media.data_type}, {media.status}"
    if media.servable:
        return ok(text)
    # Uploads get their path when the worker has stored the original.
    if media.in_progress:
        advice = "until it is processed it is answered 404 with Retry-After: 'smartserve status'"
        return warn(f"{text}, no original yet", advice)
    # Completed, but with neither bulk_path nor library_path.
    if media.completed:
        return fail(f"{text}, without a path", "bulk_path or library_path must name its file")
    advice = "only rows that are completed or in progress are served: see the column status"
    return fail(text, advice)


def check_original(sample: ImageSample) -> Finding:
    """Report a file that cannot be opened."""
    paths = sample.media.source_paths
    if not paths:
        return skip("the row names no file")
    if sample.opened == paths[0]:
        return ok(f"{sample.opened} below {sample.root}")
    reason = sample.open_error.detail if sample.open_error else "cannot be opened"
    text = f"{paths[0]} below {sample.root}: {reason}"
    if sample.opened:
        return warn(f"{text}; {sample.opened} is used", "restore the original at bulk_path")
    advice = f"set {sample.hint}, and restart" if sample.hint else "restore the file there"
    return fail(text, advice)


def check_decode(sample: ImageSample) -> Finding:
    """Report a file that a worker cannot decode completely."""
    decoded = sample.decoded
    if decoded is None:
        return skip("there is no file to decode")
    if isinstance(decoded, SmartserveError):
        advice = (text for kind, text in _DECODE_ADVICE.items() if isinstance(decoded, kind))
        return fail(decoded.detail, next(advice, "see the checks of the worker"))
    frames = f", {decoded.pages} frames" if decoded.pages > 1 else ""
    alpha = ", transparent" if decoded.has_alpha else ""
    size = f"{decoded.width}x{decoded.height} {decoded.source_type}"
    return ok(f"{size}{frames}{alpha}, decoded completely")
