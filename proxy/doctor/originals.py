"""The originals: the root is there, and is the one that the rows speak of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor import CheckBlocked, Diagnosis, failed, skipped, warned, well
from proxy.doctor.figures import counted
from proxy.domain.errors import (
    DatabaseUnavailable,
    SourceError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.settings import Settings
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals import SourceStore

SAMPLE = 20
"""Rows whose files are looked for, the newest ones."""
_SHOWN = 5
_MAX_BESIDE = 100


@dataclass(frozen=True, slots=True)
class OriginalsFacts:
    """What was seen of the originals."""

    root: Path
    empty: bool
    known: bool
    """Whether the database could be asked for rows."""
    there: tuple[Media, ...]
    """Of the newest rows those whose file can be opened, the newest first."""
    missing: tuple[int, ...]
    closed: tuple[int, ...]
    """Ids of rows whose file cannot be read: no right, or an error of the disk."""
    hint: str = ""
    """Where the missing ones are, if they were found elsewhere."""

    @property
    def asked(self) -> int:
        """How many rows were looked at."""
        return len(self.there) + len(self.missing) + len(self.closed)


async def look(
    settings: Settings, sources: SourceStore, listing: SqlMediaRepository | None
) -> OriginalsFacts:
    """Look at the root, and for the files of the newest rows; reads no byte of them."""
    root = settings.storage_root
    try:
        await sources.check()
    except SourceTimeout as error:
        advice = "the network file system hangs: look at its server, or mount it anew"
        raise CheckBlocked(failed(f"{root} does not answer in time", advice)) from error
    except SourceUnavailable as error:
        raise CheckBlocked(_unavailable(root, error)) from error
    empty = not await asyncio.to_thread(_has_entry, root)
    rows, known = await _newest(listing)
    outcomes = [(media, await _outcome(sources, media)) for media in rows]
    missing = [media for media, outcome in outcomes if outcome is SourceMissing]
    found = tuple(media for media, outcome in outcomes if outcome is None)
    lost = bool(missing) and not found
    return OriginalsFacts(
        root,
        empty=empty,
        known=known,
        there=found,
        missing=tuple(media.id for media in missing),
        closed=tuple(media.id for media, kind in outcomes if kind not in (None, SourceMissing)),
        hint=await hint(root, missing[0].source_path or "") if lost else "",
    )


def _unavailable(root: Path, error: SourceUnavailable) -> Diagnosis:
    cause = error.__cause__
    reason = cause.strerror if isinstance(cause, OSError) else error.detail
    advice = (
        "mount the storage, or name the folder in storage.root; the server's user has to be"
        " able to list it"
    )
    return failed(f"{root}: {reason}", advice)


def _has_entry(root: Path) -> bool:
    with os.scandir(root) as entries:
        return next(entries, None) is not None


async def _newest(listing: SqlMediaRepository | None) -> tuple[Sequence[Media], bool]:
    if listing is None:
        return (), False
    try:
        return await listing.newest(before=MAX_MEDIA_ID, limit=SAMPLE), True
    except DatabaseUnavailable:
        return (), False


async def _outcome(sources: SourceStore, media: Media) -> type[SourceError] | None:
    """None where one of the row's files can be opened, else what the first of them says."""
    first: type[SourceError] | None = None
    for path in media.source_paths:
        try:
            async with sources.open(path):
                return None
        except SourceTooLarge:
            return None
        except SourceError as error:
            first = first or type(error)
    return first


async def hint(root: Path, path: str) -> str:
    """What to set so that the file of a row is found; empty where it is nowhere near."""
    return await asyncio.to_thread(_elsewhere, root, path)


def _elsewhere(root: Path, path: str) -> str:
    names = [name for name in path.split("/") if name not in ("", ".", "..")]
    below = "/".join(names)
    if not below:
        return ""
    if path.startswith("/"):
        for skip in range(1, len(names)):
            if (root / "/".join(names[skip:])).is_file():
                return f'storage.strip_prefix = "/{"/".join(names[:skip])}"'
        if Path(path).is_file():
            return f"storage.root: the rows name files such as {path}, which are there"
    for beside in _beside(root):
        if (beside / below).is_file():
            return f'storage.root = "{beside}"'
    for skip in range(1, len(names)):
        if (root / "/".join(names[skip:])).is_file():
            return f"storage.root: a folder that holds {names[0]}/, as the rows name it"
    return ""


def _beside(root: Path) -> Iterator[Path]:
    """Folders that may be meant: above the root, in it, and beside it."""
    yield root.parent
    for folder in (root, root.parent):
        with suppress(OSError), os.scandir(folder) as entries:
            for _, entry in zip(range(_MAX_BESIDE), entries, strict=False):
                if entry.is_dir():
                    yield Path(entry.path)


def judge_root(seen: OriginalsFacts) -> Diagnosis:
    """Whether something is in the root."""
    if not seen.empty:
        return well(f"{seen.root} can be read")
    if seen.known and not seen.asked:
        return well(f"{seen.root} is empty, and so is the database: 'smartserve import' fills both")
    advice = (
        "it is not mounted, as a rule: mount it, or name the folder that has the originals in"
        " storage.root"
    )
    return failed(f"{seen.root} is empty", advice)


def judge_files(seen: OriginalsFacts) -> Diagnosis:
    """Whether the newest rows have their files."""
    if not seen.known:
        return skipped("the database cannot be asked for rows")
    if not seen.asked:
        return skipped("no picture is in the database")
    if seen.closed:
        advice = "let the server's user read them: chown, or chmod a+r; else the disk is failing"
        told = f"{_of(seen, seen.closed)} cannot be opened"
        return failed(told, advice)
    told = f"{_of(seen, seen.missing)} have no file"
    if seen.missing and not seen.there:
        set_ = f"set {seen.hint}, and restart" if seen.hint else "see storage.root and strip_prefix"
        return failed(told, f"the root is not the one that the rows speak of: {set_}")
    if seen.missing:
        return warned(told, "put the originals back where bulk_path says; nothing is restarted")
    return well(f"the newest {counted(seen.asked, 'row')} have their files")


def _of(seen: OriginalsFacts, ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:_SHOWN])) + (", ..." if len(ids) > _SHOWN else "")
    return f"{len(ids)} of the newest {seen.asked} ({shown})"
