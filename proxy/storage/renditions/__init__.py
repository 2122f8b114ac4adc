"""Rendition stores: encoded pictures by their variant, in memory, on disk, and both in tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from proxy.domain.variant import Shapes, Variant


class Rendition(Protocol):
    """The bytes that answer a variant, either in memory or in an open file."""

    @property
    def length(self) -> int:
        """Bytes of the whole rendition."""

    @property
    def tier(self) -> str:
        """Where it was found: ``memory`` or ``disk``."""

    @property
    def body(self) -> bytes | None:
        """The whole of it where it is in memory, else None: then `chunks` reads its file."""

    @property
    def head(self) -> bytes:
        """Its first bytes, enough to tell its format by."""

    def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``stop``, in pieces of at most 256 KiB."""

    def close(self) -> None:
        """Let go of the file; further calls do nothing. Whoever got the rendition closes it."""


class RenditionWriter(Protocol):
    """A rendition on its way into a store."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes; a failing store makes this do nothing, never raise."""


class RenditionStore(Protocol):
    """Keeps renditions. A failing store is a miss or a dropped write, counted, never an error.

    A purge alone raises, for who orders it has to know whether it was done.
    """

    async def get(self, variant: Variant) -> Rendition | None:
        """The whole, checked rendition, or None. The caller closes it."""

    def writer(self, variant: Variant) -> AbstractAsyncContextManager[RenditionWriter]:
        """Take in a rendition as it is made; it is kept only if the block ends without error."""

    async def contains(self, variant: Variant) -> bool:
        """Whether `get` would probably have it; that is no use of it."""

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Digests of the variants of a medium that `get` would probably have; no use of them."""

    async def drop(self, variant: Variant) -> None:
        """Let go of one rendition, which another has replaced."""

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Drop renditions of a medium, of these shapes or all; gives how many were dropped.

        Raises:
            proxy.domain.errors.StorageError: some may still be there, or others have not been told.
        """

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """For each tier: bytes, items, hits, misses, evictions, failures and the like."""
