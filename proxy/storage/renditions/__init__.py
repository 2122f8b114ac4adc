"""Rendition stores: in memory, on disk, and both as two tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from proxy.domain.variant import Shapes, Variant


class Rendition(Protocol):
    """The bytes that answer a variant, in memory or in an open file."""

    @property
    def length(self) -> int:
        """Number of bytes of the whole rendition."""

    @property
    def tier(self) -> str:
        """Where it was found: ``memory`` or ``disk``."""

    @property
    def body(self) -> bytes | None:
        """All bytes if they are in memory; None if `chunks` reads them from a file."""

    @property
    def head(self) -> bytes:
        """The first bytes, enough to detect the format."""

    def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces of at most 256 KiB."""

    def close(self) -> None:
        """Close the file; further calls do nothing. The caller of `RenditionStore.get` closes."""


class RenditionWriter(Protocol):
    """Receives the bytes of a rendition that is being written to a store."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes. If the store fails, this does nothing; it never raises."""


class RenditionStore(Protocol):
    """Stores renditions. A failing store is a miss or a dropped write, counted, never an error.

    Only a purge raises, because its caller must know whether it was done.
    """

    async def get(self, variant: Variant) -> Rendition | None:
        """Return the complete, verified rendition, or None. The caller closes it."""

    async def first(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        """Return the first of several variants that `get` finds, most wanted first, or None."""

    def writer(self, variant: Variant) -> AbstractAsyncContextManager[RenditionWriter]:
        """Write a rendition; it is stored only if the block ends without an error."""

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium that `get` would probably find; counts as no use."""

    async def delete(self, variant: Variant) -> None:
        """Delete one rendition that another one has replaced."""

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete the renditions of a medium, in these shapes or in all; return their number.

        Raises:
            proxy.domain.errors.StorageError: some renditions may still exist, or other processes
                were not notified.
        """

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """Return for each tier bytes, items, hits, misses, evictions, failures and others."""
