"""Checks of the originals: the storage root, the files of the newest rows, and one image."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from proxy.doctor.access import without_keys
from proxy.doctor.check import Finding, Findings, area, counted, fail, ok, reason_of, skip, warn
from proxy.doctor.installation import Installation
from proxy.domain.errors import (
    DatabaseUnavailable,
    DecoderMissing,
    RenderTimeout,
    SmartserveError,
    SourceError,
    SourceMissing,
    SourceQuarantined,
    SourceTimeout,
    SourceTooLarge,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.worker_protocol import ProbeJob
from proxy.storage.originals import OriginalReader

_SAMPLE = 20
"""Number of rows to check, the newest ones."""
_MAX_FOLDERS = 100
_DECODE_ADVICE: Mapping[type[SmartserveError], str] = {
    UnsupportedSource: "store it in a format of limits.source_types, for example as JPEG or PNG",
    DecoderMissing: "install what the reason names on this machine, or store it as JPEG or PNG",
    UndecodableSource: "the file is damaged: replace it with an intact copy",
    SourceTooLarge: "make the original smaller, or raise the limit: [limits], and"
    " storage.max_original_bytes",
    SourceQuarantined: "it makes its decoder crash: keep the file, report it, and store another",
    RenderTimeout: "it takes longer than workers.deadline_s: make the original smaller",
}


@area("originals", "newest originals")
async def check_originals(installation: Installation) -> Findings:
    """List the root, and open the files of the newest rows without reading them."""
    root = installation.settings.storage_root
    try:
        await installation.sources.check()
    except SourceError as error:
        advice = "mount the storage, or set storage.root; the server's user must be able to list it"
        if isinstance(error, SourceTimeout):
            # The thread that hangs in the kernel cannot be cancelled; it ends with the process.
            advice = "the network file system hangs: check its server, or mount it again"
        yield fail(f"{root}: {reason_of(error.__cause__ or error)}", advice)
        return
    newest: Sequence[Media] | None
    try:
        async with installation.rows() as rows:
            newest = await rows.newest(before=MAX_MEDIA_ID, limit=_SAMPLE)
    except DatabaseUnavailable:
        # The area of the database has reported it.
        newest = None
    if await asyncio.to_thread(os.listdir, root):
        yield ok(f"{root} can be read")
    elif installation.settings.s3.buckets:
        yield ok(f"{root} is empty, the originals are in buckets")
    elif newest is not None and not newest:
        yield ok(f"{root} and the database are empty: 'smartserve import' adds images")
    else:
        # An empty root usually is the mount point of a file system that is not mounted.
        advice = "usually it is not mounted: mount it, or set storage.root to the right folder"
        yield fail(f"{root} is empty", advice)
    if newest is None:
        yield skip("the database cannot be queried")
    elif not newest:
        yield skip("the database has no images")
    else:
        yield await check_files(installation, newest)


async def check_files(installation: Installation, newest: Sequence[Media]) -> Finding:
    """Report rows whose file is missing or cannot be read; sets ``installation.media``."""
    found: list[Media] = []
    missing: list[Media] = []
    unreadable: list[Media] = []
    for media in newest:
        path, error = await open_first(installation.sources, media)
        # Whatever the error of another path is, the server uses the one that can be opened.
        failed = missing if isinstance(error, SourceMissing) else unreadable
        (found if path else failed).append(media)
    # The server and the proxy are asked for it without a signature.
    access = without_keys(installation.settings)
    installation.media = next((one for one in found if not access.is_private(one)), None)
    count = len(newest)
    # Worse than missing: permissions or the disk, which affect all other files too.
    if unreadable:
        advice = "let the server's user read them (chown, chmod a+r); otherwise the disk is failing"
        return fail(f"cannot be opened: {_listed(unreadable, count)}", advice)
    if not missing:
        return ok(f"the newest {counted(count, 'row')} have their files")
    text = f"files are missing: {_listed(missing, count)}"
    # If some files are found, the root is right and the others are lost.
    if found:
        return warn(text, "restore the originals at bulk_path; no restart is needed")
    root = installation.settings.storage_root
    hint = await asyncio.to_thread(find_setting, root, missing[0].source_path or "")
    setting = f"set {hint}, and restart" if hint else "check storage.strip_prefix"
    return fail(text, f"storage.root is not the folder that the rows refer to: {setting}")


def _listed(rows: Sequence[Media], count: int) -> str:
    return f"{len(rows)} of the newest {count} ({', '.join(str(media.id) for media in rows)})"


@area("image row", "image original", "image decode")
async def check_image(installation: Installation) -> Findings:
    """Read a row, open its file and decode every pixel; sets ``installation.media``."""
    media_id = installation.media_id or 0
    # Raises DatabaseUnavailable if there is no database, which ends the area.
    async with installation.rows() as rows:
        media = installation.media = await rows.find(media_id)
    if media is None:
        advice = (
            "is the id correct, and does database.url name the right database? 'smartserve import'"
            " prints ids, and 'smartserve adopt' those of an existing library"
        )
        yield fail(f"media_files has no row with id {media_id}", advice)
        return
    yield judge_row(media)
    if without_keys(installation.settings).is_private(media):
        installation.media = None
    path, error = await open_first(installation.sources, media)
    yield await check_original(installation, media, path, error)
    yield await check_decode(installation, path) if path else skip("there is no file to decode")


def judge_row(media: Media) -> Finding:
    """Report a row that is not served because of its status or its paths."""
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


async def check_original(
    installation: Installation, media: Media, opened: str, error: SourceError | None
) -> Finding:
    """Report a file that cannot be opened: ``error`` is that of the row's first path."""
    root, path = installation.settings.storage_root, media.source_path
    if path is None:
        return skip("the row names no file")
    if error is None:
        return ok(f"{opened} below {root}")
    text = f"{path} below {root}: {error.detail}"
    # The processed file is served in place of the original.
    if opened:
        return warn(f"{text}; {opened} is used", "restore the original at bulk_path")
    hint = await asyncio.to_thread(find_setting, root, path)
    return fail(text, f"set {hint}, and restart" if hint else "restore the file there")


async def check_decode(installation: Installation, path: str) -> Finding:
    """Report a file that a worker cannot decode completely."""
    # strict: serving shows the intact part of a truncated file, here it is a fault.
    job = ProbeJob(installation.settings.limits.to_limits(), strict=True)
    try:
        with await installation.sources.open(path) as source:
            async with installation.worker() as pool:
                decoded = await pool.run(job, source.descriptor)
    except SmartserveError as error:
        advice = (text for kind, text in _DECODE_ADVICE.items() if isinstance(error, kind))
        return fail(error.detail, next(advice, "see the checks of the worker"))
    frames = f", {decoded.pages} frames" if decoded.pages > 1 else ""
    alpha = ", transparent" if decoded.has_alpha else ""
    size = f"{decoded.width}x{decoded.height} {decoded.source_type}"
    return ok(f"{size}{frames}{alpha}, decoded completely")


async def open_first(sources: OriginalReader, media: Media) -> tuple[str, SourceError | None]:
    """Return the first path of a row that can be opened, as the server does, or an empty string.

    The error is that of the first path that cannot be opened.
    """
    first: SourceError | None = None
    for path in media.source_paths:
        try:
            # Opens a file, and requests an object without its bytes.
            await sources.byte_size(path)
        except SourceTooLarge:
            # The file exists; its size is a matter of the limits.
            return path, first
        except SourceError as error:
            first = first or error
        else:
            return path, first
    return "", first


def find_setting(root: Path, path: str) -> str:
    """Search near the root for a row's file; return the setting to change, or an empty string."""
    # As the server reads paths: dots and empty parts have no meaning.
    names = [name for name in path.split("/") if name not in ("", ".", "..")]
    if path.startswith("/"):
        for skipped in range(1, len(names)):
            if (root / "/".join(names[skipped:])).is_file():
                return f'storage.strip_prefix = "/{"/".join(names[:skipped])}"'
    # The root may be one level too deep, too high, or beside the right folder.
    children, siblings = (islice(one.glob("*/"), _MAX_FOLDERS) for one in (root, root.parent))
    for folder in (root.parent, *children, *siblings) if names else ():
        if (folder / "/".join(names)).is_file():
            return f'storage.root = "{folder}"'
    return ""
