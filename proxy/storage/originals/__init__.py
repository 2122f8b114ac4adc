"""Originals: the uploaded files, opened by descriptor, by the path in their rows."""

from collections.abc import Mapping
from typing import Protocol

from proxy.storage.originals.local_store import OpenSource, ReadableOriginal


class OriginalReader(Protocol):
    """Opens the originals of one kind of path.

    All methods but `statistics` and `aclose` raise the errors of `LocalOriginals.open`. A source
    may be a copy in memory: open it only behind an admission, and close it soon.
    """

    async def open(self, path: str) -> OpenSource:
        """Open an original by its path in the database; the caller closes it."""
        ...

    async def byte_size(self, path: str) -> int:
        """Return the size of an original without its bytes."""
        ...

    def statistics(self) -> Mapping[str, float]:
        """Return the number of opened originals, and of failures as ``failures_<kind>``."""
        ...

    async def aclose(self) -> None:
        """Reject further calls."""
        ...


class Originals(OriginalReader, Protocol):
    """Opens the originals of all rows."""

    async def open_file(self, path: str) -> ReadableOriginal:
        """Open an original to read it in pieces; the caller closes it."""
        ...

    async def check(self) -> None:
        """Return if the directory of originals can be listed."""
        ...
