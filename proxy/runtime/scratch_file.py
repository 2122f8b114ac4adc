"""Nameless files in the file system of the originals: a killed process leaves nothing behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from proxy.domain.errors import SourceUnavailable
from proxy.runtime.daemon_thread import aside

_MODE = 0o644


@asynccontextmanager
async def scratch_file(folder: Path) -> AsyncIterator[BinaryIO]:
    """Yield an empty, unbuffered file for reading and writing, and close it after the block.

    It disappears when it is closed, unless `LocalSources.add` has given it a name.

    Raises:
        SourceUnavailable: no file can be created in the folder.
    """
    file = await aside(lambda: _open(folder), release=lambda late: late.close())
    try:
        yield file
    finally:
        await aside(file.close)


def _open(folder: Path) -> BinaryIO:
    try:
        try:
            # Not with O_EXCL, which `tempfile` adds: such a file could not be linked later.
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _MODE)
        except OSError:
            # Some file systems, for example NFS, have no O_TMPFILE. The original is then a copy.
            return tempfile.TemporaryFile(dir=folder, buffering=0)
        return os.fdopen(descriptor, "w+b", buffering=0)
    except OSError as error:
        raise SourceUnavailable("The storage of originals cannot be written.") from error


def fill(file: BinaryIO, content: bytes) -> None:
    """Write ``content`` and seek to the beginning. Blocking.

    Raises:
        SourceUnavailable: the file system is full or fails.
    """
    rest = memoryview(content)
    try:
        # An unbuffered file may write less than it is given.
        while rest:
            rest = rest[file.write(rest) :]
        file.seek(0)
    except OSError as error:
        raise SourceUnavailable("The storage of originals cannot be written.") from error
