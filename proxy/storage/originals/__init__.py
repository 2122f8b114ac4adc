"""Sources: the original bytes of media, opened by descriptor below one root."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OpenSource:
    """An open source: a readable descriptor at its beginning, and how long the file is."""

    descriptor: int
    byte_size: int


class SourceStore(Protocol):
    """Where originals are."""

    def open(self, path: str) -> AbstractAsyncContextManager[OpenSource]:
        """Open a source for the length of a block, by its path in the database.

        Raises:
            SourceMissing: there is no such regular file below the root.
            SourceTooLarge: the file is longer than an original may be.
            SourceUnavailable: the storage itself cannot be read.
            SourceTimeout: the storage did not answer in time.
        """

    async def check(self) -> None:
        """Return when the storage can be read; raises as `open` does."""


class OriginalStore(Protocol):
    """Where new originals go."""

    async def add(self, path: str, source: int | Path) -> bool:
        """Copy a file below the root, durably; False where one of that name is there."""

    async def remove(self, path: str) -> bool:
        """Take an original away again; False where there is none."""
