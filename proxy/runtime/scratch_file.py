"""Scratch files: in the storage's file system, without a name, so that a kill leaves none."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from proxy.domain.errors import SourceUnavailable
from proxy.runtime.daemon_thread import aside


@asynccontextmanager
async def scratch_file(folder: Path) -> AsyncIterator[BinaryIO]:
    """An empty file for reading and writing; it is gone with the block.

    Raises:
        SourceUnavailable: the folder cannot be written.
    """
    file = await aside(lambda: _open(folder), release=lambda late: late.close())
    try:
        yield file
    finally:
        await aside(file.close)


def _open(folder: Path) -> BinaryIO:
    try:
        # Unbuffered: what is written is there for whoever reads the descriptor.
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise SourceUnavailable("the storage of originals cannot be written now") from error


def fill(file: BinaryIO, content: bytes) -> None:
    """Write all of some bytes, however few an unbuffered file takes at a time, and go back.

    Blocking.

    Raises:
        SourceUnavailable: there is no room for them.
    """
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
        file.seek(0)
    except OSError as error:
        raise SourceUnavailable("the storage of originals cannot be written now") from error
