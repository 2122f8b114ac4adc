"""Renditions in memory, bounded by bytes; a hit costs no thread and no file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cachetools import LRUCache

from proxy.domain.formats import SNIFF_BYTES
from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.settings import RenditionSettings
from proxy.storage.renditions.counters import StoreCounters
from proxy.storage.renditions.write_tickets import WriteRegistry

PIECE_BYTES = 256 * 1024
"""The largest piece that a rendition is given in."""

_OVERHEAD_BYTES = 512
"""What an item costs beside its body (its objects and its places in two dicts), so that a flood
of tiny renditions is bounded too."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class MemoryRendition:
    """A whole rendition in memory; closing it does nothing.

    A weak reference to it ends when the store has let it go and nobody is sending it.
    """

    body: bytes
    tier: str = "memory"

    @property
    def length(self) -> int:
        """Bytes of the whole rendition."""
        return len(self.body)

    @property
    def head(self) -> bytes:
        """Its first bytes, enough to tell its format by."""
        return self.body[:SNIFF_BYTES]

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``stop``, in pieces of at most 256 KiB."""
        for offset in range(start, stop, PIECE_BYTES):
            yield self.body[offset : min(offset + PIECE_BYTES, stop)]

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, slots=True)
class _Item:
    media_id: int
    rendition: MemoryRendition


def _cost(item: _Item) -> int:
    return item.rendition.length + _OVERHEAD_BYTES


class _Items(LRUCache[str, _Item]):
    """The LRU by bytes, that tells what it drops for want of room."""

    def __init__(self, max_bytes: int, on_evict: Callable[[str, _Item], None]) -> None:
        super().__init__(max_bytes, getsizeof=_cost)
        self._on_evict = on_evict

    def popitem(self) -> tuple[str, _Item]:
        digest, item = super().popitem()
        self._on_evict(digest, item)
        return digest, item


class MemoryStore:
    """A `RenditionStore` in the memory of this process; to be used on the loop only.

    Its bytes are bodies and what keeping them costs.
    """

    def __init__(self, settings: RenditionSettings) -> None:
        self._max_item_bytes = min(
            settings.memory_max_item_bytes, settings.memory_max_bytes - _OVERHEAD_BYTES
        )
        self._items = _Items(settings.memory_max_bytes, self._evicted)
        self._digests: dict[int, set[str]] = {}
        self._underway = WriteRegistry()
        self._counters = StoreCounters()

    def __contains__(self, digest: str) -> bool:
        """Whether a rendition is here; no use of it, and safe from any thread."""
        return digest in self._items

    def peek(self, digest: str) -> MemoryRendition | None:
        """The rendition at once, or None; only a hit is counted."""
        item = self._items.get(digest)
        if item is None:
            return None
        self._counters.hits += 1
        return item.rendition

    def hit(self) -> None:
        """Count a hit of one who holds a weak reference and needs no look-up."""
        self._counters.hits += 1

    async def get(self, variant: Variant) -> MemoryRendition | None:
        """The rendition or None; never waits."""
        rendition = self.peek(variant.digest)
        if rendition is None:
            self._counters.misses += 1
        return rendition

    async def contains(self, variant: Variant) -> bool:
        """Whether `get` would have it; no use of it."""
        return variant.digest in self

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Digests of the variants of a medium that are here; no use of them."""
        return frozenset(self._digests.get(media_id, ()))

    def fits(self, length: int) -> bool:
        """Whether a rendition of so many bytes would be kept; an empty one is not."""
        return 0 < length <= self._max_item_bytes

    def put(self, variant: Variant, body: bytes) -> None:
        """Keep a rendition, in place of the least recently used.

        One that does not fit is not kept, and neither is what it would have replaced.
        """
        if not self.fits(len(body)):
            self._discard(variant)
            return
        self._items[variant.digest] = _Item(variant.media_id, MemoryRendition(body))
        self._digests.setdefault(variant.media_id, set()).add(variant.digest)
        self._counters.writes += 1

    @asynccontextmanager
    async def writer(self, variant: Variant) -> AsyncIterator[MemoryWriter]:
        """Take in a rendition as it is made; it is kept only if the block ends without error."""
        with self._underway.ticket(variant) as ticket:
            writer = MemoryWriter(self.fits)
            yield writer
            if not ticket.void:
                self.put(variant, writer.body())

    async def drop(self, variant: Variant) -> None:
        """Let go of one rendition, if it is here."""
        self._discard(variant)

    def forget(self, media_id: int, shapes: Shapes = None) -> int:
        """Purge at once: renditions of a medium, those being written too."""
        self._underway.purge(media_id, shapes)
        held = self._digests.get(media_id, ())
        digests = [digest for digest in held if has_shape(digest, shapes)]
        for digest in digests:
            self._items.pop(digest)
            self._unlist(digest, media_id)
        return len(digests)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """As `forget`."""
        return self.forget(media_id, shapes)

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """The counts of the one tier ``memory``."""
        usage = {"bytes": self._items.currsize, "items": len(self._items)}
        return {"memory": {**usage, **self._counters.flat()}}

    def _discard(self, variant: Variant) -> None:
        if self._items.pop(variant.digest, None) is not None:
            self._unlist(variant.digest, variant.media_id)

    def _evicted(self, digest: str, item: _Item) -> None:
        self._counters.evictions += 1
        self._unlist(digest, item.media_id)

    def _unlist(self, digest: str, media_id: int) -> None:
        digests = self._digests[media_id]
        digests.discard(digest)
        if not digests:
            del self._digests[media_id]


class MemoryWriter:
    """A rendition on its way into memory; what does not fit is let go of as soon as that shows."""

    def __init__(self, fits: Callable[[int], bool]) -> None:
        self._fits = fits
        self._pieces: list[bytes] = []
        self._length = 0

    async def write(self, chunk: bytes) -> None:
        """Append bytes; never waits."""
        self._length += len(chunk)
        if self._fits(self._length):
            self._pieces.append(chunk)
        else:
            self._pieces.clear()

    def body(self) -> bytes:
        """All that was written, or nothing where that does not fit."""
        return b"".join(self._pieces)
