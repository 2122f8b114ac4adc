"""Checks of the originals: the storage root, and whether the newest rows have their files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from proxy.doctor.check import CheckBlocked, Finding, fail, ok, skip, warn
from proxy.doctor.formatting import counted
from proxy.doctor.installation import Installation
from proxy.domain.errors import (
    DatabaseUnavailable,
    SourceError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.storage.originals.local_store import LocalOriginals

_SAMPLE = 20
"""Number of rows to check, the newest ones."""
_SHOWN = 5
_MAX_FOLDERS = 100


@dataclass(frozen=True, slots=True)
class OriginalsSample:
    """The state of the storage root and of the files of the newest rows."""

    root: Path
    empty: bool
    outcomes: Sequence[tuple[Media, SourceError | None]] | None
    """The newest rows and why their file cannot be opened; None if there is no database."""
    hint: str = ""
    """The setting that would make the missing files found."""

    def ids(self, *, missing: bool) -> list[int]:
        """Return the ids of rows whose file is missing, or whose file cannot be read."""
        return [
            media.id
            for media, error in self.outcomes or ()
            if error is not None and isinstance(error, SourceMissing) is missing
        ]


async def inspect(installation: Installation) -> OriginalsSample:
    """Open the files of the newest rows without reading them; sets ``installation.media``."""
    root, sources = installation.settings.storage_root, installation.sources
    try:
        await sources.check()
    except SourceTimeout as error:
        # The thread that hangs in the kernel cannot be cancelled; it ends with the process.
        advice = "the network file system hangs: check its server, or mount it again"
        raise CheckBlocked(fail(f"{root} does not answer in time", advice)) from error
    except SourceUnavailable as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else error.detail
        advice = "mount the storage, or set storage.root; the server's user must be able to list it"
        raise CheckBlocked(fail(f"{root}: {reason}", advice)) from error
    # An empty root usually is the mount point of a file system that is not mounted.
    empty = not await asyncio.to_thread(os.listdir, root)
    try:
        async with installation.rows() as rows:
            newest = await rows.newest(before=MAX_MEDIA_ID, limit=_SAMPLE)
    except DatabaseUnavailable:
        # The area of the database has reported it.
        return OriginalsSample(root, empty, None)
    outcomes = [(media, await _open(sources, media)) for media in newest]
    found = [media for media, error in outcomes if error is None]
    installation.media = found[0] if found else None
    missing = [media for media, error in outcomes if isinstance(error, SourceMissing)]
    # If some files are found, the root is right and the others are lost.
    path = missing[0].source_path if missing and not found else None
    return OriginalsSample(root, empty, outcomes, await find_setting(root, path or ""))


async def _open(sources: LocalOriginals, media: Media) -> SourceError | None:
    """Return None if one of the row's files can be opened, otherwise the first error."""
    first: SourceError | None = None
    for path in media.source_paths:
        try:
            async with sources.open(path):
                return None
        except SourceTooLarge:
            # The file exists; its size is a matter of the limits.
            return None
        except SourceError as error:
            first = first or error
    return first


def check_root(sample: OriginalsSample) -> Finding:
    """Report a root that is empty although the database has rows."""
    if not sample.empty:
        return ok(f"{sample.root} can be read")
    if sample.outcomes is not None and not sample.outcomes:
        return ok(f"{sample.root} and the database are empty: 'smartserve import' adds images")
    advice = "usually it is not mounted: mount it, or set storage.root to the folder of originals"
    return fail(f"{sample.root} is empty", advice)


def check_newest(sample: OriginalsSample) -> Finding:
    """Report rows whose file is missing or cannot be read."""
    if sample.outcomes is None:
        return skip("the database cannot be queried")
    count = len(sample.outcomes)
    if not count:
        return skip("the database has no images")
    missing, unreadable = sample.ids(missing=True), sample.ids(missing=False)
    # Worse than missing: permissions or the disk, which affect all other files too.
    if unreadable:
        advice = "let the server's user read them (chown, chmod a+r); otherwise the disk is failing"
        return fail(f"cannot be opened: {_listed(unreadable, count)}", advice)
    if not missing:
        return ok(f"the newest {counted(count, 'row')} have their files")
    text = f"files are missing: {_listed(missing, count)}"
    if len(missing) < count:
        return warn(text, "restore the originals at bulk_path; no restart is needed")
    setting = f"set {sample.hint}, and restart" if sample.hint else "check storage.strip_prefix"
    return fail(text, f"storage.root is not the folder that the rows refer to: {setting}")


def _listed(ids: Sequence[int], count: int) -> str:
    shown = ", ".join(map(str, ids[:_SHOWN])) + (", ..." if len(ids) > _SHOWN else "")
    return f"{len(ids)} of the newest {count} ({shown})"


async def find_setting(root: Path, path: str) -> str:
    """Search near the root for a row's file; return the setting to change, or an empty string."""
    return await asyncio.to_thread(_find_setting, root, path)


def _find_setting(root: Path, path: str) -> str:
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
