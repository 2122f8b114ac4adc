"""Keeps in the rendition directory what must survive a restart of purges.

These are the purges that the database has not accepted yet, one file each, and the time until which
the purges of other servers are applied to the directory. Processes that share the directory share
both. All methods block, and any process and thread may call them at any time.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import astuple
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import structlog

from proxy.domain.variant import Fit, Gravity, PurgeEntry, SizeSpec
from proxy.runtime.tempfiles import TempFile
from proxy.storage.renditions.disk_state import RenditionPaths

log = structlog.get_logger(__name__)


class UserPurge(NamedTuple):
    """A purge of all media of a user, in these boxes or in all sizes.

    It is kept if the database could not list the media.
    """

    user_id: int
    boxes: tuple[SizeSpec, ...] = ()


class JournalKey(NamedTuple):
    """Identifies a file. The same purge, added again, has the same name and another time."""

    name: str
    modified_ns: int


class PurgeJournal:
    """The files of one rendition directory."""

    def __init__(self, root: str) -> None:
        self._paths = RenditionPaths(root)
        self._folder = Path(self._paths.unrecorded)

    def add(self, purge: PurgeEntry | UserPurge) -> JournalKey:
        """Keep a purge durably; a purge that is kept already gets a new time.

        Raises:
            OSError: it is not kept.
        """
        text = _encode(purge)
        # Named by its content, so that repeated purges do not accumulate while the database fails.
        name = blake2b(text, digest_size=16).hexdigest()
        self._write(self._folder / name, text)
        return JournalKey(name, (self._folder / name).stat().st_mtime_ns)

    def read(self) -> dict[JournalKey, PurgeEntry | UserPurge]:
        """Return all kept purges; raises OSError. A file that cannot be parsed is deleted."""
        kept = {}
        with suppress(FileNotFoundError), os.scandir(self._folder) as files:
            for file in files:
                # Another process may have recorded it meanwhile.
                with suppress(FileNotFoundError):
                    key = JournalKey(file.name, file.stat(follow_symlinks=False).st_mtime_ns)
                    try:
                        kept[key] = _decode(Path(file).read_bytes())
                    except (ValueError, KeyError, TypeError) as error:
                        # Files are renamed when they are complete: the disk has damaged it.
                        log.error("purge_entry_damaged", file=file.name, cause=repr(error))  # noqa: TRY400
                        Path(file).unlink()
        return kept

    def remove(self, key: JournalKey) -> None:
        """Remove a purge, unless it was added again since `key` was read; raises OSError."""
        file = self._folder / key.name
        with suppress(FileNotFoundError):
            if file.stat().st_mtime_ns == key.modified_ns:
                file.unlink()

    def position(self) -> float | None:
        """Return the time until which purges are applied, 0 if unknown; raises OSError.

        Return None if the directory has no renditions that a purge could concern.
        """
        try:
            return float(Path(self._paths.purged_until).read_bytes())
        except (FileNotFoundError, ValueError):
            shards = Path(self._paths.root).glob("[0-9a-f][0-9a-f]")
            return 0.0 if next(shards, None) is not None else None

    def set_position(self, until: float) -> None:
        """Store the time until which purges are applied; raises OSError."""
        self._write(Path(self._paths.purged_until), repr(until).encode())

    def _write(self, path: Path, text: bytes) -> None:
        temporary = Path(self._paths.temporary)
        for folder in (path.parent, temporary):
            folder.mkdir(parents=True, exist_ok=True)
        with TempFile(str(temporary)) as file:
            os.write(file.descriptor, text)
            os.fsync(file.descriptor)
            file.replace(str(path))


def _encode(purge: PurgeEntry | UserPurge) -> bytes:
    if isinstance(purge, UserPurge):
        content: dict[str, object] = {
            "user": purge.user_id,
            "boxes": [astuple(box) for box in purge.boxes],
        }
    else:
        shapes = None if purge.shapes is None else sorted(purge.shapes)
        content = {"media": purge.media_id, "shapes": shapes}
    return json.dumps(content).encode()


def _decode(text: bytes) -> PurgeEntry | UserPurge:
    content = json.loads(text)
    if "user" in content:
        boxes = [
            SizeSpec(name, width, height, Fit(fit), Gravity(gravity))
            for name, width, height, fit, gravity in content["boxes"]
        ]
        return UserPurge(content["user"], tuple(boxes))
    shapes = content["shapes"]
    return PurgeEntry(content["media"], None if shapes is None else frozenset(shapes))
